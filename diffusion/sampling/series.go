package sampling

import (
	"bytes"
	"context"
	"fmt"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/solver"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
)

// A series draws batches of one size, one after the other. What a step needs is on the device and stays at its place,
// so that nothing is uploaded or read back in a step, and one graph makes the steps of all batches.
type series struct {
	*drawing
	home    *torch.Scope // of what stays
	n       int          // pictures of a batch
	solver  diffusion.Solver
	noise   source
	samples *diffusion.Drawing // nil before the first batch

	// The conditions of the pictures and, under guidance, behind them those of what to lead them away from: m in all.
	labels      *torch.Tensor // Int64 [m]; with modulations, the first row of each label
	guideLabels *torch.Tensor // Int64 [n], for a guide that has them, which shares no modulations
	tokens      *torch.Tensor // Float32 [m, L, W]
	lengths     *torch.Tensor // Int64 [m]
	modulations *table        // nil where they are computed in each step

	made  int  // steps
	guide bool // the next step
	// What follows is of a step without guidance and of one with it.
	madeOf [2]int
	graphs [2]*torch.Graph // nil where there is none
	pace   *torch.Pace
}

// form is the index for the next step.
func (v *series) form() int {
	if v.guide {
		return 1
	}
	return 0
}

// ahead is how many steps the host may be ahead of a GPU: enough for the GPU never to wait, and few, since what it was
// given cannot be stopped, and counts as done for who watches.
const ahead = 8

// newSeries has its tensors in s.
func newSeries(s *torch.Scope, d *drawing, solver diffusion.Solver, modulations *table, noise source, n int) *series {
	v := &series{drawing: d, home: s, n: n, solver: solver, noise: noise, modulations: modulations,
		guide: d.guided(), pace: torch.NewPace(s, ahead)}
	cfg, m := d.model.Config(), n
	if d.doubled() {
		m = 2 * n
	}
	if d.Guide != nil && d.Guide.Config().HasClass() {
		v.guideLabels = s.Zeros(torch.Int64, n)
	}
	if cfg.HasClass() || modulations != nil {
		v.labels = s.Zeros(torch.Int64, m)
	}
	if cfg.HasText() {
		v.tokens = s.Zeros(torch.Float32, m, cfg.TextLength, cfg.TextWidth)
		v.lengths = s.Zeros(torch.Int64, m)
	}
	return v
}

func (v *series) close() {
	if v != nil {
		v.dropGraph()
		v.pace.Close()
	}
}

func (v *series) dropGraph() {
	for i, g := range v.graphs {
		if g != nil {
			g.Close()
			v.graphs[i] = nil
		}
	}
}

// draw draws pictures lo to lo+n-1. The next batch overwrites what it returns. done is called with the number of steps
// that were made; on a GPU they may still be computed.
func (v *series) draw(ctx context.Context, s *torch.Scope, lo int, done func(k int)) (*torch.Tensor, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	v.begin(s, lo)
	if all, ok := v.solver.(*solver.Dopri5); ok {
		return v.solve(ctx, s, all, done)
	}
	for k := range v.solver.Steps() {
		v.advance(s)
		done(k + 1)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return v.samples.X(), nil
}

// begin puts pictures lo to lo+n-1 in the place of those before.
func (v *series) begin(s *torch.Scope, lo int) {
	if v.labels != nil {
		y := v.labelsOf(v.model.Config(), lo, lo+v.n)
		if v.guideLabels != nil {
			s.Copy_(v.guideLabels, torch.From(s, y, v.n))
		}
		if v.modulations != nil {
			y = v.modulations.find(s, y)
		}
		s.Copy_(v.labels, torch.From(s, y, len(y)))
	}
	if v.tokens != nil {
		states, lengths := v.captionsOf(lo, lo+v.n)
		s.Copy_(v.tokens, torch.From(s, states, v.tokens.Shape()...))
		s.Copy_(v.lengths, torch.From(s, lengths, len(lengths)))
	}
	noise := v.noise.start(s, lo)
	if v.process().NoiseAtOne {
		noise = s.To(noise, torch.Float64) // as REPA has its samples
	}
	if v.samples == nil {
		v.samples = diffusion.Begin(v.home, v.solver, noise)
	} else {
		v.samples.Restart(s, noise)
	}
}

// solve makes all steps of dopri5.
func (v *series) solve(ctx context.Context, s *torch.Scope, all *solver.Dopri5, done func(k int),
) (*torch.Tensor, error) {
	v.guide = v.guided()
	x, model := v.samples.X(), v.denoiser()
	if v.carriesBoth() {
		x, model = s.Cat([]*torch.Tensor{x, x}, 0), v.both()
	}
	x, err := all.Solve(s, model, x, func(int) error { return context.Cause(ctx) })
	if err != nil {
		return nil, err
	}
	done(1)
	return s.Narrow(x, 0, 0, v.n), nil
}

// advance makes a step. The first one of its form computes by itself, which also sets up what libraries need; the
// second one is captured, where that pays, and those that follow repeat it.
func (v *series) advance(s *torch.Scope) {
	k := v.made % v.solver.Steps()
	v.guide = v.guided() && v.inside(v.starts[k])
	if v.solver.Random() && v.draws(k) {
		v.noise.prepare(s)
	}
	form := v.form()
	switch {
	case v.graphs[form] != nil:
		v.graphs[form].Replay()
	case v.capture && v.madeOf[form] == 1 && v.graphPays():
		v.captureStep(s)
	default:
		v.makeStep(s)
	}
	v.pace.Step()
	v.made++
	v.madeOf[form]++
}

// graphPays says whether the series has steps enough for a graph, which costs two more and the time to build it. That
// counts for a last, shorter batch, which no other batch shares its graph with.
func (v *series) graphPays() bool {
	const enough = 50
	return v.n == v.BatchSize || v.solver.Steps() >= enough
}

// captureStep makes a step, and once more by a graph, which is kept where both give the same bits. An error of the step
// itself is that of the batch; whatever fails with the graph changes nothing.
func (v *series) captureStep(s *torch.Scope) {
	s.Sub(func(s *torch.Scope) *torch.Tensor {
		before := v.copyState(s)
		v.makeStep(s)
		after := v.copyState(s)
		err := s.Try(func(s *torch.Scope) error {
			v.putBack(s, before)
			v.graphs[v.form()] = s.Capture(func(s *torch.Scope) []*torch.Tensor { v.step(s); return nil })
			v.graphs[v.form()].Replay()
			for i, t := range v.samples.State() {
				if !bytes.Equal(t.Bytes(), after[i].Bytes()) {
					return fmt.Errorf("a step by it gives other numbers")
				}
			}
			return nil
		})
		if err == nil {
			return nil
		}
		v.dropGraph()
		v.capture = false // for all batches
		v.putBack(s, after)
		if v.Warn != nil {
			v.Warn(fmt.Sprintf("sampling steps are made without a CUDA graph, which takes longer: %v", err))
		}
		return nil
	})
}

// copyState returns copies, in s, of the state of the samples.
func (v *series) copyState(s *torch.Scope) (copies []*torch.Tensor) {
	for _, t := range v.samples.State() {
		copies = append(copies, s.Clone(t))
	}
	return copies
}

// putBack makes copies the state of the samples.
func (v *series) putBack(s *torch.Scope, copies []*torch.Tensor) {
	for i, t := range v.samples.State() {
		s.Copy_(t, copies[i])
	}
}

func (v *series) makeStep(s *torch.Scope) {
	s.Sub(func(s *torch.Scope) *torch.Tensor { v.step(s); return nil })
}

// step is what a graph computes.
func (v *series) step(s *torch.Scope) {
	var noise *torch.Tensor
	if v.solver.Random() {
		noise = v.noise.step(s, v.samples.K)
	}
	v.samples.Step(s, v.denoiser(), noise)
}

// denoiser returns the model in the next step under the conditions, with classifier-free guidance where the request
// asks for it.
func (v *series) denoiser() diffusion.Denoiser {
	questions := 0
	return func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
		cond := v.condition(s, questions)
		questions++
		return v.answer(s, x, t, cond)
	}
}

// condition is that of a question of the next step.
func (v *series) condition(s *torch.Scope, question int) dit.Condition {
	// In a step without guidance only the first half counts.
	labels, tokens, lengths := v.labels, v.tokens, v.lengths
	if v.doubled() && !v.guide {
		for _, t := range []**torch.Tensor{&labels, &tokens, &lengths} {
			if *t != nil {
				*t = s.Narrow(*t, 0, 0, v.n)
			}
		}
	}
	c := dit.Condition{Tokens: tokens, Lengths: lengths}
	switch {
	case v.modulations != nil:
		c.Modulations, c.Rows = v.modulations.of, v.modulations.rows(s, labels, v.samples.K, question)
	case v.labels != nil:
		cfg := v.model.Config()
		last := cfg.NullClass()
		if cfg.ClassDropoutProb == 0 {
			last--
		}
		c.Labels = s.Clamp(labels, 0, float64(last)) // they are, but the device cannot know
	}
	return c
}

// labelsOf are those of pictures lo to hi-1, and behind them under guidance the null class of each.
func (r *Request) labelsOf(cfg dit.Config, lo, hi int) []int64 {
	y := make([]int64, 0, 2*(hi-lo))
	for i := lo; i < hi; i++ {
		label := 0 // of a model without classes
		if cfg.HasClass() {
			label = r.Labels[i]
		}
		y = append(y, int64(label))
	}
	if r.doubled() {
		for range hi - lo {
			y = append(y, int64(cfg.NullClass()))
		}
	}
	return y
}

// captionsOf are the states and lengths of pictures lo to hi-1, and behind them under guidance those of Null for each.
func (r *Request) captionsOf(lo, hi int) (states []float32, lengths []int64) {
	captions := r.Captions[lo:hi:hi]
	if r.doubled() {
		for range hi - lo {
			captions = append(captions, r.Null)
		}
	}
	for _, c := range captions {
		states, lengths = append(states, c.States...), append(lengths, int64(c.Length))
	}
	return states, lengths
}
