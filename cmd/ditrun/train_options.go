package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
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
	fetch                      bool

	pictures pictureOptions

	runConfig string                 // the configuration that --resume brings, "" for none
	given     func(flag string) bool // whether a flag was set
}

func (o *trainOptions) flags() []cli.Flag {
	d, c := training.DefaultConfig, &o.config
	list := []cli.Flag{
		&cli.StringFlag{Name: "data", Destination: &o.data,
			Usage: "`PATH`: latents; or pictures, which --vae then encodes at every step"},
	}
	list = append(list, o.pictures.flags("the cores less one")...)
	list = append(list,
		&cli.StringFlag{Name: "data-order", Destination: &c.DataOrder, Value: d.DataOrder,
			Usage: "`shuffle|block`: order of the samples; block is for disks that are slow at single reads"},
		&cli.BoolFlag{Name: "data-on-device", Destination: &o.dataOnDevice, DisableDefaultText: true,
			Usage: "keep all latents in the memory of the device"},
		&cli.StringFlag{Name: "model", Destination: &o.model, Value: "DiT-XL/2",
			Usage: "`NAME`: DiT-S, B, L or XL with /2, /4 or /8, or DiT-WIDTHxDEPTHxHEADS/PATCH"},
		&cli.StringFlag{Name: "block", Destination: &o.block, Value: dit.AdaLNZero.String(),
			Usage: "`NAME`: in-context, cross-attention, adaln or adaln-zero"},
		&cli.StringFlag{Name: "condition", Destination: &o.condition, Value: dit.OnClass.String(),
			Usage: "`NAME`: what the model is told: class, text, text+class or none"},
		&cli.BoolFlag{Name: "unconditional", Destination: &o.unconditional, DisableDefaultText: true,
			Usage: "short for --condition none"},
		&cli.StringFlag{Name: "init-from", Destination: &o.initFrom, DefaultText: "new weights",
			Usage: "`PATH|NAME`: start from these weights, anything that sample --ckpt takes"},
		imageSizeVar(&o.imageSize, "that of the latents",
			"crop pictures to `PIXELS` a side, or HEIGHTxWIDTH; latents must have that size"),
		&cli.IntFlag{Name: "num-classes", Destination: &o.numClasses, DefaultText: "those of the latents",
			Usage: "make room for `N` classes, as many as the data have or more"},
	)
	list = append(list, o.objective()...)
	list = append(list, o.recipe()...)
	return append(list,
		&cli.IntFlag{Name: "log-every", Destination: &c.LogEvery, Value: d.LogEvery,
			Usage: "`STEPS`: steps between log lines"},
		&cli.IntFlag{Name: "ckpt-every", Destination: &c.CkptEvery, Value: d.CkptEvery,
			Usage: "`STEPS`: steps between checkpoints"},
		&cli.IntFlag{Name: "keep-last", Destination: &c.KeepLast, DefaultText: "all",
			Usage: "keep only the last `N` checkpoints"},
		&cli.IntFlag{Name: "keep-every", Destination: &c.KeepEvery, DefaultText: "none",
			Usage: "with --keep-last: also keep one every `STEPS`"},
		&cli.IntFlag{Name: "sample-every", Destination: &c.SampleEvery, DefaultText: "never",
			Usage: "`STEPS`: steps between previews; needs the autoencoder"},
		&cli.StringFlag{Name: "vae", Destination: &o.vae, DefaultText: "that of the latents, where it is found",
			Usage: "`PATH|NAME`: the autoencoder that made the latents, for previews; or that encodes pictures"},
		fetchFlag(&o.fetch),
		&cli.StringFlag{Name: "metrics-addr", Destination: &o.metricsAddr, DefaultText: "nowhere",
			Usage: "serve Prometheus metrics at `HOST:PORT`"},
		&cli.StringFlag{Name: "results-dir", Destination: &o.resultsDir, Value: "results",
			Usage: "make the run folder in `DIR`"},
		&cli.StringFlag{Name: "run-dir", Destination: &o.runDir,
			Usage: "use `DIR` as the run folder, instead of a new one in --results-dir"},
		&cli.StringFlag{Name: "resume", Destination: &o.resume, Value: "none",
			Usage: "go on from `RUN`: a run folder, a checkpoint, a .pt of DiT, or auto: the newest run with " +
				"equal flags"},
		&cli.StringFlag{Name: "config",
			Usage: "take flags from a YAML `FILE`, or from a preset: " + strings.Join(presetNames(), ", ")},
	)
}

// objective are the flags that say what the model is trained on.
func (o *trainOptions) objective() []cli.Flag {
	d, c := training.DefaultConfig, &o.config
	return []cli.Flag{
		&cli.StringFlag{Name: "objective", Destination: &c.Objective, Value: d.Objective,
			Usage: "`NAME`: what the model predicts: eps, as DiT does, or on a path velocity, noise, score or data"},
		&cli.StringFlag{Name: "path", Destination: &c.Path, DefaultText: "linear, for all objectives but eps",
			Usage: "`linear|gvp|vp`: path from noise, at time 0, to data, at 1"},
		&cli.StringFlag{Name: "time-sampling", Destination: &c.TimeSampling, Value: d.TimeSampling,
			Usage: "`uniform|logit-normal`: times of training on a path; logit-normal:MEAN,STD for others than 0,1"},
		&cli.Float64Flag{Name: "time-shift", Destination: &c.TimeShift, Value: d.TimeShift,
			Usage: "shift the times on a path: `S` below 1 towards noise, above 1 towards data"},
		&cli.StringFlag{Name: "loss-weight", Destination: &c.LossWeight, Value: d.LossWeight,
			Usage: "`NAME`: none; for eps min-snr; for noise, score and data velocity or likelihood"},
	}
}

// recipe are the flags that decide what is computed of the data.
func (o *trainOptions) recipe() []cli.Flag {
	d, c := training.DefaultConfig, &o.config
	return []cli.Flag{
		&cli.IntFlag{Name: "global-batch-size", Destination: &c.GlobalBatchSize, Value: d.GlobalBatchSize,
			Usage: "samples a step, of all processes together"},
		&cli.IntFlag{Name: "epochs", Destination: &c.Epochs, Value: d.Epochs,
			DefaultText: fmt.Sprintf("%d; no limit with --max-steps", d.Epochs),
			Usage:       "stop after `N` passes over the data"},
		&cli.IntFlag{Name: "max-steps", Destination: &c.MaxSteps, DefaultText: "no limit",
			Usage: "stop after `STEPS`, even before the last epoch"},
		&cli.Float64Flag{Name: "lr", Destination: &c.LR, Value: d.LR,
			Usage: "learning rate of AdamW"},
		&cli.IntFlag{Name: "warmup-steps", Destination: &c.WarmupSteps,
			Usage: "raise the learning rate from 0 over the first `STEPS`"},
		&cli.StringFlag{Name: "lr-schedule", Destination: &c.LRSchedule, Value: d.LRSchedule,
			Usage: "`NAME`: learning rate after warm-up: constant, linear or cosine"},
		&cli.Float64Flag{Name: "final-lr", Destination: &c.FinalLR,
			Usage: "where linear and cosine end: a `SHARE` of the learning rate, from 0 to 1"},
		&cli.Float64Flag{Name: "weight-decay", Destination: &c.WeightDecay, Value: d.WeightDecay,
			Usage: "weight decay of AdamW"},
		&cli.Float64Flag{Name: "ema-decay", Destination: &c.EMADecay, Value: d.EMADecay,
			DefaultText: "0.9999, less for a short run",
			Usage:       "decay a step of the average of the weights, which samples are drawn with"},
		&cli.BoolFlag{Name: "ema-warmup", Destination: &c.EMAWarmup, DisableDefaultText: true,
			Usage: "average over fewer steps as long as there are few"},
		&cli.IntFlag{Name: "gradient-accumulation-steps", Destination: &c.Accumulation, Value: 1,
			Usage: "take each batch in `N` parts, for less memory"},
		&cli.BoolFlag{Name: "recompute-activations", Destination: &c.Recompute, DisableDefaultText: true,
			Usage: "compute blocks again for gradients: less memory, a third more time"},
		&cli.Float64Flag{Name: "max-grad-norm", Destination: &c.MaxGradNorm, DefaultText: "no clipping",
			Usage: "clip gradients: scale them down to a total norm of `NUMBER`"},
		&cli.Float64Flag{Name: "class-dropout-prob", Destination: &o.classDropoutProb, Value: dit.XL2.ClassDropoutProb,
			Usage: "`SHARE`: share of labels that are dropped, from 0 to 1; guidance needs some"},
		&cli.Float64Flag{Name: "flip-prob", Destination: &c.FlipProb, Value: -1,
			DefaultText: "0.5 if the latents allow",
			Usage:       "`SHARE`: share of samples that are mirrored, from 0 to 1"},
		precisionFlag(&c.Precision, "type of the arithmetic, of previews too: fp32, tf32 or bf16"),
		&cli.Uint64Flag{Name: "global-seed", Destination: &c.GlobalSeed,
			Usage: "seed of weights, order, noise, timesteps and dropped labels"},
		&cli.BoolFlag{Name: "deterministic", Destination: &c.Deterministic, DisableDefaultText: true,
			Usage: "use only algorithms that give the same bits again"},
		&cli.StringFlag{Name: "on-bad-step", Destination: &c.OnBadStep, Value: d.OnBadStep,
			Usage: "`NAME`: after a loss of NaN or a spike: stop, skip the step, or rollback to the last checkpoint"},
		&cli.Float64Flag{Name: "spike-factor", Destination: &c.SpikeFactor, DefaultText: "never",
			Usage: "a loss above `NUMBER` times its running mean is a spike"},
	}
}

// trainGroups are the flags of train by purpose, for help.
var trainGroups = []group{
	{"Model", "model block condition unconditional num-classes image-size init-from fetch"},
	{"Objective", "objective path time-sampling time-shift loss-weight"},
	{"Optimisation", "global-batch-size lr warmup-steps lr-schedule final-lr weight-decay max-grad-norm ema-decay " +
		"ema-warmup class-dropout-prob flip-prob"},
	{"Length and checkpoints", "epochs max-steps ckpt-every keep-last keep-every"},
	{"Run folder", "results-dir run-dir resume config"},
	{"Watching", "log-every sample-every vae metrics-addr"},
	{"Speed and memory", "precision gradient-accumulation-steps recompute-activations data-on-device data-order"},
	{"Failures", "on-bad-step spike-factor"},
	{"Repeatability", "global-seed deterministic"},
	{"Where --data is pictures", "labels orientation on-error num-workers"},
}

// notOfTheRun are flags that may change when a run is continued.
var notOfTheRun = []string{"resume", "max-steps", "epochs", "device", "threads", "no-fused", "results-dir", "run-dir",
	"data", "vae", "metrics-addr", "log-every", "ckpt-every", "sample-every",
	"labels", "num-workers", "data-on-device", "keep-last", "keep-every", "gradient-accumulation-steps",
	"recompute-activations", "on-bad-step",
	"orientation", "on-error"}

// pathFlags are paths, which config.yaml has in full: they stay what they are where another command reads it.
var pathFlags = []string{"data", "labels", "vae", "init-from", "results-dir"}

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

// ofRun adds to an error about the autoencoder that the run to be resumed names it, where it does.
func (o *trainOptions) ofRun(err error) error {
	if o.runConfig == "" {
		return err
	}
	if named, _ := runs.Autoencoder(filepath.Dir(o.runConfig)); named != o.vae {
		return err
	}
	if _, gone := os.Stat(o.vae); gone != nil {
		err = disk.Bare(gone)
	}
	err = &sampling.VAEError{Config: o.runConfig, Path: o.vae, Err: err}
	return withVAEHint(fmt.Errorf("resume %s: %w", o.resume, err))
}

// check also reads the model's name and designs into the configuration.
func (o *trainOptions) check(given func(string) bool) error {
	c := &o.config
	o.given = given
	if o.data == "" && o.resumesByName() && given("config") {
		return usagef("--resume %s, --config: the run has a configuration of its own; leave --config out", o.resume)
	}
	if o.data == "" && o.resumesByName() && o.runConfig == "" { // and so --data could not come from the run
		return withHint(fmt.Errorf("--resume %s: no run is there: want its folder, with a %s", o.resume,
			runs.ConfigName),
			"runs are in --results-dir, such as results/000-DiT-XL-2; --resume auto finds the newest")
	}
	if err := require("train", required{"data", o.data}); err != nil {
		return err
	}
	if given("max-steps") && !given("epochs") { // the steps are what was asked for
		c.Epochs = 0
	}
	if c.Epochs == 0 && c.MaxSteps == 0 {
		return usagef("--epochs 0: want at least 1, or a limit by --max-steps")
	}
	if err := atLeast(1, "gradient-accumulation-steps", c.Accumulation); err != nil {
		return err
	}
	if err := refuseEmpty(required{"objective", c.Objective}, required{"time-sampling", c.TimeSampling},
		required{"loss-weight", c.LossWeight}); err != nil {
		return err
	}
	if err := o.checkObjective(); err != nil {
		return err
	}
	recipe := *c // with what complete decides
	recipe.FlipProb, recipe.Precision = max(c.FlipProb, 0), cmp.Or(c.Precision, nn.FP32)
	if err := recipe.ValidateRecipe(); err != nil {
		return ofFlag(err)
	}
	if err := o.pictures.check(); err != nil {
		return err
	}
	var err error
	if c.Model, err = modelNamed(o.model); err != nil {
		return err
	}
	if c.Model.Block, err = dit.ParseBlock(o.block); err != nil {
		return ofFlag(err)
	}
	if c.Model.Condition, err = dit.ParseCondition(o.condition); err != nil {
		return ofFlag(err)
	}
	return o.checkCondition()
}

// checkObjective refuses another objective than that of the run that --resume names, before settings of the run that do
// not go with it are taken for flags.
func (o *trainOptions) checkObjective() error {
	if o.runConfig == "" || o.config.Process().Validate() != nil {
		return nil
	}
	before := training.DefaultConfig
	for name, value := range map[string]*string{"objective": &before.Objective, "path": &before.Path} {
		text, err := runs.Setting(filepath.Dir(o.runConfig), name)
		if err != nil {
			return err
		}
		*value = cmp.Or(text, *value)
	}
	if err := training.SameObjective(before, o.config); err != nil {
		return fmt.Errorf("--resume %s: %w", o.resume, err)
	}
	return nil
}

// checkCondition is check for what the model is told, which a run keeps.
func (o *trainOptions) checkCondition() error {
	c := &o.config
	if before, known := o.conditionOfRun(); known { // from which come the flags that were not given
		flag, asked := "--condition "+o.condition, c.Model.Condition
		if o.unconditional && asked == before {
			flag, asked = "--unconditional", dit.OnNothing
		}
		if asked != before {
			return withHint(usagef("--resume %s: the run has --condition %s, %s asks for another model", o.resume,
				before, flag), "leave %s out to continue the run; without --resume a new one begins", flag)
		}
		return nil
	}
	if o.unconditional && c.Model.Condition != dit.OnNothing {
		if o.given("condition") {
			return usagef("train: --unconditional and --condition %s exclude each other", c.Model.Condition)
		}
		c.Model.Condition = dit.OnNothing
	}
	return nil
}

// conditionOfRun is what the model of the run that --resume names is told.
func (o *trainOptions) conditionOfRun() (kind dit.ConditionKind, known bool) {
	if o.runConfig == "" {
		return kind, false
	}
	text, err := runs.Setting(filepath.Dir(o.runConfig), "condition")
	if err != nil || text == "" {
		return kind, false
	}
	kind, err = dit.ParseCondition(text)
	return kind, err == nil
}

// fitToClasses makes the model an unconditional one where the data have no classes and no flag asks for some. A model
// that --init-from or --resume brings stays what it is.
func (o *trainOptions) fitToClasses(e *env, set samples.Set) {
	if !classes.None(set.Classes) || o.config.Model.Condition != dit.OnClass || o.resumesByName() {
		return
	}
	if o.initFrom != "" || o.given("condition") || o.given("num-classes") {
		e.warn("the data have no classes: to the model all pictures are of one, number 0")
		return
	}
	o.unconditional, o.config.Model.Condition = true, dit.OnNothing
	e.printf("the data have no classes: the model is unconditional, as with --unconditional")
}

// checkBatch returns an error if the samples are not enough for a batch.
func (o *trainOptions) checkBatch(set samples.Set) error {
	err := o.config.CheckBatch(set.Samples)
	if err == nil {
		return nil
	}
	hint := "give a smaller batch"
	if set.Samples >= 16 { // the smallest batch of a preset
		hint += fmt.Sprintf("; --config %s has settings for so few pictures", presetFor(set.Samples))
	}
	return withHint(fmt.Errorf("--%w", err), "%s", hint)
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
	c.Path = c.Process().Path
	if c.FlipProb < 0 {
		c.FlipProb = 0
		if set.Flip {
			c.FlipProb = training.DefaultConfig.FlipProb
		}
	}
	c.Precision = c.Precision.On(dev)
	if err := c.Validate(); err != nil {
		return ofFlag(err)
	}
	if err := o.checkBatch(set); err != nil {
		return err
	}
	if o.initFrom != "" { // by which --resume auto finds the run, wherever it is given
		if o.initFrom, err = filepath.Abs(o.initFrom); err != nil {
			return err
		}
	}
	o.imageSize, o.numClasses = c.ImageSize, c.Model.NumClasses
	o.block, o.condition = c.Model.Block.String(), c.Model.Condition.String()
	return nil
}
