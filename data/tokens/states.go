package tokens

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// States are captions that another program has encoded. They are an [Encoder] for the captions they hold.
type States struct {
	file  *checkpoint.File
	info  EncoderInfo
	dtype checkpoint.DType
	row   map[string]int
	count []int32
}

// OpenStates opens a safetensors file with the tensors states [U, L, W], F16 or F32, and lengths I32 [U], the
// number of tokens of each caption, 1 to L. Its metadata are encoder, the name of what made them, and captions, a
// JSON array of the U texts, of which the first is "". Texts are compared with those of the data set as they are,
// see [WriteCaptions].
func OpenStates(path string) (*States, error) {
	f, err := checkpoint.OpenSafetensors(path)
	if err != nil {
		return nil, err
	}
	t := &States{file: f}
	if err := t.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	if t.info.SHA256, err = disk.SHA256(path); err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

func (t *States) read() error {
	states, _, err := findStates(t.file, 0, 0)
	if err != nil {
		return err
	}
	if states.DType != checkpoint.F16 && states.DType != checkpoint.F32 {
		return fmt.Errorf("%s: %s, want F16 or F32", tensorStates, states.DType)
	}
	meta := t.file.Metadata()
	if meta["encoder"] == "" {
		return errors.New(`metadata lacks "encoder", the name of what made the states`)
	}
	t.dtype = states.DType
	t.info = EncoderInfo{Name: meta["encoder"], Length: int(states.Shape[1]), Width: int(states.Shape[2])}
	if err := t.info.checkShape(); err != nil {
		return err
	}
	var texts []string
	if err := json.Unmarshal([]byte(meta["captions"]), &texts); err != nil {
		return fmt.Errorf(`metadata "captions": want a JSON array of texts: %w`, err)
	}
	if int64(len(texts)) != states.Shape[0] {
		return fmt.Errorf(`metadata "captions": %s for %s of states`, names.Plural(len(texts), "text"),
			names.Plural(int(states.Shape[0]), "row"))
	}
	if len(texts) == 0 || texts[0] != "" {
		return errors.New(`metadata "captions": the first is the empty one, "", which stands for no caption`)
	}
	t.row = make(map[string]int, len(texts))
	for i, text := range texts {
		if first, ok := t.row[text]; ok {
			return fmt.Errorf(`metadata "captions": %.100q twice, rows %d and %d`, text, first, i)
		}
		t.row[text] = i
	}
	for i, text := range texts {
		if text = names.Canonical(text); !t.has(text) {
			t.row[text] = i
		}
	}
	t.count, err = readLengths(t.file, t.info.Length)
	return err
}

func (t *States) has(text string) bool {
	_, ok := t.row[text]
	return ok
}

// find returns the row of a text as it is, or of the same text in another form of Unicode, -1 if there is none.
func (t *States) find(text string) int {
	for _, form := range []string{text, names.Canonical(text)} {
		if row, ok := t.row[form]; ok {
			return row
		}
	}
	return -1
}

// Check returns an error that names the first of texts which are not in the file.
func (t *States) Check(texts []string) error {
	const show = 5
	var missing []string
	n := 0
	for _, text := range texts {
		if t.find(text) >= 0 {
			continue
		}
		if n++; n <= show {
			missing = append(missing, fmt.Sprintf("%.200q", text))
		}
	}
	if n == 0 {
		return nil
	}
	if n > show {
		missing = append(missing, "...")
	}
	return fmt.Errorf("%s lacks %d of %s: %s: encode those that `encode-latents --captions` lists", t.file.Path(), n,
		names.Plural(len(texts), "caption"), strings.Join(missing, ", "))
}

// Info describes the states; the SHA-256 is that of the file.
func (t *States) Info() EncoderInfo { return t.info }

// Encode looks up texts; see [Encoder].
func (t *States) Encode(texts []string, states []float32, lengths []int32) error {
	if err := t.Check(texts); err != nil {
		return err
	}
	n := t.info.Length * t.info.Width
	size := n * t.dtype.Size()
	buf := make([]byte, size)
	for i, text := range texts {
		row := t.find(text)
		if err := t.file.ReadAt(buf, tensorStates, int64(row)*int64(size)); err != nil {
			return err
		}
		lengths[i] = t.count[row]
		dst := states[i*n : (i+1)*n]
		for j := range dst {
			if t.dtype == checkpoint.F32 {
				dst[j] = math.Float32frombits(binary.LittleEndian.Uint32(buf[4*j:]))
			} else {
				dst[j] = checkpoint.FromFloat16(binary.LittleEndian.Uint16(buf[2*j:]))
			}
		}
	}
	return nil
}

// Close closes the file.
func (t *States) Close() error { return t.file.Close() }
