package sampling

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/philox"
)

// A source gives the noise of batches of one size.
type source interface {
	// start returns what the pictures from number first on begin with.
	start(s *torch.Scope, first int) *torch.Tensor
	// prepare is called before each step that adds noise, outside of its graph.
	prepare(s *torch.Scope)
	// step returns what step k, of one element, adds.
	step(s *torch.Scope, k *torch.Tensor) *torch.Tensor
}

// newSource returns the noise of batches of n pictures. What stays in memory belongs to s.
func newSource(s *torch.Scope, d *drawing, n int) (source, error) {
	cfg := d.model.Config()
	row := []int{cfg.InChannels, cfg.InputSize, cfg.Width()}
	if d.RNG != rngTorch {
		return &imageSource{d.Seed, d.First, s.Zeros(torch.Int64, 1), s.Zeros(torch.Int64, n), row}, nil
	}
	gen, err := torch.NewGenerator(d.generator, d.Seed)
	if err != nil {
		return nil, err
	}
	v := torchSource{dev: d.generator, gen: gen, stepDev: d.generator, stepGen: gen, doubled: d.doubled()}
	dtype := torch.Float32
	switch p := d.process(); {
	case p.NoiseAtOne: // REPA carries the batch once, in Float64
		dtype, v.doubled = torch.Float64, false
	case p.IsFlow() && d.generator != torch.CPU: // SiT draws what steps add on the CPU
		v.stepDev = torch.CPU
		if v.stepGen, err = torch.NewGenerator(torch.CPU, d.Seed); err != nil {
			return nil, err
		}
	}
	v.noise = s.Zeros(dtype, append([]int{n}, row...)...)
	return &v, nil
}

// An imageSource names each draw by the seed, the picture and the step.
type imageSource struct {
	seed    uint64
	first   int           // of the request
	zero    *torch.Tensor // Int64 [1]
	indices *torch.Tensor // Int64 [n], of the pictures
	row     []int         // C, I, J
}

func (n *imageSource) start(s *torch.Scope, first int) *torch.Tensor {
	indices := make([]int64, n.indices.Dim(0))
	for i := range indices {
		indices[i] = int64(n.first + first + i)
	}
	s.Copy_(n.indices, torch.From(s, indices, len(indices)))
	return s.PhiloxNormal(n.seed, philox.TagStartNoise, n.zero, n.indices, n.row...)
}

func (n *imageSource) prepare(*torch.Scope) {}

func (n *imageSource) step(s *torch.Scope, k *torch.Tensor) *torch.Tensor {
	return s.PhiloxNormal(n.seed, philox.TagStepNoise, k, n.indices, n.row...)
}

// A torchSource draws from libtorch's generator in the order of the original. DiT and SiT draw each step's noise for
// the doubled batch of guidance and never look at the second half.
type torchSource struct {
	dev     torch.Device // of gen
	gen     *torch.Generator
	stepDev torch.Device // of stepGen, which is gen where both are one
	stepGen *torch.Generator
	doubled bool
	noise   *torch.Tensor // [n, C, I, J], of the next step
}

func (n *torchSource) start(s *torch.Scope, _ int) *torch.Tensor {
	return n.normals(s, torch.Float32, n.noise.Dim(0), n.dev, n.gen)
}

// normals draws those of count pictures where the generator is.
func (n *torchSource) normals(s *torch.Scope, dtype torch.DType, count int, dev torch.Device, gen *torch.Generator,
) *torch.Tensor {
	x := s.ToDevice(s.Empty(dtype, append([]int{count}, n.noise.Shape()[1:]...)...), dev)
	s.Normal_(x, gen, 0, 1)
	return s.ToDevice(x, s.Device())
}

func (n *torchSource) prepare(s *torch.Scope) {
	count := n.noise.Dim(0)
	s.Sub(func(s *torch.Scope) *torch.Tensor {
		drawn := count
		if n.doubled {
			drawn *= 2
		}
		s.Copy_(n.noise, s.Narrow(n.normals(s, n.noise.DType(), drawn, n.stepDev, n.stepGen), 0, 0, count))
		return nil
	})
}

func (n *torchSource) step(*torch.Scope, *torch.Tensor) *torch.Tensor { return n.noise }
