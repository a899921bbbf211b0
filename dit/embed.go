package dit

import (
	"math"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// PatchEmbed cuts the latent into patches and projects each to a token: a convolution whose stride is the size of its
// kernel, P, and therefore one matrix product.
type PatchEmbed struct {
	Proj nn.Conv2d `dit:"proj"`
}

// Forward maps x [N, C, I, J] to tokens [N, T, D] in row-major order of the patches.
func (e *PatchEmbed) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	w := e.Proj.Weight // [D, C, P, P]
	n, c, p := x.Dim(0), x.Dim(1), w.Dim(3)
	rows, cols := x.Dim(2)/p, x.Dim(3)/p
	x = s.Permute(s.Reshape(x, n, c, rows, p, cols, p), 0, 2, 4, 1, 3, 5) // [N, I/P, J/P, C, P, P]
	proj := nn.Linear{Weight: s.Reshape(w, w.Dim(0), c*p*p), Bias: e.Proj.Bias}
	return proj.Forward(s, s.Reshape(x, n, rows*cols, c*p*p))
}

// positions returns the fixed two-dimensional sin-cos code of a rows x cols arrangement of tokens,
// [T, dim] row-major. The first half of the channels codes the column, the second half the row; each
// half has its sines first, then its cosines (get_2d_sincos_pos_embed of the original, in float64).
func positions(dim, rows, cols int) []float32 {
	out := make([]float32, rows*cols*dim)
	quarter := dim / 4
	for row := range rows {
		for col := range cols {
			token := out[(row*cols+col)*dim:][:dim]
			for k := range quarter {
				omega := 1 / math.Pow(10000, float64(k)/float64(quarter))
				for half, pos := range []int{col, row} {
					sin, cos := math.Sincos(float64(pos) * omega)
					token[half*2*quarter+k] = float32(sin)
					token[half*2*quarter+quarter+k] = float32(cos)
				}
			}
		}
	}
	return out
}

// positions is the code of the tokens of a model, [T, D].
func (c Config) positions() []float32 {
	rows, cols := c.grid()
	return positions(c.HiddenSize, rows, cols)
}

// frequencyEmbeddingSize is the width of the sinusoidal timestep code.
const frequencyEmbeddingSize = 256

// TimestepEmbedder maps timesteps to vectors: a sinusoidal code, then Linear, SiLU, Linear.
type TimestepEmbedder struct {
	MLP0 nn.Linear `dit:"mlp.0"`
	MLP2 nn.Linear `dit:"mlp.2"`
	// Frequencies are those of the code, Float32 [1, 128].
	Frequencies *torch.Tensor `dit:"frequencies,derived"`
}

func newTimestepEmbedder(s *torch.Scope, cfg Config) TimestepEmbedder {
	d := cfg.HiddenSize
	return TimestepEmbedder{
		MLP0: nn.NewLinear(s, frequencyEmbeddingSize, d), MLP2: nn.NewLinear(s, d, d),
		Frequencies: nn.Constant(s, func() []float32 { return frequencies(s, cfg.TimestepFrequencyShift) },
			1, frequencyEmbeddingSize/2),
	}
}

// Cost is that of one timestep.
func (e *TimestepEmbedder) Cost() nn.Cost { return perSample(nn.Costs(e.MLP0.Cost(1), e.MLP2.Cost(1))) }

// Forward maps t [N] (any number type; fractions are allowed) to [N, D].
func (e *TimestepEmbedder) Forward(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
	return e.MLP2.Forward(s, s.SiLU(e.MLP0.Forward(s, timestepCode(s, t, e.Frequencies))))
}

// frequencies returns f_i = 10000^(-i/(128-shift)). It takes libtorch's float32 exponential on the CPU, as
// the original does: at t = 999 one unit in the last place of f moves the argument by 6e-5.
func frequencies(s *torch.Scope, shift int) []float32 {
	const half = frequencyEmbeddingSize / 2
	exponents := make([]float32, half)
	for i := range exponents {
		exponents[i] = float32(-math.Log(10000)) * float32(i) / float32(half-shift)
	}
	var freqs []float32
	s.NoGrad().Sub(func(s *torch.Scope) *torch.Tensor {
		onCPU := s.ToDevice(torch.From(s, exponents, half), torch.CPU)
		freqs = torch.Data[float32](s.Exp(onCPU))
		return nil
	})
	return freqs
}

// timestepCode returns [cos(t f), sin(t f)] for t [N] and frequencies f [1, 128], [N, 256] (timestep_embedding of the
// original; cosines first, unlike the positions).
func timestepCode(s *torch.Scope, t, freqs *torch.Tensor) *torch.Tensor {
	args := s.Mul(s.Unsqueeze(s.To(t, torch.Float32), 1), freqs)
	return s.Cat([]*torch.Tensor{s.Cos(args), s.Sin(args)}, 1)
}

// LabelEmbedder maps class labels to vectors. Its table has one more row than there are classes, the
// null class, where labels are dropped in training.
type LabelEmbedder struct {
	Table nn.Embedding `dit:"embedding_table"`
}

// Forward maps labels y (Int64 [N]) to [N, D].
func (e *LabelEmbedder) Forward(s *torch.Scope, y *torch.Tensor) *torch.Tensor {
	return e.Table.Forward(s, y)
}
