package optim

import (
	"encoding/json"
	"errors"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
)

// Names of the state in checkpoints; those of the moments stand before the parameter's name.
const (
	stepName  = "step"
	expAvg    = "exp_avg."
	expAvgSq  = "exp_avg_sq."
	piecesKey = "pieces" // in the metadata: {name: [offset, elements of the whole]} of tensors that are not whole
)

// EMA returns the averages under their parameters' names. They are views in s of the optimizer's
// buffer and change with it. With ZeRO-1 they are copies of what they are now, gathered from all ranks,
// which must all call EMA.
func (o *AdamW) EMA(s *torch.Scope) []nn.Param {
	all := o.fused.Averages(s)
	out := make([]nn.Param, len(o.params))
	for i, p := range o.params {
		out[i] = nn.Param{Name: p.Name, Tensor: view(s, all, o.layout.whole(i), p.Tensor), Buffer: p.Buffer}
	}
	return out
}

// view returns a piece of a buffer, in the shape of like where it is the whole of that.
func view(s *torch.Scope, buffer *torch.Tensor, p piece, like *torch.Tensor) *torch.Tensor {
	return s.NoGrad().Sub(func(s *torch.Scope) *torch.Tensor {
		x := s.Narrow(buffer, 0, p.at, p.length)
		if p.length == like.NumElements() {
			x = s.Reshape(x, like.Shape()...)
		}
		return x
	})
}

// A Snapshot is a copy of the optimizer's state, on the first rank also of the weights and the averages,
// in host memory, to be saved while training goes on. It may be used and closed on any goroutine.
type Snapshot struct {
	opt     *AdamW
	tensors []*torch.Tensor // in the order of native.AdamW's Snapshot
}

// Snapshot copies the state, in a group on all ranks at the same step. One is open at a time, as the next
// one uses its memory: close it first.
func (o *AdamW) Snapshot(s *torch.Scope) (*Snapshot, error) {
	if !o.snapshot.CompareAndSwap(false, true) {
		return nil, errors.New("snapshot: the one before is still open")
	}
	p := &Snapshot{opt: o}
	err := s.Try(func(s *torch.Scope) error {
		p.tensors = o.fused.Snapshot(s)
		for _, t := range p.tensors {
			torch.Persist(t)
		}
		return nil
	})
	if err != nil {
		o.snapshot.Store(false)
		return nil, err
	}
	return p, nil
}

// Close ends the use of the snapshot and of what its methods returned.
func (p *Snapshot) Close() {
	if p.tensors == nil {
		return
	}
	for _, t := range p.tensors {
		t.Close()
	}
	p.tensors = nil
	p.opt.snapshot.Store(false)
}

// Weights returns the weights, for the file of the model; nil on ranks above 0.
func (p *Snapshot) Weights() []checkpoint.Tensor { return p.whole(3) }

// Averages returns the averages, for a file of the same form; nil on ranks above 0.
func (p *Snapshot) Averages() []checkpoint.Tensor { return p.whole(4) }

func (p *Snapshot) whole(tensor int) (out []checkpoint.Tensor) {
	if tensor >= len(p.tensors) {
		return nil
	}
	data := lent.HostBytes(p.tensors[tensor])
	for i := range p.opt.params {
		out = append(out, p.tensor("", data, p.opt.layout.whole(i)))
	}
	return out
}

// Optimizer returns this rank's part of the moments and the step count, and the metadata of their
// file. Tensors that are not whole have one dimension; the metadata says where they belong.
func (p *Snapshot) Optimizer() ([]checkpoint.Tensor, map[string]string) {
	m, v := lent.HostBytes(p.tensors[1]), lent.HostBytes(p.tensors[2])
	out := []checkpoint.Tensor{
		{Info: checkpoint.Info{Name: stepName, DType: checkpoint.F32}, Data: lent.HostBytes(p.tensors[0])}}
	cut := map[string][2]int{}
	for _, at := range p.opt.layout.moments() {
		for _, t := range []checkpoint.Tensor{p.tensor(expAvg, m, at), p.tensor(expAvgSq, v, at)} {
			if total := p.opt.params[at.param].Tensor.NumElements(); at.length < total {
				cut[t.Name] = [2]int{at.offset, total}
			}
			out = append(out, t)
		}
	}
	meta := map[string]string{"format": "pt"}
	if len(cut) > 0 {
		text, err := json.Marshal(cut)
		if err != nil {
			panic(err) // a map of numbers cannot fail to encode
		}
		meta[piecesKey] = string(text)
	}
	return out, meta
}

// tensor is a piece of data in the form that files take.
func (p *Snapshot) tensor(prefix string, data []byte, at piece) checkpoint.Tensor {
	param := p.opt.params[at.param]
	shape := []int64{int64(at.length)}
	if at.length == param.Tensor.NumElements() {
		shape = shape[:0]
		for _, d := range param.Tensor.Shape() {
			shape = append(shape, int64(d))
		}
	}
	return checkpoint.Tensor{Info: checkpoint.Info{Name: prefix + param.Name, DType: checkpoint.F32, Shape: shape},
		Data: data[4*at.at : 4*(at.at+at.length)]}
}
