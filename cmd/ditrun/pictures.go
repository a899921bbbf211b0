package main

import (
	"sync"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
)

// openPictures opens the pictures at a location, showing how far it is where that takes long, and prints what is
// remarkable about them.
func (e *env) openPictures(location, labels string, turn picture.Orientation) (catalog.Source, error) {
	var mu sync.Mutex
	var bar *progress.Bar
	shown, most := "", int64(0)
	abort := func() {
		if bar != nil {
			bar.Abort()
		}
	}
	o := catalog.Options{Labels: labels, Orientation: turn, DecodeMemory: machine.ReadMemory().Available / 4}
	o.OnProgress = func(stage string, done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		if stage != shown {
			abort()
			bar, shown, most = e.progress(stage, "files", total), stage, 0
		}
		most = max(most, done) // reports may overtake each other
		bar.Set(most)
	}
	src, err := catalog.Open(e.ctx, location, o)
	abort()
	if err != nil {
		return nil, err
	}
	for _, note := range src.Notes() {
		e.warn("%s: %s", location, note)
	}
	return src, nil
}
