package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/stream"
)

// findBad decodes samples lo to hi-1 of src, before work that would end in the middle for a bad one. The processes on
// this machine that do so at once share its cores.
func (o *pictureOptions) findBad(e *env, src catalog.Source, lo, hi, processes int) (stream.PictureCheck, error) {
	bar := e.progress("check", "pictures", int64(hi-lo))
	found, err := stream.CheckPictures(e.ctx, src, lo, hi, o.checkers(runtime.GOMAXPROCS(0), processes),
		func(done int) { bar.Set(int64(done)) })
	if err != nil {
		bar.Abort()
		return found, err
	}
	bar.Finish()
	return found, nil
}

// checkers is the number of goroutines that look for bad pictures in each of several processes: nothing else computes
// then, so they may be as many as the cores.
func (o *pictureOptions) checkers(cores, processes int) int {
	return max(1, o.numWorkers, cores/max(1, processes))
}

// leaveOut returns src without the bad pictures that were found, or with --on-error fail the error that names them.
func (o *pictureOptions) leaveOut(e *env, src catalog.Source, found stream.PictureCheck) (catalog.Source, error) {
	o.remark(e, found.Clipped, found.Oriented)
	if len(found.Bad) == 0 {
		return src, nil
	}
	bad := &catalog.BadPicturesError{Bad: found.Bad, Of: src.Len()}
	if bad.None() || o.onError == "fail" {
		return nil, badPictures(bad, "--on-error skip leaves them out")
	}
	const named = 5
	ids := found.IDs()
	var names []string
	for _, b := range found.Bad[:min(len(ids), named)] {
		names = append(names, fmt.Sprintf("\n%s: %v", b.Err.Path, b.Err.Err))
	}
	text := strings.Join(names, "")
	if n := len(ids) - named; n > 0 {
		text += fmt.Sprintf("\nand %d more", n)
		if path := listFile(bad); path != "" {
			text += ": " + path + " lists them"
		}
	}
	e.warn("left out %s:%s", plural(len(ids), "bad picture"), text)
	e.warnOfEmptied(src, ids)
	return catalog.Without(src, ids), nil
}

// warnOfEmptied names the classes that have no sample but those of the given ids.
func (e *env) warnOfEmptied(src catalog.Source, ids []int) {
	const named = 10
	labels := catalog.Emptied(src, ids)
	if len(labels) == 0 {
		return
	}
	var names []string
	for _, label := range labels[:min(len(labels), named)] {
		names = append(names, fmt.Sprintf("%q", src.Classes()[label]))
	}
	text := strings.Join(names, ", ")
	if n := len(labels) - named; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	e.warn("%s without a good picture: %s", plural(len(labels), "class"), text)
}

// remark says once how many pictures lost gray levels, and how many have an EXIF orientation.
func (o *pictureOptions) remark(e *env, clipped, oriented int) {
	if clipped > 0 {
		e.warn("%s of 16 bits: levels above 255 became 255, as in Pillow; convert to 8 bits to keep them",
			plural(clipped, "gray picture"))
	}
	switch {
	case oriented == 0:
	case o.orientation == picture.ByEXIF:
		e.printf("%s with an EXIF orientation: turned upright", plural(oriented, "picture"))
	default:
		e.warn("%s with an EXIF orientation: used as stored (--orientation exif turns upright)",
			plural(oriented, "picture"))
	}
}

// badPictures adds to err, if pictures cannot be decoded, where all of them are listed, and what to do: the hint, where
// others are good.
func badPictures(err error, hint string) error {
	var bad *catalog.BadPicturesError
	if !errors.As(err, &bad) {
		return err
	}
	if len(bad.Bad) > catalog.MaxListed {
		if path := listFile(bad); path != "" {
			err = fmt.Errorf("%w; %s lists them all", err, path)
		}
	}
	if bad.None() {
		hint = "look at one of them: want JPEG, PNG, GIF, BMP, TIFF, WebP or netpbm files that " +
			"other programs open"
	}
	return withHint(err, "%s", hint)
}

// listFile writes the list of bad pictures to a temporary file and returns its path, "" where that cannot be done.
func listFile(bad *catalog.BadPicturesError) string {
	f, err := os.CreateTemp("", "ditrun-bad-pictures-*.txt")
	if err != nil {
		return ""
	}
	_, err = io.WriteString(f, bad.List())
	if err := errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return ""
	}
	return f.Name()
}
