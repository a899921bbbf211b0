package gallery

import (
	"fmt"
	"image"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
)

// A sheetOutput keeps all pictures in memory for one sheet.
type sheetOutput struct {
	path   string
	words  []string // names or prompts beside the pictures; nil for the plain grid
	images []image.Image
}

const (
	gridColumns = 4 // of the sheet of DiT's sample.py
	gridPadding = 2
)

// openSheet refuses a sheet that other programs would not open.
func openSheet(path string, set Set) (Output, error) {
	o := &sheetOutput{path: path, words: set.Prompts}
	if o.words == nil && len(set.Classes) > 0 {
		for _, label := range set.Labels {
			o.words = append(o.words, set.className(label))
		}
	}
	size, err := image.Pt(set.Width, set.Height), error(nil)
	if o.words == nil {
		err = sheet.CheckGrid(size, set.Count, gridColumns, gridPadding)
	} else {
		err = sheet.Check(size, set.Count, o.words, sheetColumns(o.words))
	}
	if err != nil {
		return nil, fmt.Errorf("out %s: %w", path, err)
	}
	return o, nil
}

func (o *sheetOutput) Done() int { return len(o.images) }

func (o *sheetOutput) Add(p sampling.Pictures) error {
	o.images = append(o.images, p.Images()...)
	return nil
}

func (o *sheetOutput) Finish() error {
	var drawn image.Image
	var err error
	if o.words == nil {
		drawn, err = sheet.Grid(o.images, gridColumns, gridPadding)
	} else {
		drawn, err = sheet.Draw(o.images, o.words, sheetColumns(o.words), "")
	}
	if err != nil {
		return err
	}
	return sheet.WritePNG(o.path, drawn)
}

func (o *sheetOutput) Close() int        { return 0 }
func (o *sheetOutput) Others() []Partial { return nil }

// sheetColumns is the number of pictures in a row: a class's or prompt's where all have equally many and more than one,
// else at most eight.
func sheetColumns(words []string) int {
	run := 1
	for run < len(words) && words[run] == words[0] {
		run++
	}
	if run > 1 && run <= 20 && len(words)%run == 0 {
		return run
	}
	return min(len(words), 8)
}
