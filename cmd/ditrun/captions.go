package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/data/captions"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/dit/text"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/vae/encode"
)

// captionsName is the list of captions that another program is to encode.
const captionsName = "captions.txt"

// textList is a flag that may be given several times. Unlike those of package cli it keeps commas.
type textList []string

func (l *textList) Set(v string) error { *l = append(*l, v); return nil }
func (l *textList) String() string     { return strings.Join(*l, ", ") }

func captionFlags() []cli.Flag {
	return []cli.Flag{
		&cli.GenericFlag{Name: "captions", Value: &textList{}, DefaultText: "none",
			Usage: "`SPEC` of captions, repeatable: class:TEMPLATE, data, or a file"},
		&cli.StringFlag{Name: "text-encoder", Usage: "encode the captions by the CLIP text encoder in `DIR`"},
		&cli.StringFlag{Name: "text-states",
			Usage: "take the captions' token states, made by another program, from `FILE`"},
	}
}

// captionSpecs returns the values of --captions after a look at the flags that go with it.
func (e *env) captionSpecs() ([]string, error) {
	specs := *e.flags.Generic("captions").(*textList)
	encoder, states := e.flags.String("text-encoder"), e.flags.String("text-states")
	switch {
	case len(specs) == 0 && (encoder != "" || states != ""):
		return nil, usagef("--text-encoder and --text-states are for captions: --captions names them")
	case encoder != "" && states != "":
		return nil, usagef("--text-encoder and --text-states: want one of them")
	}
	return specs, nil
}

// captioning is the captions to store and what encodes them, nil for a list alone.
type captioning struct {
	texts   *captions.Set
	encoder tokens.Encoder
	close   func()
}

// openCaptions opens what encodes the captions, and reports on them.
func (e *env) openCaptions(texts *captions.Set, dev func() (torch.Device, error)) (*captioning, error) {
	s := texts.Stats
	e.printf("captions %s, without one: %s", plural(len(texts.Texts)-1, "distinct caption"),
		plural(s.Without, "picture"))
	for _, w := range []struct {
		n    int
		text string
	}{
		{s.Unmatched, fmt.Sprintf("of no picture here, the first of them for %q", s.FirstUnmatched)},
		{s.Empty, "empty, which count as none"},
		{s.Invalid, "not in UTF-8: the bytes became U+FFFD"},
		{s.Cut, fmt.Sprintf("cut to %d bytes", captions.MaxLength)},
	} {
		if w.n > 0 {
			e.warn("%s %s", plural(w.n, "caption"), w.text)
		}
	}
	k := &captioning{texts: texts, close: func() {}}
	switch {
	case e.flags.String("text-states") != "":
		states, err := tokens.OpenStates(e.flags.String("text-states"))
		if err != nil {
			return nil, err
		}
		if err := states.Check(texts.Texts); err != nil {
			states.Close()
			return nil, withHint(err,
				"--captions without --text-states and --text-encoder lists all captions in %s of --out", captionsName)
		}
		k.encoder, k.close = states, func() { states.Close() }
	case e.flags.String("text-encoder") != "":
		on, err := dev()
		if err != nil {
			return nil, err
		}
		encoder, err := text.Open(e.flags.String("text-encoder"), on)
		if err != nil {
			return nil, err
		}
		k.encoder, k.close = encode.TextEncoder(encoder), encoder.Close
	}
	return k, nil
}

// store writes the captions beside finished latents and returns the fields of the result.
func (k *captioning) store(e *env, out string) (map[string]any, error) {
	if k.encoder == nil {
		path := filepath.Join(out, captionsName)
		if err := tokens.WriteCaptions(path, k.texts); err != nil {
			return nil, err
		}
		e.printf("%s: %s to encode; --text-states takes their states", path, plural(len(k.texts.Texts), "caption"))
		return map[string]any{"captions_listed": len(k.texts.Texts)}, nil
	}
	var bar *progress.Bar
	summary, err := tokens.Write(e.ctx, out, k.texts, k.encoder,
		tokens.Options{Unlocked: e.unlocked(out, 1), OnProgress: func(done, total int) {
			if bar == nil {
				bar = e.progress("encode captions", "captions", int64(total))
				bar.Start(int64(done))
			}
			bar.Set(int64(done))
		}})
	if err != nil {
		if bar != nil {
			err = e.continues(err, "encoded captions are kept")
		}
		return nil, err
	}
	if bar != nil {
		bar.Finish()
	}
	info := k.encoder.Info()
	kept := ""
	if summary.Kept {
		kept = ", all of them there already"
	}
	e.printf("%s of %s by %s: %d tokens of width %d%s", plural(summary.Captions, "caption"),
		plural(summary.Rows, "distinct text"), info.Name, info.Length, info.Width, kept)
	if summary.Without > 0 {
		e.warn("%s without a caption: the empty one is theirs", plural(summary.Without, "latent"))
	}
	return map[string]any{"captions": summary.Captions, "distinct_captions": summary.Rows,
		"without_caption": summary.Without,
		"text_encoder":    info.Name, "text_length": info.Length, "text_width": info.Width}, nil
}

// addCaptions adds captions to a finished set of latents, or replaces those that it has.
func addCaptions(e *env, specs []string) error {
	c := e.flags
	out := c.String("out")
	process, err := dist.Detect(os.Getenv)
	if err != nil {
		return usageError{err}
	}
	if process.Rank > 0 {
		e.printf("process %d of %d: the first one encodes the captions", process.Rank, process.World)
		return nil
	}
	set, err := latents.Open(out)
	if isMissing(err) {
		return withHint(err, "--data and --vae make the latents first")
	} else if err != nil {
		return err
	}
	defer set.Close()
	began := time.Now()
	var texts *captions.Set
	if c.String("data") == "" {
		texts, err = captions.OfClasses(specs, set.Classes(), set.LabelsByID())
	} else {
		src, err2 := e.openPictures(c.String("data"), c.String("labels"), picture.AsStored)
		if err2 != nil {
			return err2
		}
		defer src.Close()
		if m := set.Manifest(); src.Hash() != m.Dataset.Hash {
			return fmt.Errorf("--data %s: not the pictures that the latents in %s were made from (data set "+
				"%.12s..., they are of %.12s...)", c.String("data"), out, src.Hash(), m.Dataset.Hash)
		}
		texts, err = captions.Read(e.ctx, specs, src)
	}
	if err != nil {
		return err
	}
	k, err := e.openCaptions(texts, func() (torch.Device, error) { return e.openDeviceOf(process) })
	if err != nil {
		return err
	}
	defer k.close()
	result, err := k.store(e, out)
	if err != nil {
		return err
	}
	result["out"], result["samples"], result["seconds"] = out, set.Len(), time.Since(began).Seconds()
	return e.result(result)
}

// verifyText compares the checksums of the captions, if the set has some, and returns their bytes.
func verifyText(e *env, l *latents.Set, out string) (int64, error) {
	t, err := tokens.Of(l)
	if err != nil || t == nil {
		return 0, err
	}
	if err := t.Verify(e.ctx); err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(filepath.Join(out, tokens.FolderName))
	if err != nil {
		return 0, err
	}
	bytes := int64(0)
	for _, f := range entries {
		info, err := f.Info()
		if err != nil {
			return 0, err
		}
		bytes += info.Size()
	}
	return bytes, nil
}
