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
	CaptureOnGPU  StepCapture = ""       // capture on a GPU, if a process trains alone and takes a batch in one part
	CaptureAlways StepCapture = "always" // capture; on the CPU compare each step with the first
	CaptureNever  StepCapture = "never"
)

// A stepGraph makes the steps of a process alone, in one part: the draws, the forward and the backward pass, the
// optimizer. The first step of a run is made as it is. The second is made both ways, from the same state, and from then
// on the graph makes all steps, if the results are the same.
type stepGraph struct {
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
	_, noKernels := torch.PluginStatus(job.Device)
	return noKernels == nil // without them draws need the host, and doctor says that there are none
}

// drop frees the graph, and with it the memory of a step. The next step makes it again.
func (g *stepGraph) drop() {
	if g.graph != nil {
		g.graph.Close()
		g.graph = nil
	}
}

// makeStep trains on part i of a batch, which was sent, and makes the step with the last part. It returns the latents
// that it trained on.
func (r *runner) makeStep(s *torch.Scope, i, batch int) (x0 *torch.Tensor, err error) {
	g, logs := &r.stepGraph, r.logs(r.step+1)
	var failed error
	switch {
	case g.wanted && g.trusted && g.graph == nil:
		failed = r.captureStep(s, batch)
	case g.wanted && g.warm && !g.trusted:
		failed = r.checkRoom()
	}
	if failed != nil {
		r.withoutGraph(failed)
	}
	switch {
	case g.wanted && g.trusted:
		r.replay(s, logs)
		return g.graph.Results()[0], nil
	case g.wanted && g.warm:
		return r.tryCapture(s, batch)
	}
	p, err := r.compute(s, i, batch, logs)
	g.warm = g.warm || err == nil
	return p.x0, err
}

// checkRoom returns an error where the host has no room for the two copies of the state by which tryCapture compares.
func (r *runner) checkRoom() error {
	if r.freeMemory == nil {
		return nil
	}
	const gigabyte = 1e9
	need, free := 2*r.cfg.CheckpointBytes(), r.freeMemory()
	if free > 0 && free < need {
		return fmt.Errorf("to compare it takes %.3g GB of host memory, of which %.3g are free", float64(need)/gigabyte,
			float64(free)/gigabyte)
	}
	return nil
}

// withoutGraph has all steps from here on made as they are.
func (r *runner) withoutGraph(why error) {
	r.stepGraph.drop()
	r.stepGraph.wanted = false
	r.opt.ZeroGrad() // of what came to nothing
	r.warn("steps run without a CUDA graph, and slower: %v", why)
}

// takeWarnings is [torch.TakeWarnings]; tests have others.
var takeWarnings = torch.TakeWarnings

// tellWarnings passes on what the device has to say of kernels that were used for the first time. Where nobody listens
// here, it stays for who calls.
func (r *runner) tellWarnings() {
	if r.hooks.Warn == nil {
		return
	}
	for _, text := range takeWarnings() {
		r.warn("%s", text)
	}
}

// captureStep makes the graph. It changes nothing of the state, also where it returns an error.
func (r *runner) captureStep(s *torch.Scope, batch int) error {
	was := r.busy
	err := s.Try(func(s *torch.Scope) error {
		if fault := r.saver.fault; fault != nil {
			if err := fault("capture"); err != nil {
				return err
			}
		}
		r.stepGraph.graph = s.Capture(func(s *torch.Scope) []*torch.Tensor {
			p, err := r.compute(s, 0, batch, false)
			if err != nil {
				panic(err) // other processes alone give one
			}
			return []*torch.Tensor{p.x0}
		})
		return nil
	})
	r.busy = was
	return err
}

// replay makes a step with the graph.
func (r *runner) replay(s *torch.Scope, watch bool) {
	if watch {
		r.opt.Watch()
	}
	r.changing(func() {
		r.stepGraph.graph.Replay()
		if watch {
			s.NoGrad().Copy_(r.window.update, r.opt.Change(s))
		}
	})
}

// tolerance is how far the results of a graph may be from those of the step, as a share of what the step changed. The
// backward pass of cuDNN's attention does not repeat itself; a step on other numbers differs by about all of the
// change.
func (r *runner) tolerance(s *torch.Scope) float64 {
	if s.Device().IsCUDA() && !r.cfg.Deterministic {
		return 0.05
	}
	return 0 // the same to the bit
}

// tryCapture makes a step as it is and then, from the same state, with the graph. Where the results differ, or there
// can be no graph, the run goes on without one. It watches the change of the weights in any case: the copy of them that
// a log step takes is a part of what has to fit into memory.
func (r *runner) tryCapture(s *torch.Scope, batch int) (x0 *torch.Tensor, err error) {
	before := r.copyState(s)
	defer before.close()
	x0 = s.Sub(func(s *torch.Scope) *torch.Tensor { // frees all but x0 before the graph takes its memory
		var p part
		p, err = r.compute(s, 0, batch, true)
		return p.x0
	})
	if err != nil || r.window.row.Item() > 0 { // a step that was not applied says nothing
		return x0, err
	}
	limits := before.limits(s, r.tolerance(s))
	want := r.copyState(s)
	defer want.close()
	r.changing(func() {
		before.restore(s)
		before.close()
		failed := s.Try(func(s *torch.Scope) error {
			if err := r.captureStep(s, batch); err != nil {
				return err
			}
			r.replay(s, true)
			return want.near(s, limits)
		})
		if failed != nil {
			r.withoutGraph(failed)
			want.restore(s)
		}
	})
	r.stepGraph.trusted = true
	return x0, nil
}

// A stateCopy is a copy of what a step changes.
type stateCopy struct {
	r    *runner
	opt  *optim.State
	sums []*torch.Tensor // copies of those of the window, and of the trend
}

// sums are the tensors beside those of the optimizer that a step changes.
func (r *runner) sums() []*torch.Tensor {
	w := r.window
	return []*torch.Tensor{w.sums, w.parts, w.update, w.row, w.longest, r.trend}
}

func (r *runner) copyState(s *torch.Scope) *stateCopy {
	c := &stateCopy{r: r, opt: r.opt.Keep(s)}
	for _, t := range r.sums() {
		c.sums = append(c.sums, torch.Persist(s.NoGrad().Clone(t)))
	}
	return c
}

func (c *stateCopy) restore(s *torch.Scope) {
	c.opt.Restore(s)
	for i, t := range c.r.sums() {
		s.NoGrad().Copy_(t, c.sums[i])
	}
}

// distances compares the present state with the copy.
func (c *stateCopy) distances(s *torch.Scope) []optim.Distance {
	sum := 0.0
	for i, t := range c.r.sums() {
		d := s.NoGrad().Norm(s.NoGrad().Subtract(t, c.sums[i])).Item()
		sum += d * d
	}
	return append(c.opt.Distances(s), optim.Distance{Of: "sums of the losses", Norm: math.Sqrt(sum)})
}

// limits are for near: a share of the distances of the present state from the copy, nil where the share is 0.
func (c *stateCopy) limits(s *torch.Scope, share float64) (limits []float64) {
	if share > 0 {
		for _, d := range c.distances(s) {
			limits = append(limits, share*d.Norm)
		}
	}
	return limits
}

// near returns an error where the present state is further from the copy than within limits; nil are all 0.
func (c *stateCopy) near(s *torch.Scope, limits []float64) error {
	for i, d := range c.distances(s) {
		limit := 0.0
		if limits != nil {
			limit = limits[i]
		}
		if !(d.Norm <= limit) {
			return fmt.Errorf("with it the %s differ by %.3g, at most %.3g was expected", d.Of, d.Norm, limit)
		}
	}
	return nil
}

// close frees the copy; closing twice does nothing.
func (c *stateCopy) close() {
	c.opt.Close()
	for _, t := range c.sums {
		t.Close()
	}
	c.sums = nil
}
