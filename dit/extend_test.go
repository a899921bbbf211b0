package dit_test

import (
	"testing"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// ParallelBlock is a block that package dit does not have: attention and MLP beside each other, on one norm, as in
// GPT-J. Timestep and class are in the sequence.
type ParallelBlock struct {
	Norm nn.LayerNorm  `dit:"norm"`
	Attn dit.Attention `dit:"attn"`
	MLP  dit.MLP       `dit:"mlp"`
}

var parallel = dit.Design{
	Kind:       "parallel",
	InSequence: true,
	New: func(s *torch.Scope, cfg dit.Config) dit.Layer {
		return &ParallelBlock{nn.NewLayerNorm(s, cfg.HiddenSize, 1e-6), dit.NewAttention(s, cfg), dit.NewMLP(s, cfg)}
	},
}

func (b *ParallelBlock) Forward(s *torch.Scope, x *torch.Tensor, c dit.Conditioning) *torch.Tensor {
	h := s.To(b.Norm.Forward(s, x), c.DType)
	return s.Add(x, s.Add(b.Attn.Forward(s, h, c.Mask), b.MLP.Forward(s, h)))
}

func (b *ParallelBlock) Init(s *torch.Scope, gen *torch.Generator) {
	b.Attn.Init(s, gen)
	b.MLP.Init(s, gen)
}

func (b *ParallelBlock) Cost(tokens, _ float64) nn.Cost {
	return nn.Costs(b.Norm.Cost(tokens), b.Attn.Cost(tokens), b.MLP.Cost(tokens))
}

// A model with blocks of another package is made, listed and trained as any other.
func TestBlockOfAnotherPackage(t *testing.T) {
	cfg := dit.Config{InputSize: 4, PatchSize: 2, InChannels: 2, HiddenSize: 16, Depth: 2, NumHeads: 2, MLPRatio: 2,
		NumClasses: 3, Block: "parallel"}
	if _, err := dit.New(torch.Shapes(), cfg); err == nil {
		t.Error("a model with a block that nobody brought")
	}
	outline, err := dit.New(torch.Shapes(), cfg, parallel)
	if err != nil {
		t.Fatal(err)
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		m, err := dit.New(s, cfg, parallel)
		if err != nil {
			return err
		}
		defer nn.Close(m)
		if made, listed := nn.NumParams(m), nn.NumParams(outline); made != listed {
			t.Errorf("%d parameters, %d by the shapes", made, listed)
		}
		gen, err := torch.NewGenerator(torch.CPU, 1)
		if err != nil {
			return err
		}
		m.Init(s, gen)
		opt, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig, optim.Sharding{})
		if err != nil {
			return err
		}
		defer opt.Close()
		var losses []float64
		for range 3 {
			err := s.Try(func(s *torch.Scope) error {
				noise := torchtest.Normal(s, 1, 3, 2, 4, 4)
				steps, labels := torch.From(s, []int64{0, 10, 20}, 3), torch.From(s, []int64{0, 1, 2}, 3)
				loss := s.MSELoss(m.Forward(s, noise, steps, dit.Condition{Labels: labels}), noise)
				s.Backward(loss)
				opt.Step(s, optim.StepOptions{LR: s.Full(1e-2, torch.Float64)})
				losses = append(losses, loss.Item())
				return nil
			})
			if err != nil {
				return err
			}
		}
		if !(losses[2] < losses[1] && losses[1] < losses[0]) {
			t.Errorf("losses %v, want each below the one before", losses)
		}
		return nil
	})
}
