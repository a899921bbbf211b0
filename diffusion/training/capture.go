package training

import (
	"fmt"
	"math"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/optim"
)

// A StepCapture says whether a run captures its step as a CUDA graph, which starts all kernels of a step at once. What
// steps compute does not depend on it.
type StepCapture string

const (
	CaptureOnGPU  StepCapture = ""       // on a GPU, if a process trains alone and takes a batch in one part
	CaptureAlways StepCapture = "always" // on the CPU too, which only compares each step with the first one
	CaptureNever  StepCapture = "never"
)

// A captured step is that of a process alone, in one part: the draws, the forward and the backward pass, the optimizer.
// The first step of a run is made as it is. The second is made both ways, from the same state, and from then on the
// graph makes all steps, if the results are the same.
type captured struct {
	wanted  bool
	warm    bool         // a step was made as it is
	trusted bool         // the graph was compared with the step
	graph   *torch.Graph // nil until it is made
}

// wantsCapture says whether the run tries to capture its step.
func wantsCapture(job Job) bool {
	alone := job.Group.World() == 1 && job.Config.parts() == 1
	switch job.Capture {
	case CaptureAlways:
		return alone
	case CaptureNever:
		return false
	}
	if !alone || !job.Device.IsCUDA() || job.poison != nil { // which may depend on the batch
		return false
	}
	kernels, _ := torch.PluginStatus()
	return kernels // without them draws need the host, and doctor says that there are none
}

// drop frees the graph, and with it the memory of a step. The next step makes it again.
func (c *captured) drop() {
	if c.graph != nil {
		c.graph.Close()
		c.graph = nil
	}
}

// makeStep trains on part i of a batch, which was sent, and makes the step with the last part. It returns the latents
// that it trained on.
func (r *runner) makeStep(s *torch.Scope, i, batch int) (x0 *torch.Tensor, err error) {
	c, logs := &r.captured, r.logs(r.step+1)
	switch {
	case c.wanted && c.trusted:
		r.busy = true
		r.replay(s, batch, logs)
		r.busy = false
		return c.graph.Results()[0], nil
	case c.wanted && c.warm:
		return r.tryCapture(s, batch)
	}
	p, err := r.compute(s, i, batch, logs)
	c.warm = c.warm || err == nil
	return p.x0, err
}

// replay makes a step with the graph, and the graph first where there is none.
func (r *runner) replay(s *torch.Scope, batch int, watch bool) {
	c := &r.captured
	if c.graph == nil {
		c.graph = s.Capture(func(s *torch.Scope) []*torch.Tensor {
			p, err := r.compute(s, 0, batch, false)
			if err != nil {
				panic(err) // other processes alone give one
			}
			return []*torch.Tensor{p.x0}
		})
	}
	if watch {
		r.opt.Watch()
	}
	c.graph.Replay()
	if watch {
		s.NoGrad().Copy_(r.window.update, r.opt.Change(s))
	}
}

// tryCapture makes a step as it is and then, from the same state, with the graph. Where the results differ, or there
// can be no graph, the run goes on without one. It watches the change of the weights in any case: the copy of them that
// a log step takes is a part of what has to fit into memory.
func (r *runner) tryCapture(s *torch.Scope, batch int) (x0 *torch.Tensor, err error) {
	c := &r.captured
	plain := func() *torch.Tensor {
		return s.Sub(func(s *torch.Scope) *torch.Tensor { // frees all but x0 before the graph takes its memory
			var p part
			p, err = r.compute(s, 0, batch, true)
			return p.x0
		})
	}
	before := r.keep(s)
	defer before.close()
	if x0 = plain(); err != nil || r.window.row.Item() > 0 { // a step that was not applied says nothing
		return x0, err
	}
	want := r.keep(s)
	defer want.close()
	r.busy = true
	limits := make([]float64, len(want.distances(s))) // 0: the same to the bit
	if s.Device().IsCUDA() && !r.cfg.Deterministic {
		// The backward pass of cuDNN's attention does not repeat itself.
		before.restore(s)
		if plain(); err != nil {
			return x0, err
		}
		r.busy = true
		for i, d := range want.distances(s) {
			limits[i] = 2 * d.Norm // two such distances are seldom equal either
		}
	}
	before.restore(s)
	failed := s.Try(func(s *torch.Scope) error {
		r.replay(s, batch, true)
		return want.near(s, limits)
	})
	if failed != nil {
		c.drop()
		c.wanted = false
		r.opt.ZeroGrad() // of what came to nothing
		want.restore(s)
		r.warn("steps run without a CUDA graph, and slower: %v", failed)
	}
	r.busy = false
	c.trusted = true
	return x0, nil
}

// A kept is a copy of what a step changes.
type kept struct {
	r    *runner
	opt  *optim.State
	sums []*torch.Tensor // copies of those of the window, and of the trend
}

// sums are the tensors beside those of the optimizer that a step changes.
func (r *runner) sums() []*torch.Tensor {
	w := r.window
	return []*torch.Tensor{w.sums, w.parts, w.update, w.row, w.longest, r.trend}
}

func (r *runner) keep(s *torch.Scope) *kept {
	k := &kept{r: r, opt: r.opt.Keep(s)}
	for _, t := range r.sums() {
		k.sums = append(k.sums, torch.Persist(s.NoGrad().Clone(t)))
	}
	return k
}

func (k *kept) restore(s *torch.Scope) {
	k.opt.Restore(s)
	for i, t := range k.r.sums() {
		s.NoGrad().Copy_(t, k.sums[i])
	}
}

// distances compares the present state with what was kept.
func (k *kept) distances(s *torch.Scope) []optim.Distance {
	sum := 0.0
	for i, t := range k.r.sums() {
		d := s.NoGrad().Norm(s.NoGrad().Subtract(t, k.sums[i])).Item()
		sum += d * d
	}
	return append(k.opt.Distances(s), optim.Distance{Of: "sums of the losses", Norm: math.Sqrt(sum)})
}

// near returns an error where the present state is further from what was kept than within limits.
func (k *kept) near(s *torch.Scope, limits []float64) error {
	for i, d := range k.distances(s) {
		if !(d.Norm <= limits[i]) {
			return fmt.Errorf("with it the %s differ by %.3g, at most %.3g was expected", d.Of, d.Norm, limits[i])
		}
	}
	return nil
}

func (k *kept) close() {
	k.opt.Close()
	for _, t := range k.sums {
		t.Close()
	}
}
