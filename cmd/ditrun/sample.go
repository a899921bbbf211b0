package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/diffusion/sampling/gallery"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/torch/nn"
)

// sampleOptions are the flags of sample.
type sampleOptions struct {
	ckpt, model, vae        string
	classes, prompts        textList
	negativePrompt          string
	textEncoder, textStates string
	numSamples              int    // 0: one a class or prompt
	channels                string // that are guided
	precision               nn.Precision
	request                 sampling.Request
	out, latents            string
	interval                string // of guidance
	guide                   string // path or name of the model that guidance leads away from
	searchSteps             int
	searched                bool // the times are those of a search
	fetch                   bool
	from                    string // a picture that is drawn again
	drawn                   gallery.Drawn
	noFused                 bool // as in env

	job        gallery.Job
	localRank  int
	ckptGiven  bool // by --ckpt, not by --from, as the next one
	vaeGiven   bool
	guideGiven bool
	scaleGiven bool // by --cfg-scale
	textGiven  bool // by a flag that belongs to --prompt

	asGiven struct{ ckpt, vae, guide, textEncoder, textStates string } // before names became paths
}

func (o *sampleOptions) flags() []cli.Flag {
	r := &o.request
	return []cli.Flag{
		&cli.StringFlag{Name: "ckpt", Destination: &o.ckpt,
			Usage: "`PATH|NAME`: a run folder, a weight file (.safetensors, .pt) or a diffusers folder"},
		&cli.StringFlag{Name: "model", Destination: &o.model, DefaultText: "as the file says",
			Usage: "`NAME`: model in a .pt whose width is not one of the paper's"},
		&cli.StringFlag{Name: "vae", Destination: &o.vae, DefaultText: "that of the run or pipeline",
			Usage: "`PATH|NAME`: the autoencoder that made the latents"},
		&cli.GenericFlag{Name: "class-labels", Value: &o.classes, DefaultText: "a few",
			Usage: "`LIST`: classes to draw, such as 3,cat,7-9; or all, random or balanced; repeatable"},
		&cli.GenericFlag{Name: "prompt", Value: &o.prompts, DefaultText: "none",
			Usage: "`TEXT`: what to draw, for models of text; repeatable"},
		&cli.StringFlag{Name: "negative-prompt", Destination: &o.negativePrompt, DefaultText: "the empty one",
			Usage: "`TEXT`: what to steer away from"},
		&cli.StringFlag{Name: "text-encoder", Destination: &o.textEncoder,
			Usage: "`PATH|NAME`: the CLIP text encoder that encoded the captions"},
		&cli.StringFlag{Name: "text-states", Destination: &o.textStates,
			Usage: "take the token states of prompts from `FILE`, which another program made"},
		&cli.IntFlag{Name: "num-samples", Destination: &o.numSamples, DefaultText: "one each",
			Usage: "draw `N` pictures, spread in order over the classes or prompts"},
		&cli.Float64Flag{Name: "cfg-scale", Destination: &r.CFGScale, Value: 4.0,
			Usage: "guidance: 1 is none; more follows the class closer and varies less"},
		&cli.StringFlag{Name: "cfg-channels", Destination: &o.channels, DefaultText: "3; of REPA all",
			Usage: "`3|all`: guide the first 3 latent channels, as DiT and SiT do, or all"},
		&cli.StringFlag{Name: "guidance-interval", Destination: &o.interval, DefaultText: "all times",
			Usage: "`LO,HI`: guide only steps at these times of the model: 0 to 999 of DiT, 0 to 1 of flows"},
		&cli.Float64Flag{Name: "guidance-rescale", Destination: &r.GuidanceRescale,
			Usage: "bring guided answers back to the deviation of unguided ones: 0 not at all, 1 all the way"},
		&cli.StringFlag{Name: "guide-ckpt", Destination: &o.guide, DefaultText: "none",
			Usage: "`PATH|NAME`: lead away from this weaker model, not from the model without its condition"},
		&cli.StringFlag{Name: "num-sampling-steps", Destination: &r.Steps, DefaultText: "250",
			Usage: "`STEPS`: number of steps; on the grid respaced also ddim50, or one number for each section, " +
				"as in 10,15,20"},
		&cli.StringFlag{Name: "solver", Aliases: []string{"sampler"}, Destination: &r.Solver,
			DefaultText: "ddpm; of flows sde-euler",
			Usage:       "`NAME`: ddpm, ddim, dpm++2m, unipc2, euler, dopri5, ...: docs/diffusion.md has all"},
		&cli.StringFlag{Name: "timesteps", Destination: &r.Timesteps, DefaultText: "as the solver's original",
			Usage: "`GRID`: where the steps lie: respaced, linspace, leading, trailing, karras, lambda or searched; " +
				"or the times themselves, as in 999,850,400"},
		&cli.IntFlag{Name: "search-steps", Destination: &o.searchSteps, DefaultText: "none",
			Usage: "draw nothing, but find the best times of `N` steps, for --timesteps searched"},
		&cli.StringFlag{Name: "diffusion-form", Destination: (*string)(&r.SDE.Form),
			DefaultText: "sigma; of REPA linear",
			Usage:       "`FORM` of an SDE: constant, SBDM, sigma, linear, decreasing or increasing-decreasing"},
		&cli.Float64Flag{Name: "diffusion-norm", Destination: &r.SDE.Norm, DefaultText: "1",
			Usage: "what the form of an SDE is multiplied by"},
		&cli.StringFlag{Name: "last-step", Destination: (*string)(&r.SDE.Last), DefaultText: "Mean",
			Usage: "`STEP` that an SDE ends with: Mean, Tweedie, Euler or None"},
		&cli.Float64Flag{Name: "last-step-size", Destination: &r.SDE.LastSize, DefaultText: "0.04",
			Usage: "time that the last step of an SDE takes"},
		precisionFlag(&o.precision, "type of the arithmetic of both models: fp32, tf32 or bf16"),
		&cli.Uint64Flag{Name: "seed", Destination: &r.Seed, Usage: "seed of the noise"},
		&cli.StringFlag{Name: "rng", Destination: &r.RNG, Value: "image",
			Usage: "`image|torch`: noise of each picture by itself, or in the order of DiT's sample.py"},
		&cli.IntFlag{Name: "batch-size", Destination: &r.BatchSize, DefaultText: "at most 50; all with --rng torch",
			Usage: "draw `N` pictures at a time"},
		&cli.StringFlag{Name: "out", Destination: &o.out, Value: "sample.png",
			Usage: "write to `PATH`: one sheet (.png), a folder of pictures, a .tar, or a .npz"},
		&cli.StringFlag{Name: "save-latents", Destination: &o.latents, DefaultText: "none",
			Usage: "also write the scaled latents, before they are decoded, to `FILE`.safetensors"},
		&cli.StringFlag{Name: "from", Destination: &o.from, DefaultText: "none",
			Usage: "draw again the `PICTURE`, a .png of this command; flags beside it change it"},
		fetchFlag(&o.fetch),
	}
}

func (o *sampleOptions) check(given func(string) bool) (err error) {
	if err := require("sample", required{"ckpt", o.ckpt}, required{"out", o.out}); err != nil {
		return err
	}
	if err := checkModel(o.model); err != nil {
		return err
	}
	r := &o.request
	if r.CFGScale == 0 { // which stands for none in a request
		return usagef("--cfg-scale 0: want a number from 1 (no guidance) up")
	}
	if err := refuseEmpty(required{"rng", r.RNG}); err != nil {
		return err
	}
	for name, value := range map[string]string{"num-sampling-steps": r.Steps, "solver": r.Solver,
		"timesteps": r.Timesteps, "guidance-interval": o.interval, "save-latents": o.latents,
		"guide-ckpt": o.guide} {
		if given(name) && value == "" {
			return refuseEmpty(required{name, value})
		}
	}
	if err := o.parseInterval(); err != nil {
		return err
	}
	if err := o.checkSearch(given); err != nil {
		return err
	}
	if err := r.Validate(); err != nil {
		return ofFlag(err)
	}
	if o.guide != "" && r.CFGScale == 1 && given("cfg-scale") {
		return usagef("--guide-ckpt: has no effect without guidance, --cfg-scale 1")
	}
	if o.guide != "" && given("negative-prompt") {
		return usagef("--negative-prompt: with --guide-ckpt guidance leads away from that model, not from a prompt")
	}
	if given("cfg-channels") {
		if r.Guided, err = dit.ParseGuidedChannels(o.channels); err != nil {
			return ofFlag(err)
		}
	}
	if err := cmp.Or(o.precision, nn.FP32).Validate(); err != nil {
		return ofFlag(err)
	}
	if given("negative-prompt") && r.CFGScale == 1 {
		return usagef("--negative-prompt: has no effect without guidance, --cfg-scale 1")
	}
	if given("num-samples") {
		if err := atLeast(1, "num-samples", o.numSamples); err != nil {
			return err
		}
	}
	o.asGiven.ckpt, o.asGiven.vae, o.asGiven.guide = o.ckpt, o.vae, o.guide
	o.asGiven.textEncoder, o.asGiven.textStates = o.textEncoder, o.textStates
	o.scaleGiven = given("cfg-scale")
	if err := o.detectJob(); err != nil {
		return err
	}
	o.textGiven = slices.ContainsFunc([]string{"prompt", "negative-prompt", "text-encoder", "text-states"}, given)
	if o.searchSteps > 0 {
		return nil // nothing is drawn
	}
	return o.checkOut()
}

// parseInterval reads --guidance-interval.
func (o *sampleOptions) parseInterval() (err error) {
	if o.interval == "" {
		return nil
	}
	lo, hi, ok := strings.Cut(o.interval, ",")
	ends := &o.request.GuidanceInterval
	if ends[0], err = strconv.ParseFloat(strings.TrimSpace(lo), 64); err == nil && ok {
		ends[1], err = strconv.ParseFloat(strings.TrimSpace(hi), 64)
	}
	if err != nil || !ok || *ends == [2]float64{} {
		return usagef("--guidance-interval %s: want two times, the lower one first, as in 0,700 for DiT or 0,0.7 for "+
			"flows", o.interval)
	}
	return nil
}

// checkOut refuses an output that cannot be written, before the work instead of after it.
func (o *sampleOptions) checkOut() error {
	if o.latents != "" {
		if filepath.Ext(o.latents) != ".safetensors" {
			return usagef("--save-latents %s: want a name that ends in .safetensors", o.latents)
		}
		if err := disk.FitsFile(o.latents); err != nil {
			return fmt.Errorf("--save-latents %s: %w", o.latents, err)
		}
		if err := checkFile("save-latents", o.latents); err != nil {
			return err
		}
	}
	if o.from != "" && sameFile(o.from, o.out) {
		return withHint(usagef("--out %s: that is the picture of --from, which would be overwritten", o.out),
			"--out PATH.png says where the new one goes")
	}
	if o.drawn.Picture != nil && (!gallery.IsSheet(o.out) || o.latents != "" || o.job.World > 1) {
		return usagef("--from %s: it is one picture: want one process, --out with a name that ends in .png, and no "+
			"--save-latents", o.from)
	}
	switch err := gallery.Check(o.out, o.job); {
	case errors.Is(err, gallery.ErrName):
		return ofFlag(err)
	case errors.Is(err, gallery.ErrIsFile):
		return withHint(fmt.Errorf("--%w", err), "a single sheet is written to a name that ends in .png")
	case err != nil:
		return fmt.Errorf("--%w", err)
	}
	if o.latents != "" {
		for _, p := range gallery.Partials(o.out) {
			if p.Done > 0 {
				return o.withoutLatents(p.Done, p.Total)
			}
		}
	}
	return checkFile("out", o.out)
}

func sampleCommand() *cli.Command {
	o := &sampleOptions{}
	return newCommand(spec{
		name:  "sample",
		usage: "draw pictures from a checkpoint",
		description: "Draws pictures with the averaged weights of a checkpoint, under\n" +
			"classifier-free guidance. --out PICTURE.png is one sheet of all pictures,\n" +
			"where possible with a class in each row; --out DIR is a folder of single\n" +
			"pictures, with their labels or prompts in labels.csv; --out FILE.tar is a\n" +
			"WebDataset archive; --out FILE.npz holds the pixels (arr_0) and the labels\n" +
			"(arr_1). After an interrupt the same command draws what is missing. Several\n" +
			"processes share the work. --from X.png draws again what this command drew.\n" +
			"Models of text need --prompt.\n" +
			"A word of --class-labels is a number, a name, or whole words of one name;\n" +
			"label:2 and name:2 say which is meant. `ditrun classes` lists them.",
		example: "ditrun sample --ckpt results/000-DiT-XL-2 --cfg-scale 4.0\n" +
			"ditrun sample --ckpt dit-xl-2-256 --vae ema --fetch --class-labels 207,360 --out dogs.png\n" +
			"ditrun sample --ckpt results/001-DiT-S-2 --text-encoder clip --prompt 'a red shoe' " +
			"--num-samples 4",
		flags:    o.flags(),
		required: "ckpt",
		groups: []group{
			{"Model", "vae model guide-ckpt fetch"},
			{"What to draw", "class-labels prompt negative-prompt text-encoder text-states num-samples seed from"},
			{"How to draw", "cfg-scale cfg-channels guidance-interval guidance-rescale num-sampling-steps solver " +
				"timesteps search-steps diffusion-form diffusion-norm last-step last-step-size precision rng " +
				"batch-size"},
			{"Output", "out save-latents"},
		},
		fill:  o.readFrom,
		check: o.check,
		run: func(e *env) error {
			return withLessMemory(runSample(e, o), "a smaller --batch-size draws fewer pictures at a "+
				"time, and --precision bf16 takes less")
		},
	})
}

const defaultSampleBatch = 50

// repaScale is the default of REPA's generate.py.
const repaScale = 1.5

// maxSamples is above any data set, and bounds the lists of labels and prompts.
const maxSamples = 10_000_000

func runSample(e *env, o *sampleOptions) error {
	o.noFused = e.noFused
	if err := e.findWeights(o.fetch, ofCkpt(&o.ckpt), ofVAE(&o.vae), ofTextEncoder(&o.textEncoder),
		ofGuide(&o.guide)); err != nil {
		return err
	}
	if err := o.findDrawn(e); err != nil {
		return err
	}
	dev, err := e.openDeviceOf(dist.Env{World: o.job.World, LocalRank: o.localRank})
	if err != nil {
		return err
	}
	opened := e.waiting("opening the models")
	p, err := o.open(dev)
	opened()
	if err != nil {
		return err
	}
	defer p.Close()
	if err := o.compareDrawn(e, p); err != nil {
		return err
	}
	show, err := o.subjects(e, p.Info())
	if err != nil {
		return err
	}
	opened = e.waiting("opening the text encoder") // of models of text
	r, err := o.complete(p, show, dev)
	opened()
	if err != nil {
		return err
	}
	o.describe(e, p, r, show)
	if o.searchSteps > 0 {
		return o.search(e, p, r)
	}
	if o.drawn.Picture != nil {
		return o.redraw(e, p, r, show)
	}
	keep := latentsFile{path: o.latents}
	if o.latents != "" {
		r.Latents = keep.add
	}
	opened = e.waiting("looking at what is there")
	out, err := o.openOutput(e, p, r, show)
	opened()
	if err != nil {
		return err
	}
	n := r.Len()
	if have := out.Done(); have > 0 && o.latents != "" { // of a command that has stopped since the check
		out.Close()
		return o.withoutLatents(have, n)
	}
	began := time.Now()
	err = drawSamples(e, p, r, out)
	drawn := n - out.Elsewhere()
	if kept := out.Close(); kept > 0 {
		return withHint(err, "%s holds %d of %s; %s", o.out, kept, plural(n, "picture"), o.howContinues())
	} else if err != nil && e.ctx.Err() != nil {
		return withHint(err, "%s", howBegins(r))
	}
	if err != nil {
		return err
	}
	if err := keep.write(p.Info()); err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	rate := float64(drawn) / seconds
	if o.job.World > 1 {
		e.printf("process %d drew %d of them", o.job.Rank, drawn)
	}
	e.printf("%s in %.1f s, %s images/s, written to %s", plural(n, "picture"), seconds, format.Rate(rate), o.out)
	if o.latents != "" {
		e.printf("latents written to %s", o.latents)
	}
	result := map[string]any{"out": o.out, "num_samples": n, "drawn": drawn, "seconds": seconds,
		"images_per_second": rate, "model": p.Info().Config.Name(), "precision": p.Precision()}
	if o.latents != "" {
		result["latents"] = o.latents
	}
	return e.result(result)
}

// howContinues says what draws the pictures that are missing after an interrupt.
func (o *sampleOptions) howContinues() string {
	if o.latents != "" {
		return "without --save-latents the same command continues"
	}
	return "the same command continues"
}

// howBegins says what comes of a command that was interrupted before its first batch was whole.
func howBegins(r sampling.Request) string {
	r = r.WithDefaults()
	text := fmt.Sprintf("no batch of %s was whole yet; the same command begins again", plural(r.BatchSize, "picture"))
	if r.BatchSize > 1 && r.RNG != "torch" {
		text += ", and with a smaller --batch-size keeps pictures sooner"
	}
	return text
}

// detectJob finds out with which other processes the pictures are drawn.
func (o *sampleOptions) detectJob() error {
	process, err := dist.Detect(os.Getenv)
	if err != nil {
		return usageError{err}
	}
	o.localRank = process.LocalRank
	if o.job = (gallery.Job{Rank: process.Rank, World: process.World}); process.World > 1 {
		o.job.ID = cmp.Or(process.RunID, fmt.Sprintf("%s:%d", process.Addr, process.Port))
		if o.latents != "" {
			return usagef("--save-latents: of %d processes each would have the latents of its own pictures: start one",
				process.World)
		}
	}
	return nil
}

// withoutLatents refuses to save the latents of pictures of which an interrupted command left some.
func (o *sampleOptions) withoutLatents(have, all int) error {
	return withHint(fmt.Errorf("--save-latents %s: %s of %s are there already, and their latents are not kept",
		o.latents, format.Count(int64(have)), plural(all, "picture")),
		"draw into another --out, or without --save-latents")
}

// open opens the checkpoint with its autoencoder.
func (o *sampleOptions) open(dev torch.Device) (*sampling.Pipeline, error) {
	opts := sampling.Options{VAE: o.vae, Model: o.model, Guide: o.guide, Precision: o.precision}
	p, err := sampling.Open(dev, o.ckpt, opts)
	if path := autoencoderFor(err); path != "" {
		opts.VAE = path
		p, err = sampling.Open(dev, o.ckpt, opts)
	}
	return p, withVAEHint(err)
}

// complete returns the request for pictures of what they are to show.
func (o *sampleOptions) complete(p *sampling.Pipeline, show subjects, dev torch.Device) (sampling.Request, error) {
	info := p.Info()
	r, model := o.request, info.Config
	r.Labels, r.Process = show.labels, &info.Process
	r.Guide, _ = p.Guide()
	if info.Family == dit.REPA && !o.scaleGiven {
		r.CFGScale = repaScale
	}
	if model.Condition == dit.OnNothing {
		if r.NumSamples = show.n; !o.scaleGiven && o.guide == "" {
			r.CFGScale = 1
		}
	}
	if o.searched {
		var err error
		if r, err = p.Searched(r); errors.As(err, new(*sampling.FileError)) {
			return r, ofSchedule(p, err)
		} else if err != nil {
			return r, withHint(ofFlag(err), "the same command with --search-steps and a number of steps, and without "+
				"--timesteps and --num-sampling-steps, finds a schedule")
		}
	}
	if model.HasText() {
		var err error
		if r.Captions, r.Null, err = o.encodePrompts(p, show.prompts, dev); err != nil {
			return r, err
		}
	}
	if r.BatchSize == 0 && r.RNG != "torch" {
		r.BatchSize = defaultSampleBatch
	}
	return r, ofFlag(r.Validate())
}
