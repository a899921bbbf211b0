package gallery

import (
	"errors"
	"fmt"
	"image"
	"strconv"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
)

// A sheetOutput keeps all pictures in memory for one sheet.
type sheetOutput struct {
	path   string
	set    Set
	labels []sheet.Label
	images []image.Image
}

// openSheet refuses more pictures than a sheet holds.
func openSheet(path string, set Set) (Output, error) {
	o := &sheetOutput{path: path, set: set}
	if o.alone() {
		return o, nil
	}
	o.labels = set.sheetLabels(min(set.Count, beyondSheets))
	err := sheet.Check(image.Pt(set.Width, set.Height), min(set.Count, beyondSheets), sheet.Options{Labels: o.labels})
	if tooMany := (*sheet.TooManyError)(nil); errors.As(err, &tooMany) {
		tooMany.N = set.Count
	}
	if err != nil {
		return nil, fmt.Errorf("out %s: %w", path, err)
	}
	return o, nil
}

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

// alone says whether the sheet is a single picture without words, which is written as it is.
func (o *sheetOutput) alone() bool { return o.set.Count == 1 && o.set.subject(0) == "" }

func (o *sheetOutput) Done() int { return len(o.images) }

func (o *sheetOutput) Add(p sampling.Pictures) error {
	o.images = append(o.images, p.Images()...)
	return nil
}

func (o *sheetOutput) Finish() (err error) {
	drawn := o.images[0]
	if !o.alone() {
		if drawn, err = sheet.Draw(o.images, sheet.Options{Labels: o.labels}); err != nil {
			return err
		}
	}
	return sheet.WritePNG(o.path, drawn, o.set.Recipe.ofSheet(&o.set)...)
}

func (o *sheetOutput) Close() int        { return 0 }
func (o *sheetOutput) Others() []Partial { return nil }
