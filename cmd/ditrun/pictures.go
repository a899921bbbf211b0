package main

import (
	"sync"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/picture"
)

// pictureOptions are the flags of every command that reads pictures.
type pictureOptions struct {
	labels      string
	noClasses   bool // bound to a flag by commands for which it is one
	numWorkers  int  // 0 where the command chooses
	orientation picture.Orientation
	onError     string // fail or skip
}

// flags are the group in the order in which a configuration holds them. The number of workers that o has is the
// default, which workersByDefault says in words where it is 0.
func (o *pictureOptions) flags(workersByDefault string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "labels", Destination: &o.labels,
			Usage: "`FILE`: classes of pictures that are in no class folder"},
		&cli.IntFlag{Name: "num-workers", Destination: &o.numWorkers, Value: o.numWorkers,
			DefaultText: workersByDefault, Usage: "decode `N` pictures at a time"},
		&cli.StringFlag{Name: "orientation", Destination: (*string)(&o.orientation), Value: string(picture.AsStored),
			Usage: "`exif|as-stored`: exif turns pictures upright, as-stored leaves them"},
		&cli.StringFlag{Name: "on-error", Destination: &o.onError, Value: "fail",
			Usage: "`fail|skip`: fail names all bad pictures and stops, skip leaves them out"},
	}
}

func (o *pictureOptions) check() error {
	if err := oneOf("on-error", o.onError, "fail", "skip"); err != nil {
		return err
	}
	return oneOf("orientation", string(o.orientation), string(picture.AsStored), string(picture.ByEXIF))
}

// unconditional is the flag that takes pictures without classes. That of train also says what the model is.
func (o *pictureOptions) unconditional() cli.Flag {
	return &cli.BoolFlag{Name: "unconditional", Destination: &o.noClasses, DisableDefaultText: true,
		Usage: "take all pictures at any depth, without classes"}
}

// inClasses ends a line about pictures.
func inClasses(list []string) string {
	if classes.None(list) {
		return "without classes"
	}
	return "in " + plural(len(list), "class")
}

// open opens the pictures at a location. Where that takes long it shows how far it is. It prints what is to be known
// about them.
func (o *pictureOptions) open(e *env, location string) (catalog.Source, error) {
	var mu sync.Mutex
	var bar *progress.Bar
	shown, most := "", int64(0)
	abort := func() {
		if bar != nil {
			bar.Abort()
		}
	}
	c := catalog.Options{Labels: o.labels, NoClasses: o.noClasses, Orientation: o.orientation,
		DecodeMemory: machine.ReadMemory().Available / 4}
	c.OnProgress = func(stage string, done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		if stage != shown {
			abort()
			bar, shown, most = e.progress(stage, "files", total), stage, 0
		}
		most = max(most, done) // reports may overtake each other
		bar.Set(most)
	}
	src, err := catalog.Open(e.ctx, location, c)
	abort()
	if err != nil {
		return nil, err
	}
	for _, note := range src.Notes() {
		e.warn("%s: %s", location, note)
	}
	return src, nil
}
