package dit

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/namemap"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// designs calls f with the sizes of c under each kind of block and each condition.
func designs(t *testing.T, c Config, textWidth, textLength int, f func(t *testing.T, name string, cfg Config)) {
	for _, block := range BlockKinds() {
		for _, condition := range ConditionKinds() {
			cfg := c
			cfg.Block = block
			cfg.SetCondition(condition, c.NumClasses, textWidth, textLength)
			name := block.String() + "/" + condition.String()
			t.Run(name, func(t *testing.T) { f(t, name, cfg) })
		}
	}
}

// goldenDesigns calls f with the models of blocks.safetensors, their weights filled in.
func goldenDesigns(t *testing.T, f func(t *testing.T, s *torch.Scope, g *torchtest.Goldens, name string, m *DiT)) {
	g := torchtest.Open(t, "testdata/blocks.safetensors")
	var sizes Config
	var text struct {
		Width  int `json:"text_width"`
		Length int `json:"text_length"`
	}
	g.Config("model", &sizes)
	g.Config("text", &text)
	designs(t, sizes, text.Width, text.Length, func(t *testing.T, name string, cfg Config) {
		torchtest.Run(t, func(s *torch.Scope) error {
			m, err := New(s, cfg)
			if err != nil {
				return err
			}
			defer nn.Close(m)
			s.Copy_(m.TEmbedder.Frequencies, torch.From(s, goldenFrequencies(), 1, frequencyEmbeddingSize/2))
			for i, p := range nn.List(m) {
				centre := float32(0)
				if strings.Contains(p.Name, "norm") && strings.HasSuffix(p.Name, "weight") {
					centre = 1
				}
				if p.Name != posEmbed {
					if err := torchtest.PhiloxWeights(p.Tensor, i, 0, centre); err != nil {
						return err
					}
				}
			}
			f(t, s, g, name, m)
			return nil
		})
	})
}

func goldenCondition(s *torch.Scope, g *torchtest.Goldens) Condition {
	return Condition{Labels: g.Tensor(s, "y"), Tokens: g.Tensor(s, "text"), Lengths: g.Tensor(s, "lengths")}
}

// Names, order and shapes of the weights, the output and the gradient of each weight. Goldens are of float64.
func TestBlocksEqualComposition(t *testing.T) {
	goldenDesigns(t, func(t *testing.T, s *torch.Scope, g *torchtest.Goldens, name string, m *DiT) {
		var keys map[string][][2]json.RawMessage
		g.Config("keys", &keys)
		got, elements, _ := describe(nn.List(m))
		if want := (official{Keys: keys[name]}).tensors(t); !slices.Equal(got, want) {
			t.Fatalf("tensors %v, want %v", got, want)
		}
		var listed []string
		for _, p := range m.cfg.layout() {
			listed = append(listed, fmt.Sprintf("%s %v", p.name, p.shape))
		}
		if !slices.Equal(listed, got) || m.cfg.NumParams() != float64(elements) {
			t.Errorf("layout of %.0f elements %v, the model has %d in %v", m.cfg.NumParams(), listed, elements, got)
		}
		out := m.Forward(s, g.Tensor(s, "x"), g.Tensor(s, "t"), goldenCondition(s, g))
		if e := torchtest.Relative(s, out, g.Tensor(s, name+".out")); !(e < tolerance) {
			t.Errorf("output: relative error %.2g", e)
		}
		s.Backward(s.Sum(s.Mul(out, g.Tensor(s, "w"))))
		for key, p := range nn.Params(m) {
			if key == posEmbed {
				continue
			}
			want := g.Tensor(s, name+".grad."+key)
			if s.MaxAll(s.Abs(want)).Item() == 0 { // of queries where there is one key
				if top := s.MaxAll(s.Abs(s.Grad(p))).Item(); !(top < 1e-5) {
					t.Errorf("gradient of %s: largest %.2g, want 0", key, top)
				}
			} else if e := torchtest.Relative(s, s.Grad(p), want); !(e < tolerance) {
				t.Errorf("gradient of %s: relative error %.2g", key, e)
			}
		}
	})
}

// Tokens in context lengthen the sequence and are taken out again; padding changes nothing, and less padding neither.
func TestTokensOfTheConditioning(t *testing.T) {
	goldenDesigns(t, func(t *testing.T, s *torch.Scope, g *torchtest.Goldens, name string, m *DiT) {
		s = s.NoGrad()
		x, steps, cond := g.Tensor(s, "x"), g.Tensor(s, "t"), goldenCondition(s, g)
		seq, c := m.embed(s, x, steps, cond)
		count := m.cfg.NumTokens()
		if m.cfg.Block == InContext {
			count += int(m.cfg.context())
		}
		if seq.Dim(1) != count {
			t.Errorf("a sequence of %d tokens, want %d", seq.Dim(1), count)
		}
		marked := s.Cat([]*torch.Tensor{s.Narrow(seq, 1, 0, m.cfg.NumTokens()),
			s.Full(9, torch.Float32, 3, count-m.cfg.NumTokens(), m.cfg.HiddenSize)}, 1)
		if torchtest.Relative(s, m.patches(s, marked, c), m.patches(s, seq, c)) != 0 {
			t.Error("the output depends on the tokens that are to be removed")
		}
		if !m.cfg.HasText() {
			return
		}
		out := m.Forward(s, x, steps, cond)
		padded := cond
		padded.Tokens = s.Where(s.Lt(s.Reshape(s.Arange(5, torch.Int64), 1, 5, 1), s.Reshape(cond.Lengths, -1, 1, 1)),
			cond.Tokens, s.Full(1e3, torch.Float32, 1))
		if e := torchtest.Relative(s, m.Forward(s, x, steps, padded), out); e != 0 {
			t.Errorf("relative change by other padding %.2g", e)
		}
		one := func(t *torch.Tensor) *torch.Tensor { return s.Narrow(t, 0, 2, 1) } // a caption of 3 tokens
		alone := m.Forward(s, one(x), one(steps),
			Condition{Labels: one(cond.Labels), Tokens: s.Narrow(one(cond.Tokens), 1, 0, 3)})
		if e := torchtest.Relative(s, alone, one(out)); !(e < tolerance) {
			t.Errorf("without padding, relative error %.2g", e)
		}
	})
}

// adaLN-Zero starts as the identity, with text too; the other blocks do not. All models start with an output of zero.
func TestIdentityAtInit(t *testing.T) {
	g := torchtest.Open(t, "testdata/blocks.safetensors")
	var sizes Config
	g.Config("model", &sizes)
	designs(t, sizes, 6, 5, func(t *testing.T, _ string, cfg Config) {
		torchtest.Run(t, func(s *torch.Scope) error {
			m := initialised(t, s, cfg, 1)
			s = s.NoGrad()
			x, c := m.embed(s, g.Tensor(s, "x"), g.Tensor(s, "t"), goldenCondition(s, g))
			for i, b := range m.Blocks {
				change := torchtest.Relative(s, b.Forward(s, x, c), x)
				if cfg.Block == AdaLNZero && change != 0 || cfg.Block != AdaLNZero && !(change > 0.01) {
					t.Errorf("block %d changes its input by %.2g", i, change)
				}
			}
			if top := s.MaxAll(s.Abs(
				m.Forward(s, g.Tensor(s, "x"), g.Tensor(s, "t"), goldenCondition(s, g)))).Item(); top != 0 {
				t.Errorf("the first output is %v, want 0", top)
			}
			return nil
		})
	})
}

// Text starts with no effect on blocks with adaptive norms, and gets a gradient as soon as its output layer has moved.
func TestTextStartsAtZero(t *testing.T) {
	cfg := Config{InputSize: 4, PatchSize: 2, InChannels: 2, HiddenSize: 8, Depth: 1, NumHeads: 2, MLPRatio: 2,
		Block: AdaLN, Condition: OnText, TextWidth: 6, TextLength: 5}
	torchtest.Run(t, func(s *torch.Scope) error {
		m := initialised(t, s, cfg, 1)
		b := m.Blocks[0].(*AdaLNBlock)
		if s.MaxAll(s.Abs(b.Text.Proj.Weight)).Item() != 0 {
			t.Error("the output layer of attention to text does not start at zero")
		}
		x, tokens := torchtest.Normal(s, 1, 1, 4, 8), torchtest.Normal(s, 2, 1, 5, 8)
		s.Backward(s.Sum(s.Square(b.Forward(s, x, Conditioning{Vector: s.Ones(torch.Float32, 1, 8), Tokens: tokens}))))
		if s.MaxAll(s.Abs(s.Grad(b.Text.Proj.Weight))).Item() == 0 {
			t.Error("no gradient at the output layer of attention to text: it would stay at zero")
		}
		return nil
	})
}

// Section 3.2 and table 4 of the paper.
func TestBlocksCostWhatThePaperSays(t *testing.T) {
	for _, c := range []struct {
		block         BlockKind
		gmacs, params float64
	}{{InContext, 119.37, 449}, {CrossAttention, 137.62, 598}, {AdaLN, 118.56, 600}, {AdaLNZero, 118.64, 675}} {
		cfg := XL2
		cfg.Block = c.block
		if got := cfg.MACs() / 1e9; math.Abs(got/c.gmacs-1) > 0.002 {
			t.Errorf("%s: %.2f GMACs, want %v", c.block, got, c.gmacs)
		}
		if got := cfg.NumParams() / 1e6; math.Abs(got/c.params-1) > 0.002 {
			t.Errorf("%s: %.2f million parameters, want %v", c.block, got, c.params)
		}
	}
}

// The arithmetic of MACs is counted again from the shapes of the weights and of what they are applied to.
func TestMACsAreThoseOfTheWeights(t *testing.T) {
	base := Config{InputSize: 8, InputWidth: 12, PatchSize: 2, InChannels: 3, HiddenSize: 24, Depth: 2, NumHeads: 3,
		MLPRatio: 4, ClassDropoutProb: 0.1, NumClasses: 7, LearnSigma: true}
	designs(t, base, 10, 5, func(t *testing.T, _ string, cfg Config) {
		tokens, context, d := float64(cfg.NumTokens()), cfg.context(), float64(cfg.HiddenSize)
		sequence := tokens
		if cfg.Block == InContext {
			sequence += context
		}
		want := float64(cfg.Depth) * 2 * sequence * sequence * d
		for _, p := range cfg.layout() {
			if !strings.HasSuffix(p.name, ".weight") || strings.Contains(p.name, "norm") || p.name == labelTable {
				continue
			}
			n := 1.0
			for _, of := range p.shape {
				n *= float64(of)
			}
			switch {
			case strings.Contains(p.name, "cross_attn.kv"):
				n *= context
			case strings.Contains(p.name, "cross_attn.q"):
				n = n*tokens + 2*tokens*context*d
			case strings.Contains(p.name, "text_embedder"):
				n *= float64(cfg.TextLength)
			case strings.Contains(p.name, "adaLN") || strings.Contains(p.name, "t_embedder"):
			case strings.Contains(p.name, "blocks."):
				if n *= tokens; !strings.Contains(p.name, "cross_attn") {
					n *= sequence / tokens
				}
			default:
				n *= tokens
			}
			want += n
		}
		if got := cfg.MACs(); got != want {
			t.Errorf("%.0f, want %.0f", got, want)
		}
	})
}

// Every design comes back from its file, and from a .pt, which has nothing but the tensors. Of the latter the
// number of heads follows from the width, so the model has the paper's.
func TestDesignsReturnFromFiles(t *testing.T) {
	base := small()
	base.Depth, base.MLPRatio = 1, 1
	designs(t, base, 10, 77, func(t *testing.T, _ string, cfg Config) {
		tensors := numbered(cfg)
		info := Info{Config: cfg, ImageSize: 64, ScalingFactor: 0.5}
		if cfg.HasText() {
			info.TextEncoder = TextEncoder{"an encoder", "0123"}
		}
		meta, err := info.metadata()
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		w := read(t, write(t, filepath.Join(dir, "a.safetensors"), tensors, meta), "")
		if w.Config != cfg || w.TextEncoder != info.TextEncoder {
			t.Errorf("read %+v, want %+v", w.Info, info)
		}
		sameTensors(t, w, tensors)
		if err := w.SaveOfficial(filepath.Join(dir, "b.pt")); err != nil {
			t.Fatal(err)
		}
		again := read(t, filepath.Join(dir, "b.pt"), "")
		if again.Config != cfg {
			t.Errorf("from a .pt: %+v, want %+v", again.Config, cfg)
		}
		sameTensors(t, again, tensors)
		err = w.SaveDiffusers(filepath.Join(dir, "c"))
		if known := cfg.Block == AdaLNZero && cfg.Condition == OnClass && cfg.MLPRatio == 4; known != (err == nil) {
			t.Errorf("to diffusers: error %v", err)
		}
		// Text changes of latents and variance as the other designs do.
		no := false
		if _, err := w.Adapt(Changes{InputSize: 16, LearnSigma: &no}); err != nil {
			t.Fatal(err)
		}
		adapted := cfg
		adapted.InputSize, adapted.LearnSigma = 16, false
		if w.Config != adapted {
			t.Errorf("adapted to %+v, want %+v", w.Config, adapted)
		}
		var shapes []string
		for _, i := range w.Tensors() {
			shapes = append(shapes, fmt.Sprint(i.Name, i.Shape))
		}
		for i, p := range adapted.layout() {
			if want := fmt.Sprint(p.name, p.shape); shapes[i] != want {
				t.Errorf("adapted tensor %s, want %s", shapes[i], want)
			}
		}
	})
}

// A folder of diffusers with our metadata of another design is refused, not read as something else.
func TestNoOtherDesignsInDiffusers(t *testing.T) {
	cfg := small()
	plain := memory(numbered(cfg))
	src, err := namemap.Map(plain, cfg.toDiffusers(), func(name string) bool { return name == posEmbed })
	if err != nil {
		t.Fatal(err)
	}
	cfg.Block = InContext
	meta, err := Info{Config: cfg}.metadata()
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, filepath.Join(t.TempDir(), "diffusion_pytorch_model.safetensors"), checkpoint.From(src), meta)
	if _, err := Read(path, ""); err == nil ||
		!strings.Contains(err.Error(), "diffusers only has DiT with adaln-zero blocks on classes") {
		t.Errorf("error %v", err)
	}
}

type memory []checkpoint.Tensor

func (m memory) Tensors() (out []checkpoint.Info) {
	for _, t := range m {
		out = append(out, t.Info)
	}
	return out
}

func (m memory) Lookup(name string) (checkpoint.Info, bool) {
	for _, t := range m {
		if t.Name == name {
			return t.Info, true
		}
	}
	return checkpoint.Info{}, false
}

func (m memory) ReadAt(p []byte, name string, off int64) error {
	for _, t := range m {
		if t.Name == name {
			copy(p, t.Data[off:])
		}
	}
	return nil
}

func (m memory) Verify() error { return nil }

// Each design learns, from its initialisation, pictures that its condition decides: the loss falls, and it is
// lower under the right condition than under another.
func TestBlocksLearn(t *testing.T) {
	base := Config{InputSize: 4, PatchSize: 2, InChannels: 2, HiddenSize: 32, Depth: 2, NumHeads: 2, MLPRatio: 4,
		NumClasses: 4}
	const batch, steps = 32, 120
	designs(t, base, 12, 3, func(t *testing.T, _ string, cfg Config) {
		torchtest.Run(t, func(s *torch.Scope) error {
			m := initialised(t, s, cfg, 1)
			opt, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig, optim.Sharding{})
			if err != nil {
				return err
			}
			defer opt.Close()
			pictures := torchtest.Normal(s, 1, 4, 2, 4, 4)
			captions := torchtest.Normal(s, 2, 4, 3, 12)
			// loss is of predicting the noise at step k, the condition being that of the picture shift places on.
			loss := func(s *torch.Scope, k, shift int64) *torch.Tensor {
				var index, which, other, at []int64
				var signal, noise []float32
				for i := range int64(batch) {
					time := 50 + (i*89+k*57)%900
					index, which, other, at = append(index, k*batch+i), append(which, i%4), append(other, (i+shift)%4),
						append(at, time)
					a := math.Cos(float64(time) / 1000 * math.Pi / 2)
					signal, noise = append(signal, float32(a)), append(noise, float32(math.Sqrt(1-a*a)))
				}
				eps := s.PhiloxNormal(3, 0, s.Zeros(torch.Int64, 1), torch.From(s, index, batch), 2, 4, 4)
				x := s.Add(s.Mul(torch.From(s, signal, batch, 1, 1, 1),
					s.IndexSelect(pictures, 0, torch.From(s, which, batch))),
					s.Mul(torch.From(s, noise, batch, 1, 1, 1), eps))
				given := torch.From(s, other, batch)
				return s.MSELoss(m.Forward(s, x, torch.From(s, at, batch),
					Condition{Labels: given, Tokens: s.IndexSelect(captions, 0, given)}), eps)
			}
			for k := range int64(steps) {
				err := s.Try(func(s *torch.Scope) error {
					s.Backward(loss(s, k, 0))
					opt.Step(s, optim.StepOptions{LR: torchtest.Scalar(s, 6e-3)})
					return nil
				})
				if err != nil {
					return err
				}
			}
			s = s.NoGrad()
			right, wrong := loss(s, steps, 0).Item(), loss(s, steps, 1).Item()
			t.Logf("loss %.3f, under the wrong condition %.3f", right, wrong)
			if !(right < 0.35) { // it starts at 1
				t.Errorf("loss %.3f after %d steps", right, steps)
			}
			if cfg.Condition != OnNothing && !(wrong > 2*right) {
				t.Errorf("loss %.3f under the right condition, %.3f under the wrong one", right, wrong)
			}
			return nil
		})
	})
}
