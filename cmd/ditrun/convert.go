package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/vae"
)

// convertOptions are the flags of convert.
type convertOptions struct {
	ckpt, latents  string // one of them
	model          string
	to, out        string
	vae            string
	vaeName        string // as given
	fetch          bool
	changes        dit.Changes
	imageSize      picture.Size
	learnSigma     string
	frequencyShift string
}

func (o *convertOptions) flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "ckpt", Destination: &o.ckpt,
			Usage: "`PATH|NAME`: a run folder, a weight file (.safetensors, .pt) or a diffusers folder"},
		&cli.StringFlag{Name: "latents", Destination: &o.latents,
			Usage: "`PATH`: instead of --ckpt: a folder of latents"},
		&cli.StringFlag{Name: "model", Destination: &o.model, DefaultText: "as the file says",
			Usage: "`NAME`: model in a .pt whose width is not one of the paper's"},
		&cli.StringFlag{Name: "to", Destination: &o.to,
			Usage: "`FORM`: official, diffusers or ditrun; of latents: fast-dit, lightningdit, edm2 or ditrun"},
		&cli.StringFlag{Name: "out", Destination: &o.out,
			Usage: "write to `PATH`: a .pt, a .safetensors, a .zip or a new folder"},
		&cli.StringFlag{Name: "vae", Destination: &o.vae, DefaultText: "that of the run or pipeline",
			Usage: "`PATH|NAME`: the autoencoder, for a diffusers folder or latents"},
		&cli.IntFlag{Name: "num-classes", Destination: &o.changes.NumClasses, DefaultText: "as it is",
			Usage: "`N` classes; for another number than the file has, new embeddings are drawn"},
		imageSizeVar(&o.imageSize, "as it is",
			"pictures of `PIXELS` a side, or HEIGHTxWIDTH; positions are computed anew"),
		&cli.StringFlag{Name: "learn-sigma", Destination: &o.learnSigma, DefaultText: "as it is",
			Usage: "`true|false`: true adds the variance channels, false drops them"},
		&cli.StringFlag{Name: "timestep-frequency-shift", Destination: &o.frequencyShift, DefaultText: "as it is",
			Usage: "`0|1`: 1 for weights that diffusers trained"},
		&cli.Uint64Flag{Name: "seed", Destination: &o.changes.Seed,
			Usage: "seed of the embeddings or latents that are drawn"},
		fetchFlag(&o.fetch),
	}
}

func (o *convertOptions) check(given func(string) bool) error {
	if o.latents != "" {
		return o.checkLatents(given)
	}
	if err := checkModel(o.model); err != nil {
		return err
	}
	if err := require("convert", required{"ckpt", o.ckpt}, required{"to", o.to}, required{"out", o.out}); err != nil {
		return err
	}
	if err := oneOf("to", o.to, "official", "diffusers", "ditrun"); err != nil {
		return err
	}
	if o.learnSigma != "" {
		on, err := strconv.ParseBool(o.learnSigma)
		if err != nil {
			return usagef("--learn-sigma %q: want true or false", o.learnSigma)
		}
		o.changes.LearnSigma = &on
	}
	if !slices.Contains([]string{"", "0", "1"}, o.frequencyShift) {
		return usagef("--timestep-frequency-shift %q: want 0 or 1", o.frequencyShift)
	}
	o.out = filepath.Clean(o.out)
	return checkTarget(o.to, o.out)
}

func convertCommand() *cli.Command {
	o := &convertOptions{}
	return newCommand(spec{
		name:  "convert",
		usage: "write a checkpoint or latents in the form of another program",
		description: "--to official writes a .pt that facebookresearch/DiT loads, --to diffusers\n" +
			"a folder for DiTPipeline.from_pretrained, --to ditrun a safetensors file.\n" +
			"The weights keep their values, except where flags ask for another number\n" +
			"of classes, another image size, or a variance added or dropped. --latents\n" +
			"converts latents to the form of fast-dit, lightningdit or edm2 (REPA), or\n" +
			"back with --to ditrun; a warning names what a form does not keep.",
		example: "ditrun convert --ckpt results/000-DiT-XL-2 --to diffusers --out dit-diffusers\n" +
			"ditrun convert --ckpt DiT-XL-2-256x256.pt --to ditrun --image-size 512 --out start.safetensors\n" +
			"ditrun convert --latents features --to ditrun --vae sd-vae-ft-ema --out latents",
		flags:    o.flags(),
		required: "ckpt latents to out",
		groups: []group{
			{"What a file may not say", "model vae fetch timestep-frequency-shift"},
			{"Changes", "num-classes image-size learn-sigma seed"},
		},
		check: o.check,
		alone: true,
		run:   func(e *env) error { return runConvert(e, o) },
	})
}

func runConvert(e *env, o *convertOptions) error {
	o.vaeName = ofVAE(&o.vae).knownName()
	if err := e.findWeights(o.fetch, ofCkpt(&o.ckpt), ofVAE(&o.vae)); err != nil {
		return err
	}
	switch {
	case o.latents == "":
		return o.convertWeights(e)
	case o.to == "ditrun":
		return o.importLatents(e)
	}
	return o.exportLatents(e)
}

// convertWeights writes a checkpoint in another form.
func (o *convertOptions) convertWeights(e *env) error {
	endWait := e.waiting("opening the checkpoint")
	w, err := dit.Read(o.ckpt, o.model)
	endWait()
	if err != nil {
		return err
	}
	defer w.Close()
	e.item("found", w.String())
	notes, err := o.adapt(w)
	if err != nil {
		return err
	}
	var encoder *vae.Weights
	if o.to == "diffusers" && w.Process.IsFlow() {
		return withHint(fmt.Errorf("--to diffusers: %s predicts %s, and DiTPipeline draws with models that predict "+
			"noise", o.ckpt, w.Process), "--to official writes the form of SiT and REPA")
	}
	if o.to == "diffusers" {
		if encoder, err = o.openVAE(w); err != nil {
			return err
		}
		defer encoder.Close()
		e.item("vae", encoder.String())
		encoder.Source = checkpoint.Until(e.ctx, encoder.Source)
		notes = append(notes, w.DiffusersNotes()...)
	}
	for _, n := range notes {
		e.item("", n)
	}
	if err := o.checkRoom(e, w, encoder); err != nil {
		return err
	}
	w.Source = checkpoint.Until(e.ctx, w.Source)
	disk.Sweep(o.out)
	defer e.waiting("writing " + o.out)()
	if err := o.save(w, encoder); err != nil {
		return err
	}
	size, err := sizeOf(o.out)
	if err != nil {
		return err
	}
	e.printf("wrote   %s, %s", o.out, format.Bytes(size))
	return e.result(map[string]any{"out": o.out, "to": o.to, "model": w.Config.Name(), "found": w.String(),
		"notes": notes, "bytes": size})
}

// openVAE opens the autoencoder that a diffusers folder has beside the model.
func (o *convertOptions) openVAE(w *dit.Weights) (*vae.Weights, error) {
	if o.vae != "" {
		return vae.Read(o.vae)
	}
	path, err := sampling.Autoencoder(w)
	if found := autoencoderFor(err); found != "" {
		return vae.Read(found)
	}
	none := (*sampling.VAEError)(nil)
	if errors.As(err, &none) && none.Path == "" {
		return nil, withVAEHint(usagef("convert: a diffusers folder needs the autoencoder of the model's latents: %w",
			err))
	} else if err != nil {
		return nil, withVAEHint(fmt.Errorf("convert %s: %w", o.ckpt, err))
	}
	return vae.Read(path)
}

// checkRoom refuses an output that is larger than what is free.
func (o *convertOptions) checkRoom(e *env, w *dit.Weights, encoder *vae.Weights) (err error) {
	n := checkpoint.SizeOf(w.Source)
	for _, t := range w.Kept {
		n += t.Size
	}
	if o.to == "diffusers" {
		if n, err = w.DiffusersBytes(); err != nil {
			return err
		}
		n += checkpoint.SizeOf(encoder.Source)
	}
	_, err = e.checkRoom(writing{flag: "out", path: o.out, what: "the weights", all: n, least: n})
	return err
}

func (o *convertOptions) save(w *dit.Weights, encoder *vae.Weights) error {
	switch o.to {
	case "official":
		return w.SaveOfficial(o.out)
	case "ditrun":
		return w.Save(o.out)
	}
	return disk.WriteFolder(o.out, func(dir string) error {
		if err := encoder.Save(filepath.Join(dir, "vae")); err != nil {
			return err
		}
		return w.SaveDiffusers(dir)
	})
}

// extensions of files by the value of --to; a folder has none.
var extensions = map[string]string{"official": ".pt", "diffusers": "", "ditrun": ".safetensors"}

// checkTarget refuses an output that does not fit its form, or exists as something else.
func checkTarget(to, out string) error {
	if want := extensions[to]; filepath.Ext(out) != want && to != "diffusers" {
		return usagef("--out %s: want a name that ends in %s, for --to %s", out, want, to)
	}
	fits := disk.FitsFile
	if to == "diffusers" {
		fits = disk.FitsFolder
	}
	if err := fits(out); err != nil {
		return fmt.Errorf("--out %s: %w", out, err)
	}
	return checkFile("out", out)
}

// adapt makes the changes that flags ask for, and returns notes on them and on what was assumed.
func (o *convertOptions) adapt(w *dit.Weights) (notes []string, err error) {
	changes := o.changes
	if size := o.imageSize; size != (picture.Size{}) {
		pixels := w.ImageSize / w.Config.InputSize
		if pixels < 1 || size.Height%pixels != 0 || size.Width%pixels != 0 {
			return nil, usagef("--image-size %s: want a multiple of %d, the pixels that become one of the latent", size,
				max(pixels, 1))
		}
		changes.InputSize, changes.InputWidth = size.Height/pixels, size.Width/pixels
	}
	notes = append(notes, w.Notes...)
	changed, err := w.Adapt(changes)
	if err != nil {
		return nil, fmt.Errorf("convert %s: %w", o.ckpt, err)
	}
	notes = append(notes, changed...)
	switch o.frequencyShift {
	case "0":
		w.Config.TimestepFrequencyShift, w.Config.MLPNormEps = 0, 0
		notes = append(notes, "arithmetic of the original")
	case "1":
		w.Config = w.Config.WithDiffusersArithmetic(dit.DiffusersNormEps)
		notes = append(notes, "arithmetic of diffusers: timestep frequencies and the norm before the MLP")
	}
	if o.to != "official" {
		return notes, nil
	}
	if err := o.keepsProcess(w); err != nil {
		return nil, err
	}
	if w.Config.Block != dit.AdaLNZero || w.Config.Condition != dit.OnClass {
		notes = append(notes, "the original knows only adaln-zero blocks conditioned on classes: it will not load "+
			"this file, ditrun does")
	}
	if w.Config.TimestepFrequencyShift != 0 {
		notes = append(notes, "a .pt does not say that the model has diffusers' arithmetic: the original will "+
			"compute something else")
	}
	return notes, nil
}

// keepsProcess refuses a .pt that would be taken for a model of another process than the flow that w is.
func (o *convertOptions) keepsProcess(w *dit.Weights) error {
	taken := w.OfficialProcess(o.out)
	if !w.Process.IsFlow() || taken == w.Process {
		return nil
	}
	hint := "--to ditrun keeps it"
	if name := "SiT-" + filepath.Base(o.out); w.OfficialProcess(name) == w.Process {
		hint = fmt.Sprintf("call it %s, by which it is known; or %s", name, hint)
	}
	return withHint(fmt.Errorf("--out %s: %s predicts %s, and a .pt, which does not say so, is taken for one that "+
		"predicts %s", o.out, o.ckpt, w.Process, taken), "%s", hint)
}

// sizeOf adds up the sizes of a file, or of all files in a folder.
func sizeOf(path string) (int64, error) {
	total := int64(0)
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err == nil {
			total += st.Size()
		}
		return err
	})
	return total, err
}
