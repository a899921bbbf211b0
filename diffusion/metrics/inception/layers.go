package inception

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// A BatchNorm holds running statistics and the scale and shift that follow them, all [C].
type BatchNorm struct {
	Weight      *torch.Tensor `dit:"weight"`
	Bias        *torch.Tensor `dit:"bias"`
	RunningMean *torch.Tensor `dit:"running_mean,buffer"`
	RunningVar  *torch.Tensor `dit:"running_var,buffer"`
}

// normEps is the epsilon of every BatchNorm of the network.
const normEps = 1e-3

// A Conv is a convolution without bias, BatchNorm and ReLU.
type Conv struct {
	Weight *torch.Tensor `dit:"conv.weight,product"` // [out, in, kH, kW]
	Norm   BatchNorm     `dit:"bn"`

	// Folded and Shift are the convolution that computes the norm too: see fold.
	Folded *torch.Tensor `dit:"folded,derived"`
	Shift  *torch.Tensor `dit:"shift,derived"`

	stride, padH, padW int
}

// newConv makes a convolution of zeros with a kernel of kh x kw. Padding is what keeps the size at stride 1, or none.
func newConv(s *torch.Scope, in, out, kh, kw, stride int, padded bool) Conv {
	vector := func() *torch.Tensor { return nn.Parameter(s, out) }
	c := Conv{Weight: nn.Parameter(s, out, in, kh, kw), Norm: BatchNorm{vector(), vector(), vector(), vector()},
		stride: stride}
	if padded {
		c.padH, c.padW = kh/2, kw/2
	}
	return c
}

// fold makes one convolution of the convolution and the norm after it, which at evaluation is a scale and a shift: in
// Float64, rounded once.
func (c *Conv) fold(s *torch.Scope) {
	s = s.NoGrad()
	wide := func(t *torch.Tensor) *torch.Tensor { return s.To(t, torch.Float64) }
	scale := s.Mul(wide(c.Norm.Weight), s.PowScalar(s.AddScalar(wide(c.Norm.RunningVar), normEps), -0.5))
	shift := s.Subtract(wide(c.Norm.Bias), s.Mul(wide(c.Norm.RunningMean), scale))
	folded := s.Mul(wide(c.Weight), s.Reshape(scale, -1, 1, 1, 1))
	c.Folded, c.Shift = torch.Persist(s.To(folded, torch.Float32)), torch.Persist(s.To(shift, torch.Float32))
}

// Forward maps x [N, in, H, W] to [N, out, H', W'].
func (c *Conv) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		padding := c.padH
		if c.padH != c.padW { // which the operation has no argument for
			x, padding = s.Pad(x, []int{c.padW, c.padW, c.padH, c.padH}), 0
		}
		return s.ReLU(s.Conv2d(x, c.Folded, c.Shift, c.stride, padding))
	})
}

// chain applies convolutions one after the other.
func chain(s *torch.Scope, x *torch.Tensor, convs ...*Conv) *torch.Tensor {
	for _, c := range convs {
		x = c.Forward(s, x)
	}
	return x
}

// averages are those of 3 x 3 neighbours, without what is outside the picture, as TensorFlow has them.
func averages(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.AvgPool2d(x, 3, 1, 1) }

// halved is the largest of 3 x 3 neighbours, at every second place.
func halved(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.MaxPool2d(x, 3, 2, 0) }

// join computes branches that are joined along the channels.
func join(s *torch.Scope, branches func(s *torch.Scope) []*torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor { return s.Cat(branches(s), 1) })
}

// A block is a module of branches.
type block interface {
	Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor
}

// BlockA is Inception's block of 35 x 35.
type BlockA struct {
	Branch1x1      Conv `dit:"branch1x1"`
	Branch5x5x1    Conv `dit:"branch5x5_1"`
	Branch5x5x2    Conv `dit:"branch5x5_2"`
	Branch3x3dblx1 Conv `dit:"branch3x3dbl_1"`
	Branch3x3dblx2 Conv `dit:"branch3x3dbl_2"`
	Branch3x3dblx3 Conv `dit:"branch3x3dbl_3"`
	BranchPool     Conv `dit:"branch_pool"`
}

func newBlockA(s *torch.Scope, in, pool int) *BlockA {
	return &BlockA{
		Branch1x1:      newConv(s, in, 64, 1, 1, 1, true),
		Branch5x5x1:    newConv(s, in, 48, 1, 1, 1, true),
		Branch5x5x2:    newConv(s, 48, 64, 5, 5, 1, true),
		Branch3x3dblx1: newConv(s, in, 64, 1, 1, 1, true),
		Branch3x3dblx2: newConv(s, 64, 96, 3, 3, 1, true),
		Branch3x3dblx3: newConv(s, 96, 96, 3, 3, 1, true),
		BranchPool:     newConv(s, in, pool, 1, 1, 1, true),
	}
}

// Forward maps x [N, in, 35, 35] to [N, 224 + pool, 35, 35].
func (b *BlockA) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return join(s, func(s *torch.Scope) []*torch.Tensor {
		return []*torch.Tensor{
			b.Branch1x1.Forward(s, x),
			chain(s, x, &b.Branch5x5x1, &b.Branch5x5x2),
			chain(s, x, &b.Branch3x3dblx1, &b.Branch3x3dblx2, &b.Branch3x3dblx3),
			b.BranchPool.Forward(s, averages(s, x)),
		}
	})
}

// BlockB goes from 35 x 35 to 17 x 17.
type BlockB struct {
	Branch3x3      Conv `dit:"branch3x3"`
	Branch3x3dblx1 Conv `dit:"branch3x3dbl_1"`
	Branch3x3dblx2 Conv `dit:"branch3x3dbl_2"`
	Branch3x3dblx3 Conv `dit:"branch3x3dbl_3"`
}

func newBlockB(s *torch.Scope, in int) *BlockB {
	return &BlockB{
		Branch3x3:      newConv(s, in, 384, 3, 3, 2, false),
		Branch3x3dblx1: newConv(s, in, 64, 1, 1, 1, true),
		Branch3x3dblx2: newConv(s, 64, 96, 3, 3, 1, true),
		Branch3x3dblx3: newConv(s, 96, 96, 3, 3, 2, false),
	}
}

// Forward maps x [N, in, 35, 35] to [N, in + 480, 17, 17].
func (b *BlockB) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return join(s, func(s *torch.Scope) []*torch.Tensor {
		return []*torch.Tensor{
			b.Branch3x3.Forward(s, x),
			chain(s, x, &b.Branch3x3dblx1, &b.Branch3x3dblx2, &b.Branch3x3dblx3),
			halved(s, x),
		}
	})
}

// BlockC is the block of 17 x 17, whose kernels are rows and columns.
type BlockC struct {
	Branch1x1      Conv `dit:"branch1x1"`
	Branch7x7x1    Conv `dit:"branch7x7_1"`
	Branch7x7x2    Conv `dit:"branch7x7_2"`
	Branch7x7x3    Conv `dit:"branch7x7_3"`
	Branch7x7dblx1 Conv `dit:"branch7x7dbl_1"`
	Branch7x7dblx2 Conv `dit:"branch7x7dbl_2"`
	Branch7x7dblx3 Conv `dit:"branch7x7dbl_3"`
	Branch7x7dblx4 Conv `dit:"branch7x7dbl_4"`
	Branch7x7dblx5 Conv `dit:"branch7x7dbl_5"`
	BranchPool     Conv `dit:"branch_pool"`
}

func newBlockC(s *torch.Scope, in, width int) *BlockC {
	return &BlockC{
		Branch1x1:      newConv(s, in, 192, 1, 1, 1, true),
		Branch7x7x1:    newConv(s, in, width, 1, 1, 1, true),
		Branch7x7x2:    newConv(s, width, width, 1, 7, 1, true),
		Branch7x7x3:    newConv(s, width, 192, 7, 1, 1, true),
		Branch7x7dblx1: newConv(s, in, width, 1, 1, 1, true),
		Branch7x7dblx2: newConv(s, width, width, 7, 1, 1, true),
		Branch7x7dblx3: newConv(s, width, width, 1, 7, 1, true),
		Branch7x7dblx4: newConv(s, width, width, 7, 1, 1, true),
		Branch7x7dblx5: newConv(s, width, 192, 1, 7, 1, true),
		BranchPool:     newConv(s, in, 192, 1, 1, 1, true),
	}
}

// Forward maps x [N, in, 17, 17] to [N, 768, 17, 17].
func (b *BlockC) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return join(s, func(s *torch.Scope) []*torch.Tensor {
		return []*torch.Tensor{
			b.Branch1x1.Forward(s, x),
			chain(s, x, &b.Branch7x7x1, &b.Branch7x7x2, &b.Branch7x7x3),
			chain(s, x, &b.Branch7x7dblx1, &b.Branch7x7dblx2, &b.Branch7x7dblx3, &b.Branch7x7dblx4, &b.Branch7x7dblx5),
			b.BranchPool.Forward(s, averages(s, x)),
		}
	})
}

// BlockD goes from 17 x 17 to 8 x 8.
type BlockD struct {
	Branch3x3x1   Conv `dit:"branch3x3_1"`
	Branch3x3x2   Conv `dit:"branch3x3_2"`
	Branch7x7x3x1 Conv `dit:"branch7x7x3_1"`
	Branch7x7x3x2 Conv `dit:"branch7x7x3_2"`
	Branch7x7x3x3 Conv `dit:"branch7x7x3_3"`
	Branch7x7x3x4 Conv `dit:"branch7x7x3_4"`
}

func newBlockD(s *torch.Scope, in int) *BlockD {
	return &BlockD{
		Branch3x3x1:   newConv(s, in, 192, 1, 1, 1, true),
		Branch3x3x2:   newConv(s, 192, 320, 3, 3, 2, false),
		Branch7x7x3x1: newConv(s, in, 192, 1, 1, 1, true),
		Branch7x7x3x2: newConv(s, 192, 192, 1, 7, 1, true),
		Branch7x7x3x3: newConv(s, 192, 192, 7, 1, 1, true),
		Branch7x7x3x4: newConv(s, 192, 192, 3, 3, 2, false),
	}
}

// Forward maps x [N, in, 17, 17] to [N, in + 512, 8, 8].
func (b *BlockD) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return join(s, func(s *torch.Scope) []*torch.Tensor {
		return []*torch.Tensor{
			chain(s, x, &b.Branch3x3x1, &b.Branch3x3x2),
			chain(s, x, &b.Branch7x7x3x1, &b.Branch7x7x3x2, &b.Branch7x7x3x3, &b.Branch7x7x3x4),
			halved(s, x),
		}
	})
}

// BlockE is the block of 8 x 8.
type BlockE struct {
	Branch1x1       Conv `dit:"branch1x1"`
	Branch3x3x1     Conv `dit:"branch3x3_1"`
	Branch3x3x2a    Conv `dit:"branch3x3_2a"`
	Branch3x3x2b    Conv `dit:"branch3x3_2b"`
	Branch3x3dblx1  Conv `dit:"branch3x3dbl_1"`
	Branch3x3dblx2  Conv `dit:"branch3x3dbl_2"`
	Branch3x3dblx3a Conv `dit:"branch3x3dbl_3a"`
	Branch3x3dblx3b Conv `dit:"branch3x3dbl_3b"`
	BranchPool      Conv `dit:"branch_pool"`

	// largest says that the pool takes the largest neighbour: the last block of the network of 2015, alone, does.
	largest bool
}

func newBlockE(s *torch.Scope, in int, largest bool) *BlockE {
	return &BlockE{
		Branch1x1:       newConv(s, in, 320, 1, 1, 1, true),
		Branch3x3x1:     newConv(s, in, 384, 1, 1, 1, true),
		Branch3x3x2a:    newConv(s, 384, 384, 1, 3, 1, true),
		Branch3x3x2b:    newConv(s, 384, 384, 3, 1, 1, true),
		Branch3x3dblx1:  newConv(s, in, 448, 1, 1, 1, true),
		Branch3x3dblx2:  newConv(s, 448, 384, 3, 3, 1, true),
		Branch3x3dblx3a: newConv(s, 384, 384, 1, 3, 1, true),
		Branch3x3dblx3b: newConv(s, 384, 384, 3, 1, 1, true),
		BranchPool:      newConv(s, in, 192, 1, 1, 1, true),
		largest:         largest,
	}
}

// Forward maps x [N, in, 8, 8] to [N, 2048, 8, 8].
func (b *BlockE) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return join(s, func(s *torch.Scope) []*torch.Tensor {
		y := b.Branch3x3x1.Forward(s, x)
		z := chain(s, x, &b.Branch3x3dblx1, &b.Branch3x3dblx2)
		pooled := averages
		if b.largest {
			pooled = func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return s.MaxPool2d(x, 3, 1, 1) }
		}
		return []*torch.Tensor{
			b.Branch1x1.Forward(s, x),
			b.Branch3x3x2a.Forward(s, y), b.Branch3x3x2b.Forward(s, y),
			b.Branch3x3dblx3a.Forward(s, z), b.Branch3x3dblx3b.Forward(s, z),
			b.BranchPool.Forward(s, pooled(s, x)),
		}
	})
}
