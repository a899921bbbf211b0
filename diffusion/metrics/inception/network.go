// Package inception is the network whose features FID and its relatives compare: Inception-v3 in TensorFlow's form of
// 2015-12-05, with the weights that pytorch-fid publishes (pt_inception-2015-12-05-6726825d.pth). The network of
// torchvision has the same names, but other pools, other weights and 1,000 classes: it gives other numbers.
//
//	net, err := inception.Open("pt_inception-2015-12-05-6726825d.pth", torch.CPU)
//	defer net.Close()
//	features, err := net.Features(rgb, n, height, width, inception.ADM)
//
// Shape letters: N batch, C channels, H and W height and width.
package inception

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
)

// Sizes of the features of one picture.
const (
	PoolSize    = 2048        // of the last pool, for FID, precision, recall and KID
	SpatialSize = 17 * 17 * 7 // of the first branch of Mixed_6d, for sFID
	NumClasses  = 1008        // probabilities, for IS
	// Side is that of the pictures the network takes.
	Side = 299
)

// A Network is the model. Its fields are in the order of torchvision's state dict.
type Network struct {
	Conv1a  Conv      `dit:"Conv2d_1a_3x3"`
	Conv2a  Conv      `dit:"Conv2d_2a_3x3"`
	Conv2b  Conv      `dit:"Conv2d_2b_3x3"`
	Conv3b  Conv      `dit:"Conv2d_3b_1x1"`
	Conv4a  Conv      `dit:"Conv2d_4a_3x3"`
	Mixed5b *BlockA   `dit:"Mixed_5b"`
	Mixed5c *BlockA   `dit:"Mixed_5c"`
	Mixed5d *BlockA   `dit:"Mixed_5d"`
	Mixed6a *BlockB   `dit:"Mixed_6a"`
	Mixed6b *BlockC   `dit:"Mixed_6b"`
	Mixed6c *BlockC   `dit:"Mixed_6c"`
	Mixed6d *BlockC   `dit:"Mixed_6d"`
	Mixed6e *BlockC   `dit:"Mixed_6e"`
	Mixed7a *BlockD   `dit:"Mixed_7a"`
	Mixed7b *BlockE   `dit:"Mixed_7b"`
	Mixed7c *BlockE   `dit:"Mixed_7c"`
	FC      nn.Linear `dit:"fc"`

	dev    torch.Device
	sha256 string
}

// New makes a network of zeros on the scope's device: call [Network.Init] next. The caller closes it.
func New(s *torch.Scope) *Network {
	return &Network{
		Conv1a:  newConv(s, 3, 32, 3, 3, 2, false),
		Conv2a:  newConv(s, 32, 32, 3, 3, 1, false),
		Conv2b:  newConv(s, 32, 64, 3, 3, 1, true),
		Conv3b:  newConv(s, 64, 80, 1, 1, 1, true),
		Conv4a:  newConv(s, 80, 192, 3, 3, 1, false),
		Mixed5b: newBlockA(s, 192, 32),
		Mixed5c: newBlockA(s, 256, 64),
		Mixed5d: newBlockA(s, 288, 64),
		Mixed6a: newBlockB(s, 288),
		Mixed6b: newBlockC(s, 768, 128),
		Mixed6c: newBlockC(s, 768, 160),
		Mixed6d: newBlockC(s, 768, 160),
		Mixed6e: newBlockC(s, 768, 192),
		Mixed7a: newBlockD(s, 768),
		Mixed7b: newBlockE(s, 1280, false),
		Mixed7c: newBlockE(s, 2048, true),
		FC:      nn.NewLinear(s, PoolSize, NumClasses),
		dev:     s.Device(),
	}
}

// Open loads the network onto dev from a file of weights under torchvision's names, a .pth or a .safetensors. The
// caller closes the network.
func Open(path string, dev torch.Device) (*Network, error) {
	n, err := open(path, dev)
	if err != nil {
		return nil, fmt.Errorf("open Inception %s: %w", path, err)
	}
	return n, nil
}

func open(path string, dev torch.Device) (n *Network, err error) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, checkpoint.WithoutPath(err)
	}
	defer f.Close()
	if info, ok := f.Lookup("fc.weight"); ok && slices.Equal(info.Shape, []int64{1000, PoolSize}) {
		return nil, fmt.Errorf("fc.weight is for 1000 classes, want %d: it is torchvision's own network, whose "+
			"features give other numbers", NumClasses)
	}
	err = torch.Run(dev, func(s *torch.Scope) (err error) {
		n = New(s)
		if err := check(n, f); err != nil {
			return err
		}
		if err := nn.Load(s, n, f, true); err != nil {
			return err
		}
		n.fold(s)
		n.sha256, err = f.SHA256()
		return err
	})
	if err != nil {
		if n != nil {
			n.Close()
		}
		return nil, err
	}
	return n, nil
}

// check is an error where a file lacks tensors of the network, or has others than these and those of its training.
func check(n *Network, src checkpoint.Source) error {
	wanted := map[string]bool{}
	for name := range nn.Params(n) {
		wanted[name] = true
	}
	ours := 0
	var wrong checkpoint.Mismatch
	for name := range nn.Params(n) {
		if _, ok := src.Lookup(name); !ok {
			wrong.Missing = append(wrong.Missing, name)
		}
	}
	for _, info := range src.Tensors() {
		switch {
		case wanted[info.Name]:
			ours++
		case !strings.HasSuffix(info.Name, ".num_batches_tracked") && !strings.HasPrefix(info.Name, "AuxLogits."):
			wrong.Unexpected = append(wrong.Unexpected, info.Name)
		}
	}
	if ours == 0 {
		return fmt.Errorf("none of its tensors is called as one of Inception-v3, such as Conv2d_1a_3x3.conv.weight")
	}
	return wrong.Err()
}

// Init draws weights from gen, whose features tell pictures apart but are nobody's: for tests and examples that have
// not the published ones. Convolutions keep the size of what they are given (He et al., arXiv:1502.01852), and norms do
// nothing.
func (n *Network) Init(s *torch.Scope, gen *torch.Generator) {
	s = s.NoGrad()
	for _, p := range nn.List(n) {
		switch {
		case p.Product && p.Tensor.Rank() > 1:
			s.Normal_(p.Tensor, gen, 0, math.Sqrt(2/float64(p.Tensor.NumElements()/p.Tensor.Dim(0))))
		case strings.HasSuffix(p.Name, ".bn.weight") || strings.HasSuffix(p.Name, ".running_var"):
			s.Fill_(p.Tensor, 1)
		}
	}
	n.fold(s)
}

// Save writes the weights as pytorch-fid publishes them, for Open.
func (n *Network) Save(path string) error { return checkpoint.WritePyTorch(path, nn.State(n)) }

// fold prepares the weights that were loaded.
func (n *Network) fold(s *torch.Scope) {
	eachConv(reflect.ValueOf(n), func(c *Conv) { c.fold(s) })
}

// eachConv calls visit with every convolution behind v, a pointer to a module.
func eachConv(v reflect.Value, visit func(*Conv)) {
	if c, ok := v.Interface().(*Conv); ok {
		visit(c)
		return
	}
	for i := range v.Elem().NumField() {
		switch f := v.Elem().Field(i); {
		case !f.CanInterface():
		case f.Kind() == reflect.Pointer:
			eachConv(f, visit)
		case f.Type() == reflect.TypeFor[Conv]():
			eachConv(f.Addr(), visit)
		}
	}
}

// Device returns where the weights are.
func (n *Network) Device() torch.Device { return n.dev }

// SHA256 returns the hex SHA-256 of the file the weights are of.
func (n *Network) SHA256() string { return n.sha256 }

// Close frees the weights.
func (n *Network) Close() { nn.Close(n) }

// A stage is a part of the network, under the name that torchvision has for it.
type stage struct {
	name string
	run  func(s *torch.Scope, x *torch.Tensor) *torch.Tensor
}

func (n *Network) stages() []stage {
	conv := func(c *Conv) func(*torch.Scope, *torch.Tensor) *torch.Tensor { return c.Forward }
	list := []stage{
		{"Conv2d_1a_3x3", conv(&n.Conv1a)}, {"Conv2d_2a_3x3", conv(&n.Conv2a)}, {"Conv2d_2b_3x3", conv(&n.Conv2b)},
		{"maxpool1", halved},
		{"Conv2d_3b_1x1", conv(&n.Conv3b)}, {"Conv2d_4a_3x3", conv(&n.Conv4a)},
		{"maxpool2", halved},
	}
	for _, b := range []struct {
		name string
		block
	}{
		{"Mixed_5b", n.Mixed5b}, {"Mixed_5c", n.Mixed5c}, {"Mixed_5d", n.Mixed5d}, {"Mixed_6a", n.Mixed6a},
		{"Mixed_6b", n.Mixed6b}, {"Mixed_6c", n.Mixed6c}, {"Mixed_6d", n.Mixed6d}, {"Mixed_6e", n.Mixed6e},
		{"Mixed_7a", n.Mixed7a}, {"Mixed_7b", n.Mixed7b}, {"Mixed_7c", n.Mixed7c},
	} {
		list = append(list, stage{b.name, b.Forward})
	}
	return list
}

// forward returns the last pool [N, 2048] and, where asked for, the spatial features [N, 2023] of prepared pictures x
// [N, 3, 299, 299]. Watch, which may be nil, is shown what each stage returns.
func (n *Network) forward(s *torch.Scope, x *torch.Tensor, withSpatial bool,
	watch func(name string, x *torch.Tensor)) (pool, spatial *torch.Tensor) {
	for _, stage := range n.stages() {
		if stage.name == "Mixed_6d" && withSpatial {
			spatial = n.spatial(s, x)
		}
		x = stage.run(s, x)
		if watch != nil {
			watch(stage.name, x)
		}
	}
	return s.MeanDims(x, false, 2, 3), spatial
}

// spatial returns what sFID compares, of the input of Mixed_6d: the first 7 channels of its first branch, which
// TensorFlow calls mixed_6/conv:0, in the order height, width, channel [N, 2023].
func (n *Network) spatial(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		y := s.Narrow(n.Mixed6d.Branch1x1.Forward(s, x), 1, 0, 7)
		return s.Reshape(s.Permute(y, 0, 2, 3, 1), x.Dim(0), SpatialSize)
	})
}

// probabilities returns those of the 1008 classes [N, 1008] of the last pool, as ADM has them: without the bias.
func (n *Network) probabilities(s *torch.Scope, pool *torch.Tensor) *torch.Tensor {
	return s.Softmax(s.Linear(pool, n.FC.Weight, nil), 1)
}
