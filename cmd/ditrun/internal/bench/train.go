package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"runtime"
	"time"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/philox"
)

// errMeasured ends a run of training.
var errMeasured = errors.New("measured")

// Train measures a training step, as `ditrun train` makes it, on one batch of made-up latents that are in memory. First
// is when the first step ended.
func (j *Job) Train(ctx context.Context) (f Figures, first time.Time, err error) {
	cfg := training.DefaultConfig
	cfg.Model, cfg.ImageSize, cfg.GlobalBatchSize, cfg.Precision = j.Model, j.ImageSize, j.Batch, j.Precision
	cfg.Epochs, cfg.MaxSteps, cfg.FlipProb = 0, math.MaxInt32, 0
	cfg.LogEvery, cfg.CkptEvery = math.MaxInt32, math.MaxInt32
	if j.Weights != nil {
		cfg.Init = j.Weights
	}
	if err := torch.SetProductChoices(nil); err != nil { // which has products timed, as a run has that keeps them
		return f, first, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var rounds []float64
	var began time.Time
	var watch *stopwatch
	var profile *Profile
	step := func(n int) {
		if n%j.Steps == 0 || n == 1 {
			if err := j.Device.Synchronize(); err != nil {
				cancel(err)
				return
			}
		}
		now := time.Now()
		if n == 1 {
			first = now
		}
		j.progress(n)
		if n%j.Steps != 0 {
			return
		}
		if w := watch; w != nil {
			watch = nil
			var err error
			if profile, err = w.stop(); err == nil {
				err = errMeasured
			}
			cancel(err)
			return
		}
		if n > j.WarmUp()*j.Steps {
			rounds = append(rounds, now.Sub(began).Seconds()/float64(j.Steps))
		}
		if began = now; len(rounds) < j.Rounds {
			return
		}
		err := errMeasured
		if j.Profiled {
			watch, err = j.profile()
		}
		if err != nil {
			cancel(err)
		}
	}
	runtime.LockOSThread() // a profile ends on the thread where it began
	defer runtime.UnlockOSThread()
	j.resetPeak()
	_, err = training.Run(ctx, training.Job{Device: j.Device, Config: cfg, Source: newRandomLatents(cfg),
		FreeMemory: func() int64 { return machine.ReadMemory().Available },
		Hooks:      training.Hooks{Step: step, Warn: j.Warn}})
	if watch != nil { // it was stopped by an error
		watch.stop()
	}
	if !errors.Is(err, errMeasured) {
		return f, first, ofMemory(err)
	}
	f = NewFigures("train", j.Batch, rounds).peak(j).arithmetic(j, cfg.StepFLOPs())
	f.Profile = profile
	return f, first, nil
}

// ofMemory says of a batch that does not fit into memory what would, without the flags of `ditrun train`.
func ofMemory(err error) error {
	var batch *training.BatchError
	if !errors.As(err, &batch) {
		return err
	}
	cause := errors.Unwrap(batch.Err)
	if batch.Fit == 0 {
		return fmt.Errorf("%w: not even one picture fits", cause)
	}
	return fmt.Errorf("%w: %s do not fit, %d would", cause, names.Plural(batch.Samples, "picture"), batch.Fit)
}

// randomLatents is a source that gives one batch again and again.
type randomLatents struct {
	set     samples.Set
	moments []byte // Float32
	labels  []int64
	ids     []int
}

func newRandomLatents(cfg training.Config) *randomLatents {
	m, n := cfg.Model, cfg.GlobalBatchSize
	const scale = 0.18215 // takes the latents to a deviation of 1, as Stable Diffusion's
	r := &randomLatents{set: samples.Set{Name: "random latents", Samples: n, Channels: m.InChannels,
		Height: m.InputSize, Width: m.Width(), ImageSize: cfg.ImageSize, ScalingFactor: scale}}
	moments := make([]float32, 2*m.InChannels*m.InputSize*m.Width())
	mean, logVar := moments[:len(moments)/2], moments[len(moments)/2:]
	for i := range n {
		philox.Normals(mean, 1, philox.TagPosterior, 0, uint64(i))
		for k := range mean {
			mean[k] /= scale
			logVar[k] = -6
		}
		for _, v := range moments {
			r.moments = binary.LittleEndian.AppendUint32(r.moments, math.Float32bits(v))
		}
		r.labels, r.ids = append(r.labels, randomLabel(m, i)), append(r.ids, i)
	}
	return r
}

// randomLabel is the class of picture i.
func randomLabel(m dit.Config, i int) int64 {
	if !m.HasClass() {
		return 0
	}
	return int64(philox.Intn(m.NumClasses, 1, philox.TagLabel, 0, uint64(i)))
}

// Set describes the latents.
func (r *randomLatents) Set() samples.Set { return r.set }

// Input is the moments themselves.
func (r *randomLatents) Input() samples.Input {
	return samples.Input{DType: torch.Float32, Shape: []int{2 * r.set.Channels, r.set.Height, r.set.Width},
		Moments: func(_ *torch.Scope, data *torch.Tensor) *torch.Tensor { return data }}
}

// Batches yields the batch for each step.
func (r *randomLatents) Batches(ctx context.Context, o stream.Options) iter.Seq2[samples.Batch, error] {
	return func(yield func(samples.Batch, error) bool) {
		for step := o.StartStep; step < o.MaxSteps && ctx.Err() == nil; step++ {
			b := &stream.Batch{Position: stream.Position{Step: step, Batch: step}, IDs: r.ids, Labels: r.labels}
			if !yield(samples.Batch{Batch: b, Data: r.moments}, nil) {
				return
			}
		}
	}
}
