package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/data/captions"
	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/latents"
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

// captionOptions are the flags that say which captions to keep beside latents, and what encodes them.
type captionOptions struct {
	specs               textList
	textEncoder, states string // at most one of them
}

func (o *captionOptions) flags() []cli.Flag {
	return []cli.Flag{
		&cli.GenericFlag{Name: "captions", Value: &o.specs, DefaultText: "none",
			Usage: "take captions from `SPEC`: class:TEMPLATE, data (beside the pictures), or a file; repeatable"},
		&cli.StringFlag{Name: "text-encoder", Destination: &o.textEncoder,
			Usage: "`PATH|NAME`: the CLIP text encoder for captions"},
		&cli.StringFlag{Name: "text-states", Destination: &o.states,
			Usage: "take the token states of captions from `FILE`, which another program made"},
	}
}

func (o *captionOptions) check() error {
	switch {
	case len(o.specs) == 0 && (o.textEncoder != "" || o.states != ""):
		return usagef("--text-encoder and --text-states need --captions")
	case o.textEncoder != "" && o.states != "":
		return usagef("--text-encoder and --text-states: want one of them")
	}
	return nil
}

// captionWork is the captions to store and what encodes them, nil for a list alone.
type captionWork struct {
	texts   *captions.Set
	encoder tokens.Encoder
	close   func()
}

// open describes captions and opens what encodes them, on the device where that is a model.
func (o *captionOptions) open(e *env, texts *captions.Set, device func() (torch.Device, error)) (*captionWork, error) {
	e.describeCaptions(texts)
	if o.textEncoder == "" && o.states == "" {
		return &captionWork{texts: texts, close: func() {}}, nil
	}
	encoder, closeEncoder, err := openTextEncoder(o.textEncoder, o.states, device)
	if err != nil {
		return nil, err
	}
	if states, ok := encoder.(*tokens.States); ok {
		if err := states.Check(texts.Texts); err != nil {
			closeEncoder()
			return nil, withHint(err,
				"--captions without --text-states and --text-encoder writes all captions into %s in --out",
				captionsName)
		}
	}
	return &captionWork{texts, encoder, closeEncoder}, nil
}

// openTextEncoder opens token states that another program made, where a file of them is given, else the text encoder in
// a folder, on the device.
func openTextEncoder(dir, states string, device func() (torch.Device, error)) (encoder tokens.Encoder,
	closeEncoder func(), err error) {
	if states != "" {
		s, err := tokens.OpenStates(states)
		if err != nil {
			return nil, nil, err
		}
		return s, func() { s.Close() }, nil
	}
	dev, err := device()
	if err != nil {
		return nil, nil, err
	}
	model, err := text.Open(dir, dev)
	if err != nil {
		return nil, nil, err
	}
	return encode.TextEncoder(model), model.Close, nil
}

// describeCaptions prints how many captions there are, and warns of those that are lost or changed.
func (e *env) describeCaptions(texts *captions.Set) {
	s := texts.Stats
	e.printf("captions %s, pictures without a caption: %d", plural(len(texts.Texts)-1, "distinct caption"), s.Without)
	for _, w := range []struct {
		n    int
		text string
	}{
		{s.Unmatched, fmt.Sprintf("captions of pictures that are not here, such as %q", s.FirstUnmatched)},
		{s.Empty, "empty captions, which count as none"},
		{s.Invalid, "captions that are not UTF-8, whose bad bytes became U+FFFD"},
		{s.Cut, fmt.Sprintf("captions cut to %d bytes", captions.MaxLength)},
	} {
		if w.n > 0 {
			e.warn("%s: %d", w.text, w.n)
		}
	}
}

// store writes the captions beside finished latents and returns the fields of the result.
func (w *captionWork) store(e *env, out string) (map[string]any, error) {
	if w.encoder == nil {
		path := filepath.Join(out, captionsName)
		if err := tokens.WriteCaptions(path, w.texts); err != nil {
			return nil, err
		}
		e.printf("%s lists %s to encode; --text-states takes their states", path, plural(len(w.texts.Texts), "caption"))
		return map[string]any{"captions_listed": len(w.texts.Texts)}, nil
	}
	var bar *progress.Bar
	summary, err := tokens.Write(e.ctx, out, w.texts, w.encoder,
		tokens.Options{Unlocked: e.onNoLocks(out, 1), OnProgress: func(done, total int) {
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
	info := w.encoder.Info()
	kept := ""
	if summary.Kept {
		kept = ", all there already"
	}
	e.printf("%s of %s by %s: %d tokens of width %d%s", plural(summary.Captions, "caption"),
		plural(summary.Rows, "distinct text"), info.Name, info.Length, info.Width, kept)
	if summary.Without > 0 {
		e.warn("%s without a caption: the empty one is taken", plural(summary.Without, "latent"))
	}
	return map[string]any{"captions": summary.Captions, "distinct_captions": summary.Rows,
		"without_caption": summary.Without,
		"text_encoder":    info.Name, "text_length": info.Length, "text_width": info.Width}, nil
}

// addCaptions adds captions to a finished set of latents, or replaces those that it has.
func addCaptions(e *env, o *encodeOptions) error {
	process, err := dist.Detect(os.Getenv)
	if err != nil {
		return usageError{err}
	}
	if process.Rank > 0 {
		e.printf("process %d of %d: the first one encodes the captions", process.Rank, process.World)
		return nil
	}
	out := o.encode.OutDir
	set, err := latents.Open(out)
	if isMissing(err) {
		return withHint(err, "make the latents first, with --data and --vae")
	} else if err != nil {
		return err
	}
	defer set.Close()
	began := time.Now()
	var src catalog.Source
	if o.data != "" {
		o.pictures.noClasses = o.pictures.noClasses || classes.None(set.Classes())
		if src, err = o.pictures.open(e, o.data); err != nil {
			return err
		}
		defer src.Close()
	}
	defer e.waiting("reading the captions")()
	texts, err := encode.Captions(e.ctx, set, o.captions.specs, src)
	if errors.As(err, new(*encode.OtherPicturesError)) {
		err = fmt.Errorf("--data %s: %w", o.data, err)
	}
	if err != nil {
		return err
	}
	w, err := o.captions.open(e, texts, func() (torch.Device, error) { return e.openDeviceOf(process) })
	if err != nil {
		return err
	}
	defer w.close()
	result, err := w.store(e, out)
	if err != nil {
		return err
	}
	result["out"], result["samples"], result["seconds"] = out, set.Len(), time.Since(began).Seconds()
	return e.result(result)
}
