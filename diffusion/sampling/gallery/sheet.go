package gallery

import (
	"context"
	"errors"
	"fmt"
	"image"
	"strconv"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
)

// A sheetOutput keeps the pictures of a sheet that are one batch in memory.
type sheetOutput struct {
	path   string
	set    Set
	begun  bool
	images []image.Image
}

// checkSheet refuses more pictures than a sheet holds.
func checkSheet(path string, set Set) error {
	if set.isSingle() {
		return nil
	}
	labels := set.sheetLabels(min(set.Count, beyondSheets))
	err := sheet.Check(image.Pt(set.Width, set.Height), min(set.Count, beyondSheets), sheet.Options{Labels: labels})
	if tooMany := (*sheet.TooManyError)(nil); errors.As(err, &tooMany) {
		tooMany.N = set.Count
	}
	if err != nil {
		return &SheetError{fmt.Errorf("out %s: %w", path, err)}
	}
	return nil
}

// A SheetError says why pictures make no sheet: there are too many, or they are too large.
type SheetError struct{ error }

func (e *SheetError) Unwrap() error { return e.error }

// beyondSheets are more pictures than any sheet holds. There may be millions, of which not all need to be looked at.
const beyondSheets = 10_000

// sheetLabels are what stands beside n pictures from all over the set: prompts or classes, nil for a model without
// condition.
func (s *Set) sheetLabels(n int) (list []sheet.Label) {
	numbers := map[string]int{}
	for k := range n {
		i := k * s.Count / n
		switch {
		case s.Prompts != nil:
			prompt := s.Prompts[i]
			if numbers[prompt] == 0 {
				numbers[prompt] = len(numbers) + 1
			}
			list = append(list, sheet.Label{Text: prompt, Else: fmt.Sprintf("prompt %d", numbers[prompt])})
		case s.Labels != nil:
			label := s.Labels[i]
			list = append(list, sheet.Label{Text: classes.Short(s.className(label)), Else: strconv.Itoa(label)})
		}
	}
	return list
}

// isSingle says whether the sheet is a single picture without words, which is written as it is.
func (s *Set) isSingle() bool { return s.Count == 1 && s.subject(0) == "" }

// writeSheet writes the sheet of all pictures.
func (s *Set) writeSheet(path string, images []image.Image) (err error) {
	drawn := images[0]
	if !s.isSingle() {
		if drawn, err = sheet.Draw(images, sheet.Options{Labels: s.sheetLabels(s.Count)}); err != nil {
			return err
		}
	}
	return sheet.WritePNG(path, drawn, s.Recipe.ofSheet(s)...)
}

func (o *sheetOutput) Done() int { return len(o.images) }

func (o *sheetOutput) Elsewhere() int { return 0 }

func (o *sheetOutput) Next(context.Context) (batch int, ok bool, err error) {
	defer func() { o.begun = true }()
	return 0, !o.begun, nil
}

func (o *sheetOutput) Add(_ int, p sampling.Pictures) error {
	o.images = p.Images()
	return nil
}

func (o *sheetOutput) Finish(context.Context) error { return o.set.writeSheet(o.path, o.images) }

func (o *sheetOutput) Close() int        { return 0 }
func (o *sheetOutput) Others() []Partial { return nil }
