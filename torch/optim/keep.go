package optim

import (
	"math"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/internal/native"
)

// A State is a copy, in host memory of its own, of everything that steps of a process alone change.
type State struct {
	opt  *AdamW
	host []*torch.Tensor // of stateBuffers
}

// stateBuffers are what steps change, and stateNames what people call that.
var (
	stateBuffers = []native.Buffer{native.StepCount, native.ExpAvg, native.ExpAvgSq, native.Weights, native.EMA}
	stateNames   = []string{"step count", "first moments", "second moments", "weights", "averages"}
)

// Keep copies the state. It waits for the device. It must not be called in a group.
func (o *AdamW) Keep(s *torch.Scope) *State {
	k := &State{opt: o}
	s.NoGrad().Sub(func(s *torch.Scope) *torch.Tensor {
		for _, b := range stateBuffers {
			x := o.fused.Buffer(s, b)
			if s.Device() == torch.CPU {
				x = s.Clone(x)
			} else {
				x = s.ToDevice(x, torch.CPU)
			}
			k.host = append(k.host, torch.Persist(x))
		}
		return nil
	})
	return k
}

// Restore puts back what was copied.
func (k *State) Restore(s *torch.Scope) {
	s.NoGrad().Sub(func(s *torch.Scope) *torch.Tensor {
		for i, b := range stateBuffers {
			s.Copy_(k.opt.fused.Buffer(s, b), k.host[i])
		}
		k.opt.fused.Renew()
		return nil
	})
}

// A Distance is how far something is from what it was: the norm of the difference, 0 where it is the same to the bit.
type Distance struct {
	Of   string // step count, first moments, second moments, weights, averages
	Norm float64
}

// distanceElements is how many numbers go to the device at once: next to a step, there is little room.
const distanceElements = 1 << 24

// Distances compares the present state with what was copied.
func (k *State) Distances(s *torch.Scope) (all []Distance) {
	s = s.NoGrad()
	for i, b := range stateBuffers {
		sum, n := 0.0, k.host[i].NumElements()
		for at := 0; at < n; at += distanceElements {
			s.Sub(func(s *torch.Scope) *torch.Tensor {
				part := func(x *torch.Tensor) *torch.Tensor {
					return s.ToDevice(s.Narrow(s.Reshape(x, n), 0, at, min(distanceElements, n-at)), s.Device())
				}
				d := s.Norm(s.Subtract(part(k.opt.fused.Buffer(s, b)), part(k.host[i]))).Item()
				sum += d * d
				return nil
			})
		}
		all = append(all, Distance{stateNames[i], math.Sqrt(sum)})
	}
	return all
}

// Close frees the copy.
func (k *State) Close() {
	for _, t := range k.host {
		t.Close()
	}
	k.host = nil
}
