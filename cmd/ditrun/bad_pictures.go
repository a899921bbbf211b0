package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/stream"
)

// onErrorFlag and orientationFlag are those of every command that reads pictures.
func onErrorFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "on-error", Value: "fail", Usage: usage}
}

func orientationFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "orientation", Value: string(picture.AsStored), Usage: usage}
}

// pictureChoices checks the values of these flags.
func (e *env) pictureChoices() error {
	if err := e.oneOf("on-error", "fail", "skip"); err != nil {
		return err
	}
	return e.oneOf("orientation", string(picture.AsStored), string(picture.ByEXIF))
}

// orientation is what the flag asks for.
func (e *env) orientation() picture.Orientation {
	return picture.Orientation(e.flags.String("orientation"))
}

// checkPictures decodes samples lo to hi-1 of src, before work that would end in the middle for a bad one.
func (e *env) checkPictures(src catalog.Source, lo, hi, workers int) (stream.PictureCheck, error) {
	bar := e.progress("check", "pictures", int64(hi-lo))
	found, err := stream.CheckPictures(e.ctx, src, lo, hi, max(workers, runtime.GOMAXPROCS(0)), func(done int) {
		bar.Set(int64(done))
	})
	if err != nil {
		bar.Abort()
		return found, err
	}
	bar.Finish()
	return found, nil
}

// leaveOut returns src without the bad pictures that a check found, or with --on-error fail the error that names them.
func (e *env) leaveOut(src catalog.Source, found stream.PictureCheck) (catalog.Source, error) {
	e.remark(found.Clipped, found.Oriented)
	if len(found.Bad) == 0 {
		return src, nil
	}
	bad := &catalog.BadPicturesError{Bad: found.Bad, Of: src.Len()}
	if bad.None() || e.flags.String("on-error") == "fail" {
		return nil, badPictures(bad, "--on-error skip leaves them out")
	}
	const named = 5
	ids := found.IDs()
	var names []string
	for _, b := range found.Bad[:min(len(ids), named)] {
		names = append(names, fmt.Sprintf("%s (%v)", b.Err.Path, b.Err.Err))
	}
	text := strings.Join(names, ", ")
	if n := len(ids) - named; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
		if path := listFile(bad); path != "" {
			text += ": " + path + " lists them"
		}
	}
	e.warn("left out %s: %s", plural(len(ids), "bad picture"), text)
	e.warnOfEmptied(src, ids)
	return catalog.Without(src, ids), nil
}

// warnOfEmptied says which classes have no sample left without those of the given ids.
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
	e.warn("no picture is left of %s, all are bad: %s", plural(len(labels), "class"), text)
}

// remark says once of how many pictures something is to be known.
func (e *env) remark(clipped, oriented int) {
	if clipped > 0 {
		e.warn("%s of 16 bits: levels above 255 became 255, as Pillow does it; convert them to 8 bits to keep them",
			plural(clipped, "gray picture"))
	}
	switch {
	case oriented == 0:
	case e.orientation() == picture.ByEXIF:
		e.printf("%s with an EXIF orientation: turned upright", plural(oriented, "picture"))
	default:
		e.warn("%s with an EXIF orientation: used as stored (--orientation exif turns them upright)",
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
		hint = "look at one of them: want JPEG, PNG, GIF, BMP, TIFF or WebP files that other programs open"
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
