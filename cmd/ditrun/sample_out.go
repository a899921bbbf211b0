package main

import (
	"encoding/csv"
	"image"
	"io"
	"path/filepath"
	"strconv"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/picture"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// writeSamples writes pictures of what as the ending of out says.
func writeSamples(out string, made sampling.Pictures, what asked, names []string) error {
	n := len(made.Pix) / (3 * made.Height * made.Width)
	if filepath.Ext(out) == ".npz" {
		arrays := []checkpoint.Array{checkpoint.Uint8Array("arr_0", made.Pix, n, made.Height, made.Width, 3)}
		if what.labels != nil {
			y := make([]int64, n)
			for i, l := range what.labels {
				y[i] = int64(l)
			}
			arrays = append(arrays, checkpoint.Int64Array("arr_1", y, n))
		}
		return checkpoint.WriteNPZ(out, arrays...)
	}
	images, err := picture.Batch(made.Pix, n, made.Width, made.Height)
	if err != nil {
		return err
	}
	if filepath.Ext(out) != ".png" {
		return writeFolder(out, images, what, names)
	}
	if what.prompts == nil && len(names) == 0 {
		grid, err := picture.Grid(images, 4, 2)
		if err != nil {
			return err
		}
		return picture.WritePNG(out, grid)
	}
	under := make([]string, n)
	for i := range under {
		if what.prompts != nil {
			under[i] = what.prompts[i]
		} else {
			under[i] = className(names, what.labels[i])
		}
	}
	sheet, err := picture.Sheet(images, under, perRow(under), "")
	if err != nil {
		return err
	}
	return picture.WritePNG(out, sheet)
}

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

// writeFolder writes single pictures and labels.csv; the folder appears whole.
func writeFolder(out string, images []image.Image, what asked, names []string) error {
	return disk.WriteFolder(out, func(dir string) error {
		for i, img := range images {
			if err := picture.WritePNG(picture.NumberedName(dir, i), img); err != nil {
				return err
			}
		}
		return writeLabels(dir, len(images), what, names)
	})
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
			row := []string{filepath.Base(picture.NumberedName("", i))}
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
