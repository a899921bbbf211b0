package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/bench"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/vae"
)

// benchOptions are the flags of bench. What is zero depends on the device.
type benchOptions struct {
	model, ckpt, vae string
	imageSize        picture.Size
	batchSize        int
	precision        nn.Precision
	rounds, steps    int
	profile          bool

	ckptGiven string // before a name became a path
}

func (o *benchOptions) flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "model", Destination: &o.model, DefaultText: "DiT-XL/2 on CUDA, else DiT-S/2",
			Usage: "`NAME`: a model that train --model takes"},
		&cli.StringFlag{Name: "ckpt", Destination: &o.ckpt, DefaultText: "random weights",
			Usage: "take the model from `PATH|NAME`, anything that sample --ckpt takes"},
		&cli.StringFlag{Name: "vae", Destination: &o.vae, DefaultText: "random weights of Stable Diffusion's shape",
			Usage: "take the autoencoder from `PATH|NAME`"},
		imageSizeVar(&o.imageSize, "256", "pictures of `PIXELS` a side, or HEIGHTxWIDTH"),
		&cli.IntFlag{Name: "batch-size", Destination: &o.batchSize, DefaultText: "64 on CUDA, else 8",
			Usage: "`N` pictures a step"},
		precisionFlag(&o.precision, "type of the arithmetic: fp32, tf32 or bf16"),
		&cli.IntFlag{Name: "rounds", Destination: &o.rounds, Value: 5,
			Usage: "measure `N` rounds, after one that does not count"},
		&cli.IntFlag{Name: "steps", Destination: &o.steps, DefaultText: "10 on CUDA, else 2",
			Usage: "make `N` steps in a round"},
		&cli.BoolFlag{Name: "profile", Destination: &o.profile,
			Usage: "also list what kernels took of one more round, on a CPU operations; of load and start nothing"},
	}
}

func (o *benchOptions) check(given func(string) bool) error {
	for _, f := range []struct {
		name  string
		value int
	}{{"batch-size", o.batchSize}, {"rounds", o.rounds}, {"steps", o.steps}} {
		if given(f.name) {
			if err := atLeast(1, f.name, f.value); err != nil {
				return err
			}
		}
	}
	if err := cmp.Or(o.precision, nn.FP32).Validate(); err != nil {
		return ofFlag(err)
	}
	if o.ckpt != "" && given("image-size") {
		return usagef("--image-size %s: the model of --ckpt has a size", o.imageSize)
	}
	o.ckptGiven = o.ckpt
	if err := checkModel(o.model); err != nil {
		return err
	}
	o.imageSize = cmp.Or(o.imageSize, picture.Square(256))
	return checkLatentSize(o.imageSize)
}

// benchWorks are what bench measures, in the order of its table.
var benchWorks = []string{"train", "sample", "encode", "decode", "load", "start"}

func benchCommand() *cli.Command {
	o := &benchOptions{}
	return newCommand(spec{
		name:  "bench",
		usage: "measure the speed of training, sampling, encoding and decoding",
		description: "WORK is train, sample, encode, decode, load, start or all, which is the\n" +
			"default; several may be named. The first four are one step of train, of\n" +
			"guided sampling, of encode-latents and of decoding, with one batch of\n" +
			"pictures. load is the loading of a checkpoint, and start the time from the\n" +
			"start of a process to the end of its first training step. It needs no\n" +
			"files: weights, latents and pictures are random numbers.",
		example: "ditrun bench\nditrun bench train sample --model DiT-B/4 --batch-size 4 --json",
		args:    "[WORK...]",
		flags:   o.flags(),
		groups: []group{
			{"What is measured", "model ckpt vae image-size batch-size precision"},
			{"How long", "rounds steps profile"},
		},
		check: o.check,
		alone: true,
		run: func(e *env) error {
			return withLessMemory(runBench(e, o), "a smaller --batch-size, and --precision bf16, take less")
		},
	})
}

// A benchResult is what bench prints with --json.
type benchResult struct {
	Versions   runs.Versions   `json:"versions"`
	CPU        machine.CPU     `json:"cpu"`
	Memory     machine.Memory  `json:"memory"`
	Device     string          `json:"device"`
	DeviceName string          `json:"device_name,omitempty"`
	Threads    int             `json:"threads"`
	Model      string          `json:"model"`
	Params     int64           `json:"params"`
	ImageSize  string          `json:"image_size"`
	Precision  nn.Precision    `json:"precision"`
	Steps      int             `json:"steps"` // in a round
	PeakTFLOPS float64         `json:"peak_tflops,omitempty"`
	Works      []bench.Figures `json:"works"`
	FirstStep  time.Time       `json:"first_step,omitzero"` // when the first training step ended
}

func runBench(e *env, o *benchOptions) error {
	works, err := o.works(e.flags.Args().Slice())
	if err != nil {
		return err
	}
	if o.profile && !slices.ContainsFunc(works, hasProfile) {
		return usagef("--profile: want one of train, sample, encode and decode, load and start have none")
	}
	if err := e.findWeights(false, ofCkpt(&o.ckpt), ofVAE(&o.vae)); err != nil {
		return err
	}
	dev, err := e.openDevice()
	if err != nil {
		return err
	}
	job, err := o.job(e, dev)
	if err != nil {
		return err
	}
	if job.Weights != nil {
		defer job.Weights.Close()
	}
	if err := o.checkAutoencoder(job, works); err != nil {
		return err
	}
	b := &benchRun{env: e, options: o, job: job}
	b.describe()
	if err := b.measure(works); err != nil {
		return err
	}
	for _, f := range b.result.Works {
		if f.Profile != nil {
			b.profile(f.Work, f.Profile)
		}
	}
	return e.result(b.result)
}

// works reads the names of what to measure.
func (o *benchOptions) works(names []string) ([]string, error) {
	if len(names) == 0 || slices.Equal(names, []string{"all"}) {
		return benchWorks, nil
	}
	for _, name := range names {
		if !slices.Contains(benchWorks, name) {
			return nil, usagef("bench %q: want %s, or all", name, strings.Join(benchWorks, ", "))
		}
	}
	return names, nil
}

// hasProfile says whether a work has steps, from which a profile is taken.
func hasProfile(work string) bool { return work != "load" && work != "start" }

// job decides what flags leave to the device and opens the weights.
func (o *benchOptions) job(e *env, dev torch.Device) (*bench.Job, error) {
	model, batch, steps := "DiT-S/2", 8, 2
	if dev.IsCUDA() {
		model, batch, steps = "DiT-XL/2", 64, 10
	}
	o.batchSize, o.precision, o.steps = cmp.Or(o.batchSize, batch), o.precision.On(dev), cmp.Or(o.steps, steps)
	job := &bench.Job{Device: dev, VAE: o.vae, ImageSize: o.imageSize, Batch: o.batchSize, Precision: o.precision,
		Rounds: o.rounds, Steps: o.steps, Profiled: o.profile, Warn: func(text string) { e.warn("%s", text) }}
	var err error
	if o.ckpt != "" {
		if job.Weights, err = dit.Read(o.ckpt, o.model); err != nil {
			return nil, err
		}
		job.Model = job.Weights.Config
		height := cmp.Or(job.Weights.ImageSize, job.Model.InputSize*pixelsPerLatent)
		job.ImageSize = picture.Size{Height: height, Width: height * job.Model.Width() / job.Model.InputSize}
		if job.Model.HasText() {
			job.Weights.Close()
			return nil, fmt.Errorf("--ckpt %s: a model of text, want one of classes or of nothing", o.ckpt)
		}
		return job, nil
	}
	o.model = cmp.Or(o.model, model)
	if job.Model, err = modelNamed(o.model); err != nil {
		return nil, err
	}
	job.Model.SetInput(o.imageSize.Height/pixelsPerLatent, o.imageSize.Width/pixelsPerLatent)
	if err := job.Model.Validate(); err != nil {
		return nil, usagef("%s at --image-size %s: %v", o.model, o.imageSize, err)
	}
	return job, nil
}

// checkAutoencoder looks, before anything is measured, whether pictures of the size can be encoded where works need it.
func (o *benchOptions) checkAutoencoder(job *bench.Job, works []string) error {
	cfg := vae.StableDiffusion()
	if job.VAE != "" {
		w, err := vae.Read(job.VAE)
		if err != nil {
			return err
		}
		defer w.Close()
		cfg = w.Config
	}
	if !slices.Contains(works, "encode") && !slices.Contains(works, "decode") {
		return nil
	}
	err := cfg.CheckImageSize(job.ImageSize.Height, job.ImageSize.Width)
	if err != nil && o.ckpt != "" {
		return withHint(fmt.Errorf("--ckpt %s: %w", o.ckptGiven, err), "give the autoencoder of its latents with --vae")
	}
	return ofFlag(err)
}

// A benchRun is what one command line measures.
type benchRun struct {
	*env
	options *benchOptions
	job     *bench.Job
	result  benchResult
}

// describe says what is measured, and begins the table.
func (b *benchRun) describe() {
	j, r := b.job, &b.result
	*r = benchResult{Versions: readVersion(), CPU: machine.ReadCPU(), Memory: machine.ReadMemory(),
		Device: j.Device.String(), DeviceName: j.Device.Name(), Threads: torch.NumThreads(), Model: j.Model.Name(),
		Params: int64(j.Model.NumParams()), ImageSize: j.ImageSize.String(), Precision: j.Precision, Steps: j.Steps}
	r.Versions.Libtorch = libtorchVersion()
	r.PeakTFLOPS, _ = machine.PeakTFLOPS(r.DeviceName, string(j.Precision))
	weights := "random weights"
	if b.options.ckpt != "" {
		weights = "weights of " + b.options.ckptGiven
	}
	b.item("device", fmt.Sprintf("%s, %s", describeDevice(j.Device), torch.BuildInfo()))
	b.item("model", fmt.Sprintf("%s, %s parameters, %s-pixel pictures, %s, %s", r.Model, format.Count(r.Params),
		r.ImageSize, r.Precision, weights))
	before := "one that does not count"
	if n := j.WarmUp(); n > 1 {
		before = fmt.Sprintf("%d that do not count", n)
	}
	b.item("rounds", fmt.Sprintf("%d of %s each, after %s; ms a step", j.Rounds, plural(j.Steps, "step"), before))
	b.printf("")
	b.row("work", "batch", "best ms", "median ms", "images/s", "memory", "TFLOP/s", "MFU")
}

// row prints a line of the table.
func (b *benchRun) row(work, batch, best, median, images, memory, tflops, mfu string) {
	b.printf("%-7s %5s %10s %10s %10s %9s %9s %7s", work, batch, best, median, images, memory, tflops, mfu)
}

// add takes the figures of a work into the result and the table.
func (b *benchRun) add(f bench.Figures) {
	b.result.Works = append(b.result.Works, f)
	batch, images, tflops, mfu := "-", "-", "-", "-"
	if f.Batch > 0 {
		batch, images = format.Count(int64(f.Batch)), format.Rate(f.ImagesPerSecond)
	}
	if f.TFLOPS > 0 {
		tflops = format.Rate(f.TFLOPS)
	}
	if f.MFU > 0 {
		mfu = fmt.Sprintf("%.1f %%", 100*f.MFU)
	}
	b.row(f.Work, batch, format.Rate(1e3*f.StepSeconds), format.Rate(1e3*f.MedianStepSeconds), images,
		format.Bytes(f.PeakMemoryBytes), tflops, mfu)
}

// measure measures one work here, and several each in a process of its own: what one leaves in memory would count for
// the next, and libtorch, once it has begun, does not begin again.
func (b *benchRun) measure(works []string) error {
	if len(works) == 1 && works[0] != "start" {
		return b.measureHere(works[0])
	}
	for _, work := range works {
		measure := b.measureApart
		if work == "start" {
			measure = b.measureStart
		}
		f, err := measure(work)
		if err != nil {
			return err
		}
		b.add(f)
	}
	return nil
}

func (b *benchRun) measureHere(work string) (err error) {
	unit, total := "steps", b.job.NumSteps()
	if work == "load" {
		unit, total = "loads", b.job.Rounds+1
	}
	bar := b.progress("bench "+work, unit, int64(total))
	b.job.Progress = func(n int) { bar.Set(int64(n)) }
	var f bench.Figures
	switch work {
	case "train":
		f, b.result.FirstStep, err = b.job.Train(b.ctx)
	case "sample":
		f, err = b.job.Sample(b.ctx)
	case "encode":
		f, err = b.job.Encode(b.ctx)
	case "decode":
		f, err = b.job.Decode(b.ctx)
	case "load":
		f, err = b.job.Load(b.ctx)
	}
	if err != nil {
		return fmt.Errorf("bench %s: %w", work, err)
	}
	bar.Abort() // the table says it all
	b.add(f)
	return nil
}

func (b *benchRun) measureApart(work string) (bench.Figures, error) {
	defer b.waiting("bench " + work)()
	var more []string
	if b.options.profile && hasProfile(work) {
		more = []string{"--profile"}
	}
	r, err := b.process(work, b.options.rounds, b.options.steps, more...)
	if err != nil {
		return bench.Figures{}, err
	}
	return r.Works[0], nil
}

// measureStart measures from the start of a process to the end of its first training step.
func (b *benchRun) measureStart(string) (f bench.Figures, err error) {
	bar := b.progress("bench start", "starts", int64(b.options.rounds+1))
	var rounds []float64
	for i := range b.options.rounds + 1 {
		began := time.Now()
		r, err := b.process("train", 1, 1)
		if err != nil {
			return f, err
		}
		if i > 0 {
			rounds = append(rounds, r.FirstStep.Sub(began).Seconds())
		}
		f = r.Works[0]
		bar.Add(1)
	}
	bar.Abort()
	memory, of := f.PeakMemoryBytes, f.MemoryOf
	f = bench.NewFigures("start", 0, rounds)
	f.PeakMemoryBytes, f.MemoryOf = memory, of
	return f, nil
}

// process measures a work in a process of its own.
func (b *benchRun) process(work string, rounds, steps int, more ...string) (r benchResult, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	j, o := b.job, b.options
	args := []string{"bench", work, "--json", "--quiet", "--device", j.Device.String(),
		"--threads", fmt.Sprint(b.threads), "--rounds", fmt.Sprint(rounds), "--steps", fmt.Sprint(steps),
		"--batch-size", fmt.Sprint(j.Batch), "--precision", string(j.Precision), "--model", o.model, "--vae", o.vae}
	if b.noFused {
		args = append(args, "--no-fused")
	}
	if o.ckpt != "" {
		args = append(args, "--ckpt", o.ckpt)
	} else {
		args = append(args, "--image-size", j.ImageSize.String())
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(b.ctx, self, append(args, more...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = launchGrace
	// In a group of its own, an interrupt of the terminal reaches this process alone, which passes it on. It ends with
	// the thread that started it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		if b.ctx.Err() != nil {
			return r, context.Cause(b.ctx)
		}
		b.write(b.stderr, stderr.String()) // where it says why
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
			return r, codeError{errors.New(""), exit.ExitCode()}
		}
		return r, fmt.Errorf("bench %s: %w", work, err)
	}
	b.write(b.stderr, stderr.String()) // warnings
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil || len(r.Works) == 0 {
		return r, fmt.Errorf("bench %s: its process wrote no figures: %w", work, err)
	}
	return r, nil
}
