package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/bench"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/scaling"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// planOptions are the flags of plan.
type planOptions struct {
	config                       training.Config // what is used of it: batch, steps, checkpoints
	model, block, condition, gpu string
	imageSize                    picture.Size
	data                         string
	pictures, microBatch, gpus   int
	precision                    nn.Precision
	price                        float64
}

// imageNet is the number of pictures of ImageNet-1k's training set.
const imageNet = 1_281_167

func (o *planOptions) flags() []cli.Flag {
	c, d := &o.config, training.DefaultConfig
	return []cli.Flag{
		&cli.StringFlag{Name: "model", Destination: &o.model, Value: "DiT-XL/2",
			Usage: "`NAME`: a model that train --model takes"},
		&cli.StringFlag{Name: "block", Destination: &o.block, Value: dit.AdaLNZero.String(),
			Usage: "`NAME`: in-context, cross-attention, adaln or adaln-zero"},
		&cli.StringFlag{Name: "condition", Destination: &o.condition, Value: "class",
			Usage: "`NAME`: class, text, text+class or none; text is CLIP's, 77x768"},
		imageSizeVar(&o.imageSize, "256, or that of --data", "pictures of `PIXELS` a side, or HEIGHTxWIDTH"),
		&cli.StringFlag{Name: "data", Destination: &o.data, DefaultText: "ImageNet-1k",
			Usage: "the latents at `PATH`: how many, and of which size"},
		&cli.IntFlag{Name: "num-samples", Destination: &o.pictures, DefaultText: "those of --data",
			Usage: "train on `N` pictures"},
		&cli.IntFlag{Name: "global-batch-size", Destination: &c.GlobalBatchSize, Value: d.GlobalBatchSize,
			Usage: "samples a step, of all GPUs together"},
		&cli.IntFlag{Name: "micro-batch", Destination: &o.microBatch, DefaultText: "as many as fit",
			Usage: "samples that go through the model at once, on one GPU"},
		&cli.IntFlag{Name: "epochs", Destination: &c.Epochs, Value: d.Epochs,
			DefaultText: fmt.Sprintf("%d; no limit with --max-steps", d.Epochs),
			Usage:       "stop after `N` passes over the data"},
		&cli.IntFlag{Name: "max-steps", Destination: &c.MaxSteps, DefaultText: "no limit", Usage: "stop after `STEPS`"},
		&cli.IntFlag{Name: "ckpt-every", Destination: &c.CkptEvery, Value: d.CkptEvery,
			Usage: "`STEPS`: steps between checkpoints"},
		&cli.IntFlag{Name: "keep-last", Destination: &c.KeepLast, DefaultText: "all",
			Usage: "keep only the last `N` checkpoints"},
		precisionFlag(&o.precision, "type of the arithmetic: fp32, tf32 or bf16"),
		&cli.StringFlag{Name: "gpu", Destination: &o.gpu, DefaultText: "this machine, measured",
			Usage: "`NAME`: plan for another device: " + strings.Join(machine.Devices(), ", ")},
		&cli.IntFlag{Name: "gpus", Destination: &o.gpus, Value: 1, Usage: "train on `N` GPUs"},
		&cli.Float64Flag{Name: "price", Destination: &o.price, DefaultText: "not known",
			Usage: "what one GPU costs an hour, in any currency: `AMOUNT`"},
	}
}

func (o *planOptions) check(given func(string) bool) error {
	for _, f := range []struct {
		name  string
		value int
	}{{"global-batch-size", o.config.GlobalBatchSize}, {"gpus", o.gpus}, {"ckpt-every", o.config.CkptEvery},
		{"micro-batch", cmp.Or(o.microBatch, 1)}, {"num-samples", cmp.Or(o.pictures, 1)},
		{"max-steps", cmp.Or(o.config.MaxSteps, 1)}, {"epochs", cmp.Or(o.config.Epochs, 1)},
		{"keep-last", cmp.Or(o.config.KeepLast, 1)}} {
		if err := atLeast(1, f.name, f.value); err != nil {
			return err
		}
	}
	if o.price < 0 || math.IsNaN(o.price) || math.IsInf(o.price, 0) {
		return usagef("--price %g: want an amount", o.price)
	}
	if o.config.MaxSteps > 0 && !given("epochs") {
		o.config.Epochs = 0
	}
	if n := o.config.GlobalBatchSize; n%o.gpus != 0 {
		return usagef("--global-batch-size %d: not divisible by %d GPUs", n, o.gpus)
	}
	if each := o.config.GlobalBatchSize / o.gpus; o.microBatch > each || o.microBatch > 0 && each%o.microBatch != 0 {
		return usagef("--micro-batch %d: want a divisor of the %d samples of a GPU", o.microBatch, each)
	}
	if err := cmp.Or(o.precision, nn.FP32).Validate(); err != nil {
		return ofFlag(err)
	}
	if o.gpu != "" {
		device, ok := machine.DeviceNamed(o.gpu)
		if !ok {
			return withHint(usagef("--gpu %s: unknown", o.gpu), "known are %s; without --gpu this machine is measured",
				strings.Join(machine.Devices(), ", "))
		}
		for _, flag := range []string{"precision", "gpus", "micro-batch"} {
			if device.TFLOPS > 0 && given(flag) {
				return usagef("--%s: has no effect, of %s the whole is known alone", flag, device.Name)
			}
		}
		o.precision = cmp.Or(o.precision, nn.TF32)
		if _, known := device.Reached(string(o.precision)); !known {
			return usagef("--precision %s: its speed on %s is not known", o.precision, o.gpu)
		}
	}
	if err := checkModel(o.model); err != nil {
		return err
	}
	return checkLatentSize(cmp.Or(o.imageSize, picture.Square(256)))
}

func planCommand() *cli.Command {
	o := &planOptions{}
	return newCommand(spec{
		name:  "plan",
		usage: "what a training run takes: memory, time, money, disk",
		description: "Measures training steps on this machine for some seconds, or takes a named\n" +
			"GPU, and works out from that and from the sizes of the model what a whole\n" +
			"run takes. It writes nothing.",
		example: "ditrun plan --model DiT-S/2 --data latents --max-steps 10000\n" +
			"ditrun plan --gpu H200 --gpus 8 --precision bf16 --max-steps 400000 --price 3.5",
		flags: o.flags(),
		groups: []group{
			{"The run", "model block condition image-size data num-samples global-batch-size epochs max-steps"},
			{"The device", "gpu gpus price precision micro-batch"},
			{"Checkpoints", "ckpt-every keep-last"},
		},
		check: o.check,
		alone: true,
		run:   func(e *env) error { return runPlan(e, o) },
	})
}

// A planMemory is what a plan says of memory, in bytes, for each GPU.
type planMemory struct {
	Base        int64 `json:"base"`  // of the process before it trains; 0 on a GPU
	State       int64 `json:"state"` // weights, gradients, moments, average, and at log steps the weights before
	Activations int64 `json:"activations"`
	Saving      int64 `json:"saving"` // what is written of a checkpoint while training goes on; 0 on a GPU
	Peak        int64 `json:"peak"`
	Available   int64 `json:"available"`
	MicroBatch  int   `json:"micro_batch"`
	Recompute   bool  `json:"recompute_activations"` // it fits with --recompute-activations alone
}

// A planResult is a plan as --json has it.
type planResult struct {
	Model           string       `json:"model"`
	Block           string       `json:"block"`
	ImageSize       string       `json:"image_size"`
	Params          int64        `json:"params"`
	GMACs           float64      `json:"gmacs"`
	Tokens          int          `json:"tokens"`
	Precision       nn.Precision `json:"precision"`
	Device          string       `json:"device"`
	Source          string       `json:"source"` // of its speed
	GPUs            int          `json:"gpus"`
	GlobalBatch     int          `json:"global_batch_size"`
	Samples         int          `json:"samples"`
	Steps           int          `json:"steps"`
	Memory          planMemory   `json:"memory"`
	Speed           *bench.Speed `json:"speed,omitempty"` // measured here
	StepSeconds     float64      `json:"step_seconds"`
	ImagesPerSecond float64      `json:"images_per_second"`
	TFLOPS          float64      `json:"tflops"` // of all GPUs
	Hours           float64      `json:"hours"`
	DeviceHours     float64      `json:"device_hours"`
	Price           float64      `json:"price,omitempty"`
	EnergyKWh       float64      `json:"energy_kwh,omitempty"` // at most
	CheckpointBytes int64        `json:"checkpoint_bytes"`
	Checkpoints     int          `json:"checkpoints"` // kept at once, at most
	LatentBytes     int64        `json:"latent_bytes"`
	TrafficBytes    int64        `json:"traffic_bytes,omitempty"` // a step and GPU
	Cheaper         []cheaper    `json:"cheaper,omitempty"`
	TextOverhead    float64      `json:"cross_attention_overhead"` // more arithmetic than adaLN-Zero, as a share
}

// A cheaper run is the same but for one flag.
type cheaper struct {
	Flag  string  `json:"flag"`
	Share float64 `json:"share"` // of the time
	Why   string  `json:"why"`
}

func runPlan(e *env, o *planOptions) error {
	cfg, err := o.resolve()
	if err != nil {
		return err
	}
	c := &o.config
	c.Model = cfg
	steps := c.Steps(o.pictures)
	r := planResult{Model: cfg.Name(), Block: cfg.Block.String(), ImageSize: o.imageSize.String(),
		Params: int64(cfg.NumParams()), GMACs: cfg.MACs() / 1e9, Tokens: cfg.NumTokens(), GPUs: o.gpus,
		GlobalBatch: c.GlobalBatchSize, Samples: o.pictures, Steps: steps}
	device, named := machine.DeviceNamed(o.gpu)
	var dev torch.Device
	if !named {
		if dev, err = e.openDevice(); err != nil {
			return err
		}
		o.precision = o.precision.On(dev)
	}
	if device.TFLOPS == 0 {
		r.Precision = o.precision
	}
	var job *bench.Job
	var one float64
	done := func() {}
	defer func() { done() }()
	if !named {
		done = e.waiting("measuring training steps")
		if job, one, err = o.begin(e, &r, dev); err != nil {
			return err
		}
	}
	if device.TFLOPS == 0 {
		if err = o.memory(&r.Memory, dev, device, named); err != nil {
			return err
		}
	}
	if named {
		r.Device, r.Source = device.Name, device.Said(cfg.Name(), string(o.precision))
		reached, _ := device.Reached(string(o.precision))
		r.StepSeconds = c.StepFLOPs() / 1e12 / reached / float64(o.gpus)
		r.EnergyKWh = device.Watts / 1e3 // times hours below
	} else if err := o.measure(e, &r, job, one); err != nil {
		return err
	}
	if r.Memory.Recompute {
		r.StepSeconds *= 4. / 3
	}
	r.ImagesPerSecond = float64(c.GlobalBatchSize) / r.StepSeconds
	r.TFLOPS = c.StepFLOPs() / 1e12 / r.StepSeconds
	r.Hours = float64(steps) * r.StepSeconds / 3600
	r.DeviceHours = r.Hours * float64(o.gpus)
	r.EnergyKWh *= r.DeviceHours
	r.Price = o.price * r.DeviceHours
	r.CheckpointBytes = c.CheckpointBytes()
	_, r.Checkpoints = c.Checkpoints(0, steps, 0)
	const views, moments, bytes = 2, 2, 2 // both mirror images, mean and deviation, F16
	r.LatentBytes = int64(o.pictures) * views * moments * bytes * int64(cfg.InChannels*cfg.InputSize*cfg.Width())
	if o.gpus > 1 {
		r.TrafficBytes = int64(2 * 4 * cfg.NumParams() * float64(o.gpus-1) / float64(o.gpus))
	}
	r.TextOverhead = overheadOf(cfg)
	r.Cheaper = o.cheaper(cfg, device, named)
	done()
	done = func() {}
	r.print(e, o)
	return e.result(r)
}

// resolve fills in what follows from the data, and returns the model.
func (o *planOptions) resolve() (cfg dit.Config, err error) {
	if cfg, err = modelNamed(o.model); err != nil {
		return cfg, err
	}
	if cfg.Block, err = dit.ParseBlock(o.block); err != nil {
		return cfg, ofFlag(err)
	}
	condition, err := dit.ParseCondition(o.condition)
	if err != nil {
		return cfg, ofFlag(err)
	}
	if o.data != "" {
		m, err := latents.ReadManifest(o.data)
		if err != nil {
			return cfg, withHint(err, "--data wants latents; for pictures give --num-samples and --image-size")
		}
		if o.imageSize.Height > 0 && o.imageSize != m.ImageSize {
			return cfg, usagef("--image-size %s: the latents are of %s-pixel pictures", o.imageSize, m.ImageSize)
		}
		o.imageSize = m.ImageSize
		o.pictures = cmp.Or(o.pictures, m.Dataset.Samples-len(m.Skipped))
		cfg.InChannels, cfg.NumClasses = m.Channels, max(1, len(m.Dataset.Classes))
		cfg.SetInput(m.Height, m.Width)
	} else {
		o.imageSize = cmp.Or(o.imageSize, picture.Square(256))
		cfg.SetInput(o.imageSize.Height/pixelsPerLatent, o.imageSize.Width/pixelsPerLatent)
	}
	o.pictures = cmp.Or(o.pictures, imageNet)
	cfg.SetCondition(condition, cfg.NumClasses, clipWidth, clipLength)
	if err := cfg.Validate(); err != nil {
		return cfg, usagef("%s at --image-size %s: %v", o.model, o.imageSize, err)
	}
	if o.config.GlobalBatchSize > o.pictures {
		return cfg, usagef("--global-batch-size %d: more than the %d pictures", o.config.GlobalBatchSize, o.pictures)
	}
	return cfg, nil
}

// ofTrain is the memory that `train` takes by itself beside its steps: for the order of the data, batches, plots and
// their fonts. Pages of the latents' files, which the system takes back when it needs them, are not in it.
const ofTrain = 15e6

// spare is the share of memory that stays free: of what kernels need for a moment, and of gaps between tensors.
const spare = 0.08

// memory works out what fits, each GPU with a share of the moments and averages (ZeRO-1).
func (o *planOptions) memory(m *planMemory, dev torch.Device, device machine.Device, named bool) error {
	cfg := o.config.Model
	switch {
	case named:
		m.Available = device.MemoryBytes
	case dev.IsCUDA():
		m.Base, m.Available = 0, dev.TotalMemory() // of its tensors
	default:
		m.Available = machine.ReadMemory().Available
	}
	params := cfg.NumParams()
	m.State = int64(params * (12 + 12/float64(o.gpus)))
	if m.Base > 0 {
		m.Base += ofTrain
		m.Saving = o.config.CheckpointBytes()
	}
	each := o.config.GlobalBatchSize / o.gpus
	kept := cfg.ActivationBytes(o.precision.DType())
	block := kept / float64(cfg.Depth)
	inputs := 4 * float64(cfg.NumTokens()*cfg.HiddenSize*cfg.Depth)
	for _, m.Recompute = range []bool{false, true} {
		per := kept
		if m.Recompute {
			per = inputs + block
		}
		for parts := 1; parts <= each; parts++ {
			if each%parts != 0 || o.microBatch > 0 && each/parts != o.microBatch {
				continue
			}
			m.MicroBatch = each / parts
			m.Activations = int64(per * float64(m.MicroBatch))
			m.Peak = m.Base + m.State + m.Activations + m.Saving
			if float64(m.Peak) <= (1-spare)*float64(m.Available) {
				return nil
			}
		}
	}
	return withHint(fmt.Errorf("%s does not fit: with %s at a time and --recompute-activations it takes %s, of %s",
		cfg.Name(), plural(m.MicroBatch, "sample"), format.Bytes(m.Peak), format.Bytes(m.Available)),
		"more --gpus share moments and averages; a smaller --model or --image-size takes less")
}

// begin measures the smallest step on this machine: its seconds, and what the program takes of memory by itself.
func (o *planOptions) begin(e *env, r *planResult, dev torch.Device) (job *bench.Job, one float64, err error) {
	if o.gpus > 1 {
		return nil, 0, withHint(usagef("--gpus %d: only one device can be measured here", o.gpus),
			"name one with --gpu")
	}
	if o.config.Model.HasText() {
		return nil, 0, withHint(usagef("--condition %s: only models of classes or of nothing are measured",
			o.condition), "name a device with --gpu")
	}
	r.Device = describeDevice(dev)
	job = &bench.Job{Device: dev, Model: o.config.Model, ImageSize: o.imageSize, Precision: o.precision,
		Warn: func(text string) { e.warn("%s", text) }}
	one, r.Memory.Base, err = job.One(e.ctx)
	return job, one, err
}

// measure measures the model on this machine.
func (o *planOptions) measure(e *env, r *planResult, job *bench.Job, one float64) error {
	job.Batch = r.Memory.MicroBatch
	speed, err := job.Calibrate(e.ctx, one)
	if err != nil {
		return err
	}
	if speed.Picture <= 0 {
		return errors.New("this machine is too busy to be measured: a larger batch took no longer than a small one")
	}
	r.Speed, r.Source = &speed, "measured here with steps of one and three blocks"
	if speed.Whole {
		r.Source = "measured here with whole steps"
	}
	r.StepSeconds = speed.Seconds(o.config.GlobalBatchSize)
	return nil
}

// overheadOf is how much more arithmetic cross-attention to the condition takes than adaLN-Zero.
func overheadOf(cfg dit.Config) float64 {
	cross, zero := cfg, cfg
	cross.Block, zero.Block = dit.CrossAttention, dit.AdaLNZero
	if cross.Validate() != nil || zero.Validate() != nil {
		return 0
	}
	return cross.MACs()/zero.MACs() - 1
}

// paperFID is the FID of a model in the paper, 0 for one that is not in it.
func paperFID(name string) float64 {
	for _, m := range scaling.Paper() {
		if m.Name == name {
			return m.FID
		}
	}
	return 0
}

// cheaper lists flags that make the run take less.
func (o *planOptions) cheaper(cfg dit.Config, device machine.Device, named bool) (list []cheaper) {
	if named && o.precision != nn.BF16 {
		now, _ := device.Reached(string(o.precision))
		if fast, ok := device.Reached(string(nn.BF16)); ok && fast > now {
			list = append(list, cheaper{"--precision bf16", now / fast, "products in bf16"})
		}
	}
	larger := cfg
	larger.PatchSize *= 2
	if larger.Validate() == nil {
		why := fmt.Sprintf("%d tokens instead of %d", larger.NumTokens(), cfg.NumTokens())
		if now, then := paperFID(cfg.Name()), paperFID(larger.Name()); now > 0 && then > 0 {
			why += fmt.Sprintf("; the paper's FID at 256 pixels is %.1f instead of %.1f", then, now)
		}
		list = append(list, cheaper{"--model " + larger.Name(), larger.MACs() / cfg.MACs(), why})
	}
	return list
}

func (r *planResult) print(e *env, o *planOptions) {
	e.item("model", fmt.Sprintf("%s %s, %s parameters, %s-pixel pictures, %s tokens, %.4g GMACs a forward pass",
		r.Model, r.Block, format.Count(r.Params), r.ImageSize, format.Count(int64(r.Tokens)), r.GMACs))
	if r.TextOverhead > 0 {
		e.item("", fmt.Sprintf("with --block cross-attention %.1f %% more arithmetic than with adaln-zero",
			100*r.TextOverhead))
	}
	e.item("device", fmt.Sprintf("%s, %s; %s", r.devices(), cmp.Or(r.Precision, "as it was"), r.Source))
	if r.Memory.Peak > 0 {
		r.printMemory(e)
	}
	e.item("speed", fmt.Sprintf("%s images/s, %s a step of %d, %s TFLOP/s", format.Rate(r.ImagesPerSecond),
		format.Duration(time.Duration(r.StepSeconds*float64(time.Second))), r.GlobalBatch, format.Rate(r.TFLOPS)))
	e.item("time", fmt.Sprintf("%.4g hours for %s steps, %.3g passes over %s pictures", r.Hours,
		format.Count(int64(r.Steps)), float64(r.Steps)*float64(r.GlobalBatch)/float64(r.Samples),
		format.Count(int64(r.Samples))))
	if o.price > 0 {
		amount := fmt.Sprintf("%.3g", r.Price)
		if r.Price >= 100 {
			amount = format.Count(int64(math.Round(r.Price)))
		}
		e.item("money", fmt.Sprintf("%s for %.4g device hours at %g", amount, r.DeviceHours, o.price))
	}
	if r.EnergyKWh > 0 {
		e.item("energy", fmt.Sprintf("at most %.3g kWh of the GPUs alone", r.EnergyKWh))
	}
	e.item("disk", fmt.Sprintf("%s of %s; latents of %s with mirrored pictures",
		plural(r.Checkpoints, "checkpoint"), format.Bytes(r.CheckpointBytes), format.Bytes(r.LatentBytes)))
	if r.TrafficBytes > 0 {
		seconds := func(gigabytes float64) float64 { return float64(r.TrafficBytes) / 1e9 / gigabytes }
		e.item("traffic", fmt.Sprintf("%s a step and GPU: %.3g s over NVLink at 400 GB/s, %.3g s over PCIe at 25 "+
			"GB/s, hidden where the backward pass takes longer", format.Bytes(r.TrafficBytes), seconds(400),
			seconds(25)))
	}
	for _, c := range r.Cheaper {
		e.item("cheaper", fmt.Sprintf("%s: %.0f %% of the time (%s)", c.Flag, 100*c.Share, c.Why))
	}
}

// printMemory says what fits.
func (r *planResult) printMemory(e *env) {
	m := r.Memory
	text := fmt.Sprintf("%s of %s: %s of weights, gradients, moments and average, %s of %s at a time",
		format.Bytes(m.Peak), format.Bytes(m.Available), format.Bytes(m.State), format.Bytes(m.Activations),
		plural(m.MicroBatch, "picture"))
	if m.Base > 0 {
		text += fmt.Sprintf(", %s while a checkpoint is saved, %s of the program", format.Bytes(m.Saving),
			format.Bytes(m.Base))
	}
	e.item("memory", text)
	if parts := r.GlobalBatch / r.GPUs / m.MicroBatch; parts > 1 {
		e.item("", fmt.Sprintf("--gradient-accumulation-steps %d", parts))
	}
	if m.Recompute {
		e.item("", "--recompute-activations, which takes a third more time")
	}
}

// devices names the device, or several GPUs.
func (r *planResult) devices() string {
	if r.GPUs == 1 {
		return r.Device
	}
	return fmt.Sprintf("%d x %s", r.GPUs, r.Device)
}
