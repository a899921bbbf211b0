package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/vae/encode"
)

// previewCrops draws crops from all over the data set, with the names of their classes.
func (e *env) previewCrops(o encode.Options, n int) error {
	src, size, out := o.Source, o.ImageSize, o.OutDir
	pix, ids, err := encode.Preview(e.ctx, src, n, size, o.Resampler)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		e.warn("no preview: none of the pictures that were tried can be decoded")
		return nil
	}
	images, err := sheet.Batch(pix, len(ids), size.Width, size.Height)
	if err != nil {
		return err
	}
	labels := make([]string, len(ids))
	for i, id := range ids {
		words, _, _ := strings.Cut(catalog.ClassWords(src.Classes()[src.Sample(id).Label]), ",")
		labels[i] = words
	}
	drawn, err := sheet.Draw(images, labels, min(8, len(images)),
		fmt.Sprintf("%d of %d pictures, cropped to %s", len(ids), src.Len(), size))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o777); err != nil {
		return err
	}
	path := filepath.Join(out, "preview.png")
	disk.Sweep(path)
	if err := sheet.WritePNG(path, drawn); err != nil {
		return err
	}
	e.printf("preview %s", path)
	return nil
}
