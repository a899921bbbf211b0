package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/vae/encode"
)

// encodeAccount prints how encode-latents gets on.
type encodeAccount struct {
	*env
	options *pictureOptions

	bar  *progress.Bar // nil until there is something to encode
	note string        // beside it
	// wait is the share of the time that the encoder waits for pictures, smoothed; negative before it is known.
	wait              float64
	numBad, numNamed  int
	unnamed           []catalog.Bad // until it is known that some picture is good
	clipped, oriented int
}

// noteBad takes note of a picture that is left out. With --on-error fail the error at the end names it, and so it does
// where no picture is good.
func (a *encodeAccount) noteBad(b catalog.Bad) {
	a.numBad++
	if a.options.onError == "skip" && a.numBad <= catalog.MaxListed+1 {
		a.unnamed = append(a.unnamed, b)
	}
}

// nameBad warns of the pictures that are left out, up to a number.
func (a *encodeAccount) nameBad() {
	for _, b := range a.unnamed {
		if a.numNamed++; a.numNamed > catalog.MaxListed {
			a.warn("left out: more bad pictures, which %s will list", latents.ManifestName)
			break
		}
		a.warn("left out: %s: %v", b.Err.Path, b.Err.Err)
	}
	a.unnamed = nil
}

func (a *encodeAccount) showProgress(p encode.Progress) {
	if a.bar == nil {
		if p.Done == p.Total {
			a.printf("nothing is left to encode")
			return
		}
		a.bar = a.progress("encode", "pictures", int64(p.Total))
		a.bar.Start(int64(p.Done))
		return
	}
	if p.Encoded > 0 {
		a.nameBad()
	}
	a.clipped, a.oriented = p.Clipped, p.Oriented
	note := "waits for shards of other processes"
	if !p.Others {
		if a.wait += 0.1 * (p.WaitShare - a.wait); a.wait < 0 {
			a.wait = p.WaitShare
		}
		note = fmt.Sprintf("encoder waits %.0f %%", 100*a.wait)
	}
	if p.Overflows > 0 {
		note += fmt.Sprintf(", %s too large for fp16", plural(p.Overflows, "batch"))
	}
	if a.numBad > 0 {
		note += fmt.Sprintf(", %s", plural(a.numBad, "bad picture"))
	}
	if a.note = note; p.Done == p.Total {
		note = "reading the shards for the manifest"
	}
	a.bar.Describe(note)
	a.bar.Set(int64(p.Done))
}

// explain adds to the error of the work what to do.
func (a *encodeAccount) explain(err error) error {
	if !errors.As(err, new(*catalog.BadPicturesError)) {
		a.nameBad()
	}
	switch {
	case errors.As(err, new(*catalog.BadPicturesError)):
		return badPictures(err, "--on-error skip leaves them out; shards without them are kept")
	case a.bar != nil && !errors.As(err, new(hintError)):
		return a.continues(err, "whole shards are kept")
	}
	return err
}

// summarize prints what was made by the options o.
func (a *encodeAccount) summarize(m *latents.Manifest, o encode.Options) {
	a.nameBad()
	if a.bar != nil {
		a.bar.Describe(a.note)
		a.bar.Finish()
	}
	if a.wait > 0.3 {
		a.printf("the encoder waited %.0f %% of the time for pictures: try more --num-workers", 100*a.wait)
	}
	a.options.remark(a.env, a.clipped, a.oriented)
	if n := len(m.Skipped); n > 0 {
		a.warn("%s left out: %s lists them", plural(n, "bad picture"), filepath.Join(o.OutDir, latents.ManifestName))
		ids := make([]int, n)
		for i, s := range m.Skipped {
			ids[i] = s.ID
		}
		a.warnOfEmptied(o.Source, ids)
	}
	a.printf("%s of %dx%dx%d in %s", plural(m.Dataset.Samples-len(m.Skipped), "latent"), m.Channels, m.Height, m.Width,
		plural(len(m.Shards), "shard"))
	a.printf("standard deviation by channel after scaling: %s", deviations(m.Std, m.VAE.ScalingFactor))
}

// deviations lists standard deviations after scaling, the smallest and the largest where there are many.
func deviations(std []float64, scale float64) string {
	const most = 5
	if len(std) > most {
		return fmt.Sprintf("%s to %s", format.Rate(slices.Min(std)*scale), format.Rate(slices.Max(std)*scale))
	}
	var words []string
	for _, v := range std {
		words = append(words, format.Rate(v*scale))
	}
	return strings.Join(words, ", ")
}
