package main

import (
	"os"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/torch/dist"
)

// What follows is for train, whose flags are not bound to pictureOptions.

func onErrorFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "on-error", Value: "fail", Usage: usage}
}

func orientationFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "orientation", Value: string(picture.AsStored), Usage: usage}
}

// pictureFlags are the values of the flags.
func (e *env) pictureFlags() *pictureOptions {
	return &pictureOptions{labels: e.flags.String("labels"), numWorkers: e.flags.Int("num-workers"),
		orientation: e.orientation(), onError: e.flags.String("on-error")}
}

func (e *env) pictureChoices() error { return e.pictureFlags().check() }

func (e *env) orientation() picture.Orientation {
	return picture.Orientation(e.flags.String("orientation"))
}

func (e *env) checkPictures(src catalog.Source, lo, hi, workers int) (stream.PictureCheck, error) {
	o := e.pictureFlags()
	o.numWorkers = workers
	process, err := dist.Detect(os.Getenv)
	if err != nil {
		return stream.PictureCheck{}, err
	}
	return o.findBad(e, src, lo, hi, process.LocalWorld)
}

func (e *env) leaveOut(src catalog.Source, found stream.PictureCheck) (catalog.Source, error) {
	return e.pictureFlags().leaveOut(e, src, found)
}

func (e *env) remark(clipped, oriented int) { e.pictureFlags().remark(e, clipped, oriented) }
