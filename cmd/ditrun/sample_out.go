package main

import (
	"encoding/csv"
	"fmt"
	"image"
	"io"
	"path/filepath"
	"strconv"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
)

// A sampleOutput takes pictures as they come.
type sampleOutput interface {
	have() int // pictures that an earlier command drew
	add(sampling.Pictures) error
	finish() error // gives the output its name
	close() int    // after finish or without; returns how many pictures are kept for the next command
}

// sampleSize is how many pictures are drawn, and how large each is.
type sampleSize struct{ n, height, width int }

func (s sampleSize) bytes() int64 { return 3 * int64(s.n) * int64(s.height) * int64(s.width) }

// openSampleOutput opens the output that --out names, of pictures of what that come batch by batch. Key names the
// request.
func (e *env) openSampleOutput(size sampleSize, batch int, what asked, names []string,
	key func() (string, error)) (sampleOutput, error) {
	out := e.flags.String("out")
	if filepath.Ext(out) == ".png" {
		o := newSheetOutput(out, size.n, what, names)
		err := o.check(image.Pt(size.width, size.height))
		return o, withHint(err, "give --out a folder, or a name that ends in .npz")
	}
	k, err := key()
	if err != nil {
		return nil, err
	}
	open := func(items string, s partialState) (pictureStore, error) {
		if filepath.Ext(out) == ".npz" {
			return openNPZStore(e.ctx, items, s, size.height, size.width, what.labels)
		}
		return openFolderStore(e.ctx, items, s, what, names)
	}
	p, err := openPartial(out, k, size.n, batch, open)
	if err != nil {
		return nil, err
	}
	for _, dir := range p.others {
		s := readPartial(dir)
		e.warn("%s: %d of %s of another request for this output; the folder is removed when this command is done",
			dir, s.Done, plural(s.Total, "picture"))
	}
	return p, nil
}

// A sheetOutput keeps all pictures in memory for one sheet.
type sheetOutput struct {
	path   string
	n      int
	under  []string // names or prompts under the pictures; nil for the plain grid
	images []image.Image
}

const (
	gridColumns = 4 // of the sheet of DiT's sample.py
	gridPadding = 2
)

func newSheetOutput(path string, n int, what asked, names []string) *sheetOutput {
	o := &sheetOutput{path: path, n: n}
	switch {
	case what.prompts != nil:
		o.under = what.prompts
	case len(names) > 0:
		for _, label := range what.labels {
			o.under = append(o.under, className(names, label))
		}
	}
	return o
}

// check refuses a sheet that other programs would not open.
func (o *sheetOutput) check(size image.Point) (err error) {
	if o.under == nil {
		err = sheet.CheckGrid(size, o.n, gridColumns, gridPadding)
	} else {
		err = sheet.Check(size, o.n, o.under, perRow(o.under))
	}
	if err != nil {
		return fmt.Errorf("--out %s: %w", o.path, err)
	}
	return nil
}

func (o *sheetOutput) have() int { return 0 }

func (o *sheetOutput) add(p sampling.Pictures) error {
	images, err := sheet.Batch(p.Pix, len(p.Pix)/(3*p.Height*p.Width), p.Width, p.Height)
	o.images = append(o.images, images...)
	return err
}

func (o *sheetOutput) finish() error {
	var drawn image.Image
	var err error
	if o.under == nil {
		drawn, err = sheet.Grid(o.images, gridColumns, gridPadding)
	} else {
		drawn, err = sheet.Draw(o.images, o.under, perRow(o.under), "")
	}
	if err != nil {
		return err
	}
	return sheet.WritePNG(o.path, drawn)
}

func (o *sheetOutput) close() int { return 0 }

// perRow is the number of pictures a row: a class's or prompt's where all have equally many and more than one,
// else at most eight.
func perRow(under []string) int {
	run := 1
	for run < len(under) && under[run] == under[0] {
		run++
	}
	if run > 1 && run <= 20 && len(under)%run == 0 {
		return run
	}
	return min(len(under), 8)
}

func className(names []string, label int) string {
	if label < len(names) {
		return names[label]
	}
	return strconv.Itoa(label)
}

// writeLabels writes labels.csv, which says what each picture was asked to be.
func writeLabels(dir string, n int, what asked, names []string) error {
	return disk.WriteFile(filepath.Join(dir, "labels.csv"), func(w io.Writer) error {
		table := csv.NewWriter(w)
		head := []string{"file"}
		if what.labels != nil {
			head = append(head, "label", "class")
		}
		if what.prompts != nil {
			head = append(head, "prompt")
		}
		table.Write(head)
		for i := range n {
			row := []string{filepath.Base(sheet.NumberedName("", i))}
			if what.labels != nil {
				row = append(row, strconv.Itoa(what.labels[i]), className(names, what.labels[i]))
			}
			if what.prompts != nil {
				row = append(row, what.prompts[i])
			}
			table.Write(row)
		}
		table.Flush()
		return table.Error()
	})
}
