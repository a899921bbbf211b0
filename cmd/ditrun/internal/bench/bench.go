// Package bench measures how fast the commands work: it makes the calls that they make, on weights and pictures that
// are made up, or on given weights.
package bench

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/vae"
)

// A Job says what to measure. All but Weights, VAE, Progress and Warn is required.
type Job struct {
	Device    torch.Device
	Model     dit.Config
	Weights   *dit.Weights // of Model; nil makes some up
	VAE       string       // the path of an autoencoder; "" makes one up of Stable Diffusion's shape
	ImageSize picture.Size // of what is encoded and decoded
	Batch     int          // pictures a step
	Precision nn.Precision // fp32, tf32 or bf16
	Rounds    int          // that count, after those of WarmUp, which do not
	Steps     int          // in a round
	Profiled  bool         // one more round gives a profile
	// Progress is told the steps that are done, those of rounds that do not count among them, and by Load the loads;
	// may be nil.
	Progress func(steps int)
	Warn     func(text string) // of what makes the work slow; may be nil
}

// WarmUp is the number of rounds that do not count: on a GPU the first two steps, of which the second is made both
// without and with a graph, and a round at least.
func (j *Job) WarmUp() int {
	if j.Device.IsCUDA() && j.Steps == 1 {
		return 2
	}
	return 1
}

// NumSteps is what Progress counts to, but for Load.
func (j *Job) NumSteps() int {
	rounds := j.WarmUp() + j.Rounds
	if j.Profiled {
		rounds++
	}
	return rounds * j.Steps
}

// Figures are what was measured of one kind of work.
type Figures struct {
	Work   string    `json:"work"`
	Batch  int       `json:"batch,omitempty"` // pictures a step
	Rounds []float64 `json:"rounds"`          // seconds a step
	// StepSeconds is the fastest round, from which speeds are computed.
	StepSeconds       float64 `json:"step_seconds"`
	MedianStepSeconds float64 `json:"median_step_seconds"`
	ImagesPerSecond   float64 `json:"images_per_second,omitempty"`
	PeakMemoryBytes   int64   `json:"peak_memory_bytes"`
	MemoryOf          string  `json:"memory_of"`        // device, or host
	TFLOPS            float64 `json:"tflops,omitempty"` // of the model's arithmetic, in 10^12 per second
	MFU               float64 `json:"mfu,omitempty"`    // share of the device's peak, where that is known
	Bytes             int64   `json:"bytes,omitempty"`  // of a file that was read

	Profile *Profile `json:"profile,omitempty"`
}

// NewFigures sums up rounds, in seconds a step. Batch is the number of pictures of a step, 0 where it has none.
func NewFigures(work string, batch int, rounds []float64) Figures {
	f := Figures{Work: work, Batch: batch, Rounds: rounds, StepSeconds: slices.Min(rounds)}
	sorted := slices.Sorted(slices.Values(rounds))
	n := len(sorted)
	f.MedianStepSeconds = (sorted[(n-1)/2] + sorted[n/2]) / 2
	f.ImagesPerSecond = float64(batch) / f.StepSeconds
	return f
}

// arithmetic adds what follows from the floating-point operations of a step.
func (f Figures) arithmetic(j *Job, flops float64) Figures {
	f.TFLOPS = flops / f.StepSeconds / 1e12
	if peak, ok := machine.PeakTFLOPS(j.Device.Name(), string(j.Precision)); ok {
		f.MFU = f.TFLOPS / peak
	}
	return f
}

func (j *Job) resetPeak() {
	machine.ResetPeakResident()
	j.Device.ResetPeakMemory()
}

// peak adds the memory that the work took since resetPeak: of the device where it has its own, else of the process.
func (f Figures) peak(j *Job) Figures {
	f.MemoryOf, f.PeakMemoryBytes = "host", machine.PeakResident()
	if j.Device.IsCUDA() {
		f.MemoryOf, f.PeakMemoryBytes = "device", j.Device.PeakMemory()
	}
	return f
}

func (j *Job) progress(steps int) {
	if j.Progress != nil {
		j.Progress(steps)
	}
}

// measure times the rounds, of which those of WarmUp do not count, in seconds a step. A round makes all its steps, of
// which before were made already.
func (j *Job) measure(ctx context.Context, s *torch.Scope, work string, round func(before int) error) (f Figures,
	err error) {
	j.resetPeak()
	var rounds []float64
	for i := range j.WarmUp() + j.Rounds {
		if ctx.Err() != nil {
			return f, context.Cause(ctx)
		}
		s.Synchronize()
		start := time.Now()
		if err := round(i * j.Steps); err != nil {
			return f, err
		}
		s.Synchronize()
		if seconds := time.Since(start).Seconds(); i >= j.WarmUp() {
			rounds = append(rounds, seconds/float64(j.Steps))
		}
	}
	f = NewFigures(work, j.Batch, rounds).peak(j)
	if j.Profiled {
		w, err := j.profile()
		if err != nil {
			return f, err
		}
		roundErr := round((j.WarmUp() + j.Rounds) * j.Steps)
		if f.Profile, err = w.stop(); roundErr != nil {
			return f, roundErr
		}
		return f, err
	}
	return f, nil
}

// eachStep is a round of steps that are alike.
func (j *Job) eachStep(ctx context.Context, s *torch.Scope, step func(s *torch.Scope) error) func(before int) error {
	return func(before int) error {
		for i := range j.Steps {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := s.Try(step); err != nil {
				return err
			}
			j.progress(before + i + 1)
		}
		return nil
	}
}

// run opens a scope in the precision of the job.
func (j *Job) run(f func(s *torch.Scope) error) error {
	return torch.Run(j.Device, func(s *torch.Scope) error { return f(j.Precision.Scope(s.NoGrad())) })
}

// model makes the model on the device of s. Layers that begin with zeros, whose products a processor may do in less
// time or power, get other numbers.
func (j *Job) model(s *torch.Scope) (*dit.DiT, error) {
	if j.Weights != nil {
		return j.Weights.Load(s)
	}
	gen, err := torch.NewGenerator(torch.CPU, 0)
	if err != nil {
		return nil, err
	}
	m, err := dit.New(s, j.Model)
	if err != nil {
		return nil, err
	}
	m.Init(s, gen)
	for _, p := range nn.List(m) {
		if isZero(s, p.Tensor) {
			nn.Normal(s, gen, p.Tensor, 0.02)
		}
	}
	return m, nil
}

func isZero(s *torch.Scope, t *torch.Tensor) (zero bool) {
	s.Sub(func(s *torch.Scope) *torch.Tensor {
		zero = s.Sum(s.Square(t)).Item() == 0
		return nil
	})
	return zero
}

// autoencoder opens or makes the autoencoder.
func (j *Job) autoencoder() (v *vae.AutoencoderKL, err error) {
	if j.VAE != "" {
		return vae.Open(j.VAE, j.Device)
	}
	gen, err := torch.NewGenerator(torch.CPU, 0)
	if err != nil {
		return nil, err
	}
	err = torch.Run(j.Device, func(s *torch.Scope) (err error) {
		if v, err = vae.New(s, vae.StableDiffusion()); err == nil {
			v.Init(s, gen)
		}
		return err
	})
	return v, err
}

// pixels are n pictures of noise, [n, H, W, 3].
func (j *Job) pixels(n int) []uint8 {
	pix := make([]uint8, n*j.ImageSize.Height*j.ImageSize.Width*3)
	_, _ = rand.NewChaCha8([32]byte{}).Read(pix) // never fails
	return pix
}
