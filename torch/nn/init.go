package nn

import (
	"math"

	"github.com/ditrun/ditrun/torch"
)

// XavierUniform fills the weight w, seen as a matrix [out, in], with uniforms of bound
// sqrt(6 / (in + out)) (Glorot and Bengio 2010; torch.nn.init.xavier_uniform_ of the flattened
// matrix). It draws on the CPU, so that a seed gives the same weights on every device.
func XavierUniform(s *torch.Scope, gen *torch.Generator, w *torch.Tensor) {
	out := w.Dim(0)
	bound := math.Sqrt(6 / float64(out+w.NumElements()/out))
	Uniform(s, gen, w, bound)
}

// KaimingUniform fills w as PyTorch's Linear and Conv2d do by default: bound 1/sqrt(in), in being
// the inputs of one output.
func KaimingUniform(s *torch.Scope, gen *torch.Generator, w *torch.Tensor) {
	Uniform(s, gen, w, 1/math.Sqrt(float64(w.NumElements()/w.Dim(0))))
}

// Uniform fills w with uniforms in [-bound, bound).
func Uniform(s *torch.Scope, gen *torch.Generator, w *torch.Tensor, bound float64) {
	onCPU(s, w, func(s *torch.Scope, t *torch.Tensor) { s.Uniform_(t, gen, -bound, bound) })
}

// Normal fills w with normals of mean zero.
func Normal(s *torch.Scope, gen *torch.Generator, w *torch.Tensor, std float64) {
	onCPU(s, w, func(s *torch.Scope, t *torch.Tensor) { s.Normal_(t, gen, 0, std) })
}

// onCPU has a row-major tensor on the CPU filled for w: w itself, where it is one.
func onCPU(s *torch.Scope, w *torch.Tensor, fill func(*torch.Scope, *torch.Tensor)) {
	s.NoGrad().Sub(func(s *torch.Scope) *torch.Tensor {
		t := w
		if w.Device() != torch.CPU { // what is there need not be read back
			t = s.Expand(s.ToDevice(s.Empty(torch.Float32, 1), torch.CPU), w.Shape()...)
		}
		t = s.Contiguous(s.To(t, torch.Float32))
		fill(s, t)
		s.Copy_(w, t) // nothing, where both are one
		return nil
	})
}
