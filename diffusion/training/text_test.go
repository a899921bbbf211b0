package training

import (
	"context"
	"hash/fnv"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/data/captions"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/philox"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// toyEncoder gives each text its own random states, of 1 to 3 tokens by its length.
type toyEncoder struct{}

func (toyEncoder) Info() tokens.EncoderInfo {
	return tokens.EncoderInfo{Name: "toy", SHA256: "toy", Length: 3, Width: 5}
}

func (toyEncoder) Encode(texts []string, states []float32, lengths []int32) error {
	for i, text := range texts {
		h := fnv.New64a()
		h.Write([]byte(text))
		philox.Normals(states[i*15:(i+1)*15], h.Sum64(), 0, 0, 0)
		lengths[i] = int32(min(1+len(text)/10, 3))
	}
	return nil
}

// captioned is a synthetic set with two captions a class.
func captioned(t *testing.T) *latents.Set {
	t.Helper()
	dir := synthetic(t, syntheticPlan(60)).Dir()
	l, err := latents.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	captions, err := captions.OfClasses([]string{"class:{}", "class:a photo of a {}"}, l.Classes(), l.LabelsByID())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := tokens.Write(t.Context(), dir, captions, toyEncoder{}, tokens.Options{}); err != nil {
		t.Fatal(err)
	}
	if l, err = latents.Open(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// onText is small with text.
func onText(steps int, block dit.BlockKind, condition dit.ConditionKind) Config {
	cfg := small(steps)
	cfg.Model.Block, cfg.Model.Condition, cfg.Model.TextWidth, cfg.Model.TextLength = block, condition, 5, 3
	if !cfg.Model.HasClass() {
		cfg.Model.NumClasses = 0
	}
	return cfg
}

// TestCaptionsOfABatch: a sample has the states of one of its captions, or those of the empty one where its class is
// dropped too.
func TestCaptionsOfABatch(t *testing.T) {
	l := captioned(t)
	src, err := samples.Latents(l)
	if err != nil {
		t.Fatal(err)
	}
	cfg := onText(3, dit.AdaLNZero, dit.OnTextAndClass)
	cfg.Model.ClassDropoutProb = 0.4
	text, err := tokens.Of(l)
	if err != nil {
		t.Fatal(err)
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		r, err := newRunner(s, Job{Config: cfg, Source: src})
		if err != nil {
			return err
		}
		defer r.close()
		dropped, kept := 0, 0
		for b, err := range src.Batches(t.Context(),
			stream.Options{Seed: cfg.GlobalSeed, GlobalBatch: 8, MaxSteps: 3, Captions: true}) {
			if err != nil {
				return err
			}
			if err := r.send(b); err != nil {
				return err
			}
			p := r.inputs(s)
			states := torch.Data[float32](s.To(p.cond.Tokens, torch.Float32))
			lengths, labels := torch.Data[int64](p.cond.Lengths), torch.Data[int64](p.cond.Labels)
			for i, row := range b.CaptionRows {
				if labels[i] == 3 {
					row = 0
					dropped++
				} else {
					kept++
				}
				want := make([]float32, 15)
				n, err := text.Read(row, want)
				if err != nil {
					return err
				}
				if !slices.Equal(states[i*15:(i+1)*15], want) || lengths[i] != int64(n) {
					t.Errorf("sample %d: other states than those of row %d", i, row)
				}
			}
		}
		if dropped == 0 || kept == 0 {
			t.Errorf("%d dropped, %d kept: the test says nothing", dropped, kept)
		}
		return nil
	})
}

// TestTrainsOnText: every block trains on captions, from disk and from memory to the same checkpoint, and its gradients
// reach what takes the captions.
func TestTrainsOnText(t *testing.T) {
	l := captioned(t)
	for i, block := range dit.BlockKinds() {
		cfg := onText(60, block, []dit.ConditionKind{dit.OnText, dit.OnTextAndClass}[i%2])
		cfg.GlobalBatchSize, cfg.LogEvery = 16, 20
		src, err := samples.Latents(l)
		if err != nil {
			t.Fatal(err)
		}
		train := func(src samples.Source) (Result, []float64) {
			var losses []float64
			result, err := Run(context.Background(),
				Job{Device: torchtest.Device(t), Config: cfg, Source: src, Dir: t.TempDir(),
					Hooks: Hooks{Log: func(r Record) { losses = append(losses, r.MSE) }}})
			if err != nil {
				t.Fatal(err)
			}
			return result, losses
		}
		want, losses := train(src)
		if !(losses[2] < 0.7*losses[0]) {
			t.Errorf("%s: errors %.3f: they hardly fall", block, losses)
		}
		resident, err := samples.Resident(l, torchtest.Device(t))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := train(resident)
		resident.Close()
		sameCheckpoint(t, block.String(), got.Checkpoint, want.Checkpoint)
		f := torchtest.Open(t, filepath.Join(want.Checkpoint, optimizerAlone))
		torchtest.Run(t, func(s *torch.Scope) error {
			for _, name := range []string{"fc1.weight", "fc2.bias"} {
				if s.Norm(f.Tensor(s, "exp_avg.text_embedder."+name)).Item() == 0 {
					t.Errorf("%s: text_embedder.%s has no gradient", block, name)
				}
			}
			return nil
		})
	}
	if _, err := Check(onText(3, dit.AdaLN, dit.OnText), samples.SetOf(l), 1, ""); err == nil {
		t.Error("a set without captions is taken")
	}
}
