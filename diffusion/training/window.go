package training

import (
	"fmt"
	"math"
	"time"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/torch/optim"
)

// NumBins is the number of equal stretches of times, from data to noise, whose losses are told apart.
const NumBins = 10

// Places in a window's sums. The first are means over the samples of a step, the bins are sums over samples, what comes
// after them is the same on all processes.
const (
	termLoss = iota
	termMSE
	termVB
	termX0   // of latents
	termX0Sq // of latents squared
	termBins // squared errors by timestep

	termCounts = termBins + NumBins   // samples by timestep
	termNorm   = termCounts + NumBins // of the gradients
	termBad    = termNorm + 1         // steps that were not applied
	numTerms   = termBad + 1
)

// A Record is what is known at a log step, averaged over the steps since the last one that were applied.
type Record struct {
	Step, Epoch   int // steps done, epoch from 0
	Loss, MSE, VB float64
	// mean squared error by timestep, bin i from i/NumBins of them on; NaN where there was none
	Bins              [NumBins]float64
	GradNorm          float64 // before clipping
	UpdateNorm        float64 // of the change of the weights in the last step
	LatentMean        float64 // of what is trained on, scaled
	LatentStd         float64
	LR                float64
	Skipped           int     // steps that were not applied
	Seconds           float64 // since the last record
	Steps, Samples    int     // in it
	DataWaitSeconds   float64 // in it
	SavingSeconds     float64 // in it, for checkpoints
	LoggingSeconds    float64 // in it, for the record before
	FLOPs             float64 // of the model's arithmetic in it, see [Config.StepFLOPs]
	StepsTotal        int
	SecondsSinceStart float64
}

// A window gathers what happened since the last record. Sums stay on the device: reading a loss at each step would wait
// for it.
type window struct {
	started time.Time
	steps   int
	wait    float64       // seconds for data
	saving  float64       // seconds for checkpoints
	logging float64       // seconds for the record that began it
	sums    *torch.Tensor // [numTerms]
	parts   *torch.Tensor // [termNorm] of the step under way
	update  *torch.Tensor // of the last step: the norm of the change of the weights
	row     *torch.Tensor // the number of steps up to the last that were not applied, one after the other
	longest *torch.Tensor // the most that row was, in all
}

func newWindow(s *torch.Scope) *window {
	zeros := func(n ...int) *torch.Tensor { return torch.Persist(s.Zeros(torch.Float32, n...)) }
	return &window{sums: zeros(numTerms), parts: zeros(termNorm), update: zeros(), row: zeros(), longest: zeros()}
}

func (w *window) close() {
	w.sums.Close()
	w.parts.Close()
	w.update.Close()
	w.row.Close()
	w.longest.Close()
}

// reset begins a window.
func (w *window) reset(s *torch.Scope, now time.Time) {
	s.NoGrad().Zero_(w.sums)
	w.started, w.steps, w.wait, w.saving, w.logging = now, 0, 0, 0, 0
}

// part counts part i of count equal parts of a step; loss is its share of the step's.
func (w *window) part(s *torch.Scope, o diffusion.Objective, loss *torch.Tensor, l diffusion.Losses, p part, i,
	count int) {
	mse := s.Detach(l.MSE)
	vb := s.Zeros(torch.Float32)
	if l.VB != nil {
		vb = s.Mean(s.Detach(l.VB))
	}
	members := binMembers(s, o, p.t)
	byBin := s.MatMul(members, s.Reshape(mse, -1, 1))
	means := s.MulScalar(s.Stack([]*torch.Tensor{s.Mean(mse), vb, s.Mean(p.x0), s.Mean(s.Square(p.x0))}, 0),
		1/float64(count))
	terms := s.Cat([]*torch.Tensor{s.Reshape(s.Detach(loss), 1), means, s.Reshape(byBin, NumBins),
		s.SumDims(members, false, 1)}, 0)
	if i > 0 {
		terms = s.Add(w.parts, terms)
	}
	s.Copy_(w.parts, terms)
}

// binMembers says which of times t [N] are in which bin: Float32 [NumBins, N] of zeros and ones.
func binMembers(s *torch.Scope, o diffusion.Objective, t *torch.Tensor) *torch.Tensor {
	bin := s.To(s.MulScalar(o.Noisiness(s, t), NumBins), torch.Int64)
	return oneHot(s, bin, NumBins)
}

// oneHot says which of numbers x (Int64 [N]) are k: Float32 [n, N] of zeros and ones, a row for each k from 0 to n-1.
func oneHot(s *torch.Scope, x *torch.Tensor, n int) *torch.Tensor {
	return s.To(s.EqScalar(s.Subtract(x, s.Reshape(s.Arange(n, torch.Int64), n, 1)), 0), torch.Float32)
}

// add counts the step whose parts were counted. Of one that was not applied no more is known than that.
func (w *window) add(s *torch.Scope, r optim.StepResult) {
	step := s.Cat([]*torch.Tensor{w.parts, s.Reshape(r.Norm, 1)}, 0)
	step = s.Where(s.GtScalar(r.Skipped, 0.5), s.Zeros(torch.Float32, 1), step)
	s.Copy_(w.sums, s.Add(w.sums, s.Cat([]*torch.Tensor{step, s.Reshape(r.Skipped, 1)}, 0)))
	s.Copy_(w.row, s.Mul(s.AddScalar(w.row, 1), r.Skipped))
	s.Copy_(w.longest, s.Maximum(w.longest, w.row))
}

// bad returns the number of steps of the window that were not applied, and how many in a row there were at most in
// the run. It waits for the device.
func (w *window) bad(s *torch.Scope) (n, inARow int) {
	s.Sub(func(s *torch.Scope) *torch.Tensor {
		both := torch.Data[float32](s.Stack([]*torch.Tensor{s.Select(w.sums, 0, termBad), w.longest}, 0))
		n, inARow = int(both[0]), int(both[1])
		return nil
	})
	return n, inARow
}

// record reads the sums of all processes and reports them.
func (r *runner) record(s *torch.Scope) error {
	w := r.window
	sums := make([]float64, numTerms)
	for i, v := range torch.Data[float32](w.sums) { // waits for the device
		sums[i] = float64(v)
	}
	update := w.update.Item()
	now := time.Now()
	world := float64(r.group.World())
	if world > 1 {
		if err := r.group.AllReduceFloats(sums[:termNorm], dist.Sum); err != nil {
			return fmt.Errorf("step %d: %w", r.step, err)
		}
	}
	skipped := int(sums[termBad])
	mean := func(i int) float64 { return sums[i] / float64(w.steps-skipped) } // NaN where no step was applied
	seconds, samples := now.Sub(w.started).Seconds(), w.steps*r.cfg.GlobalBatchSize
	rec := Record{
		Step: r.step, Epoch: r.epoch, Loss: mean(termLoss) / world, MSE: mean(termMSE) / world,
		VB:       mean(termVB) / world,
		GradNorm: mean(termNorm), UpdateNorm: update, LatentMean: mean(termX0) / world,
		LR: r.cfg.learningRate(r.step-1, r.total), Skipped: skipped,
		Seconds: seconds, Steps: w.steps, Samples: samples, DataWaitSeconds: w.wait, SavingSeconds: w.saving,
		LoggingSeconds: w.logging,
		FLOPs:          r.cfg.StepFLOPs() * float64(w.steps),
		StepsTotal:     r.total, SecondsSinceStart: now.Sub(r.began).Seconds(),
	}
	rec.LatentStd = math.Sqrt(max(0, mean(termX0Sq)/world-rec.LatentMean*rec.LatentMean))
	for i := range rec.Bins {
		rec.Bins[i] = sums[termBins+i] / sums[termCounts+i]
	}
	w.reset(s, now)
	defer func() { w.logging = time.Since(now).Seconds() }()
	r.checkHealth(rec)
	if r.hooks.Log != nil {
		r.hooks.Log(rec)
	}
	return nil
}
