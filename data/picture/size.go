package picture

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Size is that of pictures or crops, in pixels. As text, and in JSON and YAML, it is the side of a square, or
// HEIGHTxWIDTH.
type Size struct{ Height, Width int }

// Square is the size of squares.
func Square(side int) Size { return Size{side, side} }

// ParseSize reads text as [Size.String] writes it. It takes positive sides alone; the error says what is wanted,
// not of what.
func ParseSize(text string) (Size, error) {
	height, width, both := strings.Cut(text, "x")
	if !both {
		width = height
	}
	h, errH := strconv.Atoi(height)
	w, errW := strconv.Atoi(width)
	if errH != nil || errW != nil || h < 1 || w < 1 {
		return Size{}, errors.New("want pixels a side, as in 256, or height and width, as in 256x384")
	}
	return Size{h, w}, nil
}

func (s Size) String() string {
	if s.Height == s.Width {
		return strconv.Itoa(s.Height)
	}
	return fmt.Sprintf("%dx%d", s.Height, s.Width)
}

// Pixels is the number of them.
func (s Size) Pixels() int { return s.Height * s.Width }

// maxCropSize keeps the arithmetic far from overflow; DiT uses 256 and 512.
const maxCropSize = 1 << 14

// Validate returns an error where crops cannot be of this size.
func (s Size) Validate() error {
	for _, side := range []int{s.Height, s.Width} {
		if side < 1 || side > maxCropSize {
			return fmt.Errorf("image size %s: want 1 to %d a side", s, maxCropSize)
		}
	}
	return nil
}

func (s Size) plain() any {
	if s.Height == s.Width {
		return s.Height
	}
	return s.String()
}

func (s Size) MarshalJSON() ([]byte, error) { return json.Marshal(s.plain()) }

func (s Size) MarshalYAML() (any, error) { return s.plain(), nil }

func (s *Size) UnmarshalJSON(text []byte) (err error) {
	side := 0
	if json.Unmarshal(text, &side) == nil {
		*s = Square(side)
		return nil
	}
	var sides string
	if err := json.Unmarshal(text, &sides); err != nil {
		return fmt.Errorf("size %s: want a number, or text such as \"256x384\"", text)
	}
	if *s, err = ParseSize(sides); err != nil {
		return fmt.Errorf("size %s: %w", text, err)
	}
	return nil
}
