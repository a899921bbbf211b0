package main

import (
	"bufio"
	"errors"
	"fmt"
	"image"
	"os"
	"strings"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/picture/sheet"
)

// pictureInspection is what a PNG file says of itself.
type pictureInspection struct {
	Path   string            `json:"path"`
	Format string            `json:"format"`
	Bytes  int64             `json:"bytes"`
	Width  int               `json:"width"`
	Height int               `json:"height"`
	Text   map[string]string `json:"text"`
}

// inspectPicture prints what a PNG file says of itself; ok is false for anything else.
func inspectPicture(e *env, path string, o *inspectOptions) (ok bool, err error) {
	size, texts, bytes, err := readPicture(path)
	if errors.Is(err, sheet.ErrNoPNG) || errors.Is(err, os.ErrNotExist) || errors.Is(err, errIsFolder) {
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("%s: %w", path, err)
	}
	if err := o.forWeights(path, "a picture"); err != nil {
		return true, err
	}
	in := pictureInspection{path, "PNG", bytes, size.X, size.Y, map[string]string{}}
	for _, t := range texts {
		in.Text[t.Keyword] = t.Text
	}
	if !e.json {
		in.print(e, texts)
	}
	return true, e.result(in)
}

func (in *pictureInspection) print(e *env, texts []sheet.Text) {
	e.row("file", "%s: PNG of %dx%d pixels, %s", in.Path, in.Width, in.Height, format.Bytes(in.Bytes))
	for _, t := range texts {
		e.printf("%s", t.Keyword)
		for line := range strings.Lines(t.Text) {
			e.printf("  %s", strings.TrimRight(line, "\n"))
		}
	}
	if len(texts) == 0 {
		e.row("", "it does not say how it was made")
	}
}

var errIsFolder = errors.New("is a folder")

func readPicture(path string) (size image.Point, texts []sheet.Text, bytes int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return size, nil, 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return size, nil, 0, err
	case st.IsDir():
		return size, nil, 0, errIsFolder
	}
	size, texts, err = sheet.ReadTexts(bufio.NewReader(f))
	return size, texts, st.Size(), err
}
