package inception

import (
	"errors"
	"fmt"
	"math"

	"github.com/ditrun/ditrun/torch"
)

// A Preparation says how pictures become the network's input: with which resize and which scale of the levels. The two
// give different numbers for the same pictures.
type Preparation string

const (
	// ADM is that of TensorFlow's graph, which ADM's evaluations, and so the numbers of papers on ImageNet, are made
	// with: bilinear with samples at the corners, where the coordinate of pixel i is i times the ratio of sizes, then
	// (level - 128) / 128.
	ADM Preparation = "adm"
	// PyTorchFID is that of pytorch-fid: bilinear with samples in the middle of pixels, then 2 level / 255 - 1.
	PyTorchFID Preparation = "pytorch-fid"
)

// Validate returns an error for what is neither.
func (p Preparation) Validate() error {
	if p != ADM && p != PyTorchFID {
		return fmt.Errorf("preparation %q: want %s or %s", string(p), ADM, PyTorchFID)
	}
	return nil
}

// String says in words what it does.
func (p Preparation) String() string {
	if p == PyTorchFID {
		return "bilinear, half-pixel centres, no antialias, 2 v / 255 - 1 (pytorch-fid)"
	}
	return "bilinear, TensorFlow 1 corners, no antialias, (v - 128) / 128 (ADM)"
}

// A Which says what features are wanted besides the last pool, which is always there.
type Which struct{ Spatial, Probabilities bool }

// A Batch holds the features of N pictures, row by row.
type Batch struct {
	Pool          []float32 // [N, 2048]
	Spatial       []float32 // [N, 2023], nil where it was not asked for
	Probabilities []float32 // [N, 1008], nil where it was not asked for
}

// Features returns the features of rgb, n pictures as bytes [N, H, W, 3], in Float32 without TF32. Weights that are
// damaged give numbers that are not finite, which are an error.
func (n *Network) Features(rgb []uint8, count, height, width int, by Preparation, want Which) (out Batch, err error) {
	if len(rgb) != 3*count*height*width || count < 1 || height < 1 || width < 1 {
		return Batch{}, fmt.Errorf("inception: %d bytes for %d pictures of %dx%d, want %d", len(rgb), count, height,
			width, 3*count*height*width)
	}
	if err := by.Validate(); err != nil {
		return Batch{}, fmt.Errorf("inception: %w", err)
	}
	err = torch.Run(n.dev, func(s *torch.Scope) error {
		s = s.NoGrad().TF32(false)
		x := prepare(s, torch.From(s, rgb, count, height, width, 3), by)
		pool, spatial := n.forward(s, x, want.Spatial, nil)
		if sum := s.Sum(s.To(pool, torch.Float64)).Item(); math.IsNaN(sum) || math.IsInf(sum, 0) {
			return errors.New("inception: the features are not finite numbers: the weights are damaged, or not those " +
				"of this network")
		}
		out.Pool = torch.Data[float32](pool)
		if want.Spatial {
			out.Spatial = torch.Data[float32](spatial)
		}
		if want.Probabilities {
			out.Probabilities = torch.Data[float32](n.probabilities(s, pool))
		}
		return nil
	})
	return out, err
}

// prepare turns pictures rgb [N, H, W, 3], Uint8, into the network's input [N, 3, 299, 299].
func prepare(s *torch.Scope, rgb *torch.Tensor, by Preparation) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		x := s.To(s.Contiguous(s.Permute(rgb, 0, 3, 1, 2)), torch.Float32)
		if by == PyTorchFID {
			x = s.Div(x, s.Full(255, torch.Float32))
			x = resize(s, resize(s, x, 3, middle), 2, middle)
			return s.AddScalar(s.MulScalar(x, 2), -1)
		}
		x = resize(s, resize(s, x, 3, corner), 2, corner)
		return s.MulScalar(s.AddScalar(x, -128), 1.0/128)
	})
}

// corner is the coordinate, in a line of from pixels, of pixel i of to, in the convention of TensorFlow 1.
func corner(i, from, to int) float32 { return float32(i) * (float32(from) / float32(to)) }

// middle is that of PyTorch's interpolate with align_corners=False.
func middle(i, from, to int) float32 {
	return max(0, (float32(i)+0.5)*(float32(from)/float32(to))-0.5)
}

// resize makes dimension dim of x as long as the network wants it, linearly between the two nearest pixels, without a
// filter where it gets shorter.
func resize(s *torch.Scope, x *torch.Tensor, dim int, at func(i, from, to int) float32) *torch.Tensor {
	from := x.Dim(dim)
	lower, upper, weight := make([]int64, Side), make([]int64, Side), make([]float32, Side)
	for i := range Side {
		c := at(i, from, Side)
		lower[i] = min(int64(c), int64(from-1))
		upper[i] = min(lower[i]+1, int64(from-1))
		weight[i] = c - float32(lower[i])
	}
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		shape := []int{1, 1, 1, 1}
		shape[dim] = Side
		low := s.IndexSelect(x, dim, torch.From(s, lower, Side))
		high := s.IndexSelect(x, dim, torch.From(s, upper, Side))
		return s.Addcmul(low, s.Subtract(high, low), torch.From(s, weight, shape...))
	})
}
