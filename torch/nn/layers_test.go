package nn_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

func TestLayers(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		set := func(p *torch.Tensor, values ...float32) { s.NoGrad().Copy_(p, torch.From(s, values, p.Shape()...)) }

		l := nn.NewLinear(s, 2, 3)
		defer nn.Close(&l)
		set(l.Weight, 1, 2, 3, 4, 5, 6)
		set(l.Bias, 10, 20, 30)
		x := torch.From(s, []float32{1, -1}, 1, 2)
		near(t, "linear", l.Forward(s, x), 9, 19, 29)
		unbiased := nn.Linear{Weight: l.Weight}
		near(t, "linear without bias", unbiased.Forward(s, x), -1, -1, -1)

		c := nn.NewConv2d(s, 1, 2, 2, 2, 0)
		defer nn.Close(&c)
		set(c.Weight, 1, 1, 1, 1, 1, 0, 0, 0)
		set(c.Bias, 0, 100)
		y := c.Forward(s, s.Reshape(s.Arange(8, torch.Float32), 1, 1, 2, 4))
		if !slices.Equal(y.Shape(), []int{1, 2, 1, 2}) {
			t.Errorf("conv2d has shape %v", y.Shape())
		}
		near(t, "conv2d", y, 0+1+4+5, 2+3+6+7, 100, 102)

		g := nn.NewGroupNorm(s, 2, 4, 0)
		defer nn.Close(&g)
		near(t, "group norm", g.Forward(s, torch.From(s, []float32{1, 3, -5, 5}, 1, 4, 1)), -1, 1, -1, 1)
		set(g.Weight, 1, 2, 3, 4)
		set(g.Bias, 0, 0, 1, 1)
		near(t, "affine group norm", g.Forward(s, torch.From(s, []float32{1, 3, -5, 5}, 1, 4, 1)), -1, 2, -2, 5)

		a := nn.AdaLayerNorm{}
		near(t, "adaln", a.Modulate(s, torch.From(s, []float32{1, 3, 7, 5}, 1, 2, 2),
			torch.From(s, []float32{10, 20}, 1, 2), torch.From(s, []float32{0, 1}, 1, 2)),
			9, 22, 11, 18)

		e := nn.NewEmbedding(s, 3, 2)
		defer nn.Close(&e)
		set(e.Weight, 0, 1, 2, 3, 4, 5)
		near(t, "embedding", e.Forward(s, torch.From(s, []int64{2, 0}, 2)), 4, 5, 0, 1)
		return nil
	})
}

// Masters stay Float32: a layer computes in the activation's type and its gradient comes back.
func TestLayersCastToTheActivation(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		l := nn.NewLinear(s, 2, 2)
		defer nn.Close(&l)
		s.NoGrad().Fill_(l.Weight, 0.5)
		x := torch.From(s, []float32{1, 3}, 1, 2)
		y := l.Forward(s, s.To(x, torch.BFloat16))
		if y.DType() != torch.BFloat16 || l.Weight.DType() != torch.Float32 {
			t.Errorf("output %v, weight %v", y, l.Weight)
		}
		near(t, "output", s.To(y, torch.Float32), 2, 2)
		s.Backward(s.Sum(s.To(y, torch.Float32)))
		grad := s.Grad(l.Weight)
		if grad.DType() != torch.Float32 {
			t.Errorf("gradient %v", grad)
		}
		near(t, "gradient", grad, 1, 3, 1, 3)
		return nil
	})
}

// The values of torch.nn.init and of torch.nn.Linear in PyTorch 2.11 after manual_seed(7).
func TestInitEqualsPyTorch(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		gen := func() *torch.Generator {
			g, err := torch.NewGenerator(torch.CPU, 7)
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		w := nn.Parameter(s, 2, 3)
		defer w.Close()
		nn.XavierUniform(s, gen(), w)
		near(t, "xavier", w, 0.0765114575624466, -0.6598891615867615, 0.34881535172462463, 0.3437293767929077,
			-0.5854901075363159, -0.16418224573135376)
		if !w.RequiresGrad() {
			t.Error("the parameter lost its gradient")
		}
		columns := s.Transpose(s.Zeros(torch.Float32, 3, 2), 0, 1)
		nn.XavierUniform(s, gen(), columns)
		if !bytes.Equal(s.Contiguous(columns).Bytes(), w.Bytes()) {
			t.Error("another order of memory gives other weights")
		}
		kernel := nn.Parameter(s, 2, 3, 2, 2)
		defer kernel.Close()
		nn.XavierUniform(s, gen(), kernel)
		near(t, "xavier of a kernel", s.Narrow(s.Reshape(kernel, 24), 0, 0, 4), 0.04572433978319168,
			-0.39435920119285583, 0.20845703780651093, 0.20541758835315704)
		g, b := gen(), nn.Parameter(s, 2)
		defer b.Close()
		nn.KaimingUniform(s, g, w)
		near(t, "kaiming", w, 0.04032507538795471, -0.3477921187877655, 0.18384182453155518, 0.1811612844467163,
			-0.3085803687572479, -0.0865316316485405)
		nn.Uniform(s, g, b, 0.5773502691896258)
		near(t, "bias", b, -0.33822792768478394, 0.1498066484928131)
		normal := nn.Parameter(s, 4)
		defer normal.Close()
		nn.Normal(s, gen(), normal, 0.02)
		near(t, "normal", normal, 0.02*-0.1467950940132141, 0.02*0.7861412763595581, 0.02*0.9468216300010681,
			0.02*-1.1143440008163452)
		return nil
	})
}

// Tokens in Float32 under a modulation in BFloat16, as in a block: the result is that of Float32, rounded once.
func TestModulateOfTwoTypes(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		s = s.NoGrad()
		x := torchtest.Normal(s, 1, 2, 3, 8)
		shift, scale := torchtest.Normal(s, 2, 2, 8), torchtest.Normal(s, 3, 2, 8)
		shift, scale = s.To(shift, torch.BFloat16), s.To(scale, torch.BFloat16)
		n := nn.AdaLayerNorm{Eps: 1e-6}
		got := n.Modulate(s, x, shift, scale)
		want := s.To(n.Modulate(s, x, s.To(shift, torch.Float32), s.To(scale, torch.Float32)), torch.BFloat16)
		if got.DType() != torch.BFloat16 || !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("%v, which is not the rounded result of Float32", got)
		}
		return nil
	})
}
