package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
)

// trainOptions are the flags of train.
type trainOptions struct {
	config training.Config // bound to flags, but for what the data decide: see complete

	data         string
	dataOnDevice bool

	model            string // what config.Model is made of
	block, condition string
	unconditional    bool
	numClasses       int
	classDropoutProb float64
	initFrom         string
	imageSize        picture.Size // zero: that of the latents

	vae                        string
	metricsAddr                string
	resultsDir, runDir, resume string

	pictures pictureOptions

	runConfig string                 // the configuration that --resume brings, "" for none
	given     func(flag string) bool // whether a flag was set
}

func (o *trainOptions) flags() []cli.Flag {
	d, c := training.DefaultConfig, &o.config
	list := []cli.Flag{
		&cli.StringFlag{Name: "data", Destination: &o.data,
			Usage: "latents in `DIR`; or pictures, encoded at every step by --vae"},
	}
	list = append(list, o.pictures.flags("the cores less one")...)
	list = append(list,
		&cli.StringFlag{Name: "data-order", Destination: &c.DataOrder, Value: d.DataOrder,
			Usage: "shuffle, or block for disks slow at single latents"},
		&cli.BoolFlag{Name: "data-on-device", Destination: &o.dataOnDevice, DisableDefaultText: true,
			Usage: "all latents in the memory of the device"},
		&cli.StringFlag{Name: "model", Destination: &o.model, Value: "DiT-XL/2",
			Usage: "DiT-S/2 ... DiT-XL/8, or DiT-WIDTHxDEPTHxHEADS/PATCH"},
		&cli.StringFlag{Name: "block", Destination: &o.block, Value: dit.AdaLNZero.String(),
			Usage: "in-context, cross-attention, adaln or adaln-zero"},
		&cli.StringFlag{Name: "condition", Destination: &o.condition, Value: dit.OnClass.String(),
			Usage: "class, text, text+class or none"},
		&cli.BoolFlag{Name: "unconditional", Destination: &o.unconditional, DisableDefaultText: true,
			Usage: "short for --condition none"},
		&cli.StringFlag{Name: "init-from", Destination: &o.initFrom, DefaultText: "new weights",
			Usage: "start from weights at `PATH`, as sample --ckpt takes"},
		imageSizeVar(&o.imageSize, "that of the latents", "`PIXELS` a side, or HEIGHTxWIDTH; checked"),
		&cli.IntFlag{Name: "num-classes", Destination: &o.numClasses, DefaultText: "those of the latents",
			Usage: "`N` classes"},
	)
	list = append(list, o.recipe()...)
	return append(list,
		&cli.IntFlag{Name: "log-every", Destination: &c.LogEvery, Value: d.LogEvery,
			Usage: "steps between log lines"},
		&cli.IntFlag{Name: "ckpt-every", Destination: &c.CkptEvery, Value: d.CkptEvery,
			Usage: "steps between checkpoints"},
		&cli.IntFlag{Name: "keep-last", Destination: &c.KeepLast, DefaultText: "all",
			Usage: "keep the last `N` checkpoints"},
		&cli.IntFlag{Name: "keep-every", Destination: &c.KeepEvery, DefaultText: "none",
			Usage: "with --keep-last: and those of every `N` steps"},
		&cli.IntFlag{Name: "sample-every", Destination: &c.SampleEvery, DefaultText: "never",
			Usage: "steps between previews; needs --vae"},
		&cli.StringFlag{Name: "vae", Destination: &o.vae,
			Usage: "the autoencoder in `DIR` that made the latents, for previews"},
		&cli.StringFlag{Name: "metrics-addr", Destination: &o.metricsAddr, DefaultText: "nowhere",
			Usage: "serve Prometheus metrics at `HOST:PORT`"},
		&cli.StringFlag{Name: "results-dir", Destination: &o.resultsDir, Value: "results",
			Usage: "`DIR` for run folders"},
		&cli.StringFlag{Name: "run-dir", Destination: &o.runDir,
			Usage: "the run folder itself, `DIR`, instead of one in --results-dir"},
		&cli.StringFlag{Name: "resume", Destination: &o.resume, Value: "none",
			Usage: "none, auto (newest run with equal flags), a folder, a .pt"},
		&cli.StringFlag{Name: "config",
			Usage: "flags from a YAML `FILE`; or " + strings.Join(presetNames(), ", ")},
	)
}

// recipe are the flags that decide what is computed of the data.
func (o *trainOptions) recipe() []cli.Flag {
	d, c := training.DefaultConfig, &o.config
	return []cli.Flag{
		&cli.IntFlag{Name: "global-batch-size", Destination: &c.GlobalBatchSize, Value: d.GlobalBatchSize,
			Usage: "`N` samples a step"},
		&cli.IntFlag{Name: "epochs", Destination: &c.Epochs, Value: d.Epochs,
			Usage: "passes over the data"},
		&cli.IntFlag{Name: "max-steps", Destination: &c.MaxSteps, DefaultText: "no limit",
			Usage: "end after `N` steps even before the last epoch"},
		&cli.Float64Flag{Name: "lr", Destination: &c.LR, Value: d.LR,
			Usage: "learning rate"},
		&cli.IntFlag{Name: "warmup-steps", Destination: &c.WarmupSteps,
			Usage: "raise the learning rate over the first `N` steps"},
		&cli.StringFlag{Name: "lr-schedule", Destination: &c.LRSchedule, Value: d.LRSchedule,
			Usage: "constant, linear or cosine"},
		&cli.Float64Flag{Name: "final-lr", Destination: &c.FinalLR,
			Usage: "where linear and cosine end, as a `SHARE` of the learning rate"},
		&cli.Float64Flag{Name: "weight-decay", Destination: &c.WeightDecay, Value: d.WeightDecay,
			Usage: "AdamW's weight decay"},
		&cli.Float64Flag{Name: "ema-decay", Destination: &c.EMADecay, Value: d.EMADecay,
			Usage: "of the average of the weights that is sampled from"},
		&cli.BoolFlag{Name: "ema-warmup", Destination: &c.EMAWarmup, DisableDefaultText: true,
			Usage: "average over fewer steps while there are few"},
		&cli.IntFlag{Name: "gradient-accumulation-steps", Destination: &c.Accumulation, Value: 1,
			Usage: "take a batch in `N` parts, for less memory"},
		&cli.BoolFlag{Name: "recompute-activations", Destination: &c.Recompute, DisableDefaultText: true,
			Usage: "compute blocks again for gradients, for less memory"},
		&cli.Float64Flag{Name: "max-grad-norm", Destination: &c.MaxGradNorm, DefaultText: "no clipping",
			Usage: "scale gradients down to this `NORM`"},
		&cli.Float64Flag{Name: "class-dropout-prob", Destination: &o.classDropoutProb, Value: dit.XL2.ClassDropoutProb,
			Usage: "share of labels dropped, for guidance"},
		&cli.Float64Flag{Name: "flip-prob", Destination: &c.FlipProb, Value: -1,
			DefaultText: "0.5 if the latents allow",
			Usage:       "share of mirrored views"},
		&cli.StringFlag{Name: "precision", Destination: &c.Precision, DefaultText: "tf32 on CUDA, else fp32",
			Usage: "fp32, tf32 or bf16"},
		&cli.Uint64Flag{Name: "global-seed", Destination: &c.GlobalSeed,
			Usage: "of weights, order, noise, timesteps and dropped labels"},
		&cli.BoolFlag{Name: "deterministic", Destination: &c.Deterministic, DisableDefaultText: true,
			Usage: "only algorithms that give the same bits again"},
		&cli.StringFlag{Name: "on-bad-step", Destination: &c.OnBadStep, Value: d.OnBadStep,
			Usage: "after NaN or a spike: stop, skip or rollback"},
		&cli.Float64Flag{Name: "spike-factor", Destination: &c.SpikeFactor, DefaultText: "never",
			Usage: "a loss above `F` times its mean is a spike"},
	}
}

// notOfTheRun are flags that may change when a run is continued.
var notOfTheRun = []string{"resume", "max-steps", "epochs", "device", "threads", "results-dir", "run-dir", "data",
	"vae", "metrics-addr", "log-every", "ckpt-every", "sample-every",
	"labels", "num-workers", "data-on-device", "keep-last", "keep-every", "gradient-accumulation-steps",
	"recompute-activations", "on-bad-step",
	"orientation", "on-error"}

// pathFlags are paths, which config.yaml has in full: they stay what they are where another command reads it.
// --init-from is not among them, since it is in the hash by which --resume auto finds a run.
var pathFlags = []string{"data", "labels", "vae", "results-dir"}

// resumesByName says whether --resume names a run, or a checkpoint of one.
func (o *trainOptions) resumesByName() bool {
	return o.resume != "none" && o.resume != "auto" && !isOriginal(o.resume)
}

// configOfRun is the configuration of the run that --resume names, "" where it names none.
func (o *trainOptions) configOfRun() string {
	if !o.resumesByName() {
		return ""
	}
	dir := o.resume
	if !runs.Is(dir) {
		var err error
		if dir, err = runFolderOf(dir); err != nil {
			return "" // what is wrong with it is said when the run is to go on
		}
	}
	if path := filepath.Join(dir, runs.ConfigName); exists(path) {
		o.runConfig = path
	}
	return o.runConfig
}

// check also reads the model's name and designs into the configuration.
func (o *trainOptions) check(given func(string) bool) error {
	c := &o.config
	o.given = given
	if o.data == "" && o.resumesByName() && o.runConfig == "" { // and so --data could not come from the run
		return withHint(fmt.Errorf("--resume %s: no run is there: want its folder, with a %s", o.resume,
			runs.ConfigName),
			"runs are in --results-dir, such as results/000-DiT-XL-2; --resume auto finds the newest")
	}
	if err := require("train", required{"data", o.data}); err != nil {
		return err
	}
	// For the library 0 is no limit of one, and the default of the other.
	if err := atLeast(1, "epochs", c.Epochs); err != nil {
		return err
	}
	if err := atLeast(1, "gradient-accumulation-steps", c.Accumulation); err != nil {
		return err
	}
	recipe := *c // with what complete decides
	recipe.FlipProb, recipe.Precision = max(c.FlipProb, 0), cmp.Or(c.Precision, "fp32")
	if err := recipe.ValidateRecipe(); err != nil {
		return ofFlag(err)
	}
	if err := o.pictures.check(); err != nil {
		return err
	}
	if c.SampleEvery > 0 && o.vae == "" {
		return withHint(usagef("train: --sample-every needs --vae"),
			"give the folder that encode-latents was given with --vae")
	}
	var err error
	if c.Model, err = dit.Named(o.model); err != nil {
		return ofFlag(err)
	}
	if c.Model.Block, err = dit.ParseBlock(o.block); err != nil {
		return ofFlag(err)
	}
	if c.Model.Condition, err = dit.ParseCondition(o.condition); err != nil {
		return ofFlag(err)
	}
	if o.unconditional && c.Model.Condition != dit.OnNothing {
		if given("condition") {
			return usagef("train: --unconditional and --condition %s exclude each other", c.Model.Condition)
		}
		c.Model.Condition = dit.OnNothing
	}
	return nil
}

// complete decides what flags leave to the data and the device: the input and the condition of the model, the share of
// mirrored views, the precision. The flags then have these values, so that config.yaml does.
func (o *trainOptions) complete(set samples.Set, dev torch.Device) (err error) {
	c := &o.config
	c.Model.ClassDropoutProb = o.classDropoutProb
	if c.Model, err = training.FitModel(c.Model, set, o.numClasses); err != nil {
		return withHint(fmt.Errorf("%s has no captions, for --condition %s", o.data, c.Model.Condition),
			"encode-latents --captions adds them to latents")
	}
	if size := cmp.Or(o.imageSize, set.ImageSize); size != set.ImageSize {
		return fmt.Errorf("%s holds latents of %s-pixel images, --image-size asks for %s", o.data, set.ImageSize, size)
	}
	if o.pictures.orientation == picture.ByEXIF && set.Orientation != picture.ByEXIF {
		return withHint(fmt.Errorf("%s holds latents of pictures as they were stored, --orientation exif asks "+
			"for others", o.data), "encode-latents --orientation exif makes them")
	}
	c.ImageSize, c.Orientation = set.ImageSize, set.Orientation
	if c.FlipProb < 0 {
		c.FlipProb = 0
		if set.Flip {
			c.FlipProb = training.DefaultConfig.FlipProb
		}
	}
	if c.Precision == "" {
		c.Precision = "fp32"
		if dev.IsCUDA() {
			c.Precision = "tf32"
		}
	}
	if err := c.Validate(); err != nil {
		return ofFlag(err)
	}
	o.imageSize, o.numClasses = c.ImageSize, c.Model.NumClasses
	o.block, o.condition = c.Model.Block.String(), c.Model.Condition.String()
	return nil
}
