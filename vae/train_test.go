package vae

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"math"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// rectangles yields batches without end of bright rectangles on dark ground, the same for equal
// arguments.
func rectangles(n, size int) iter.Seq2[*Batch, error] {
	return func(yield func(*Batch, error) bool) {
		state := uint32(1)
		random := func(below int) int {
			state = state*1664525 + 1013904223
			return int(state>>16) % below
		}
		for {
			b := &Batch{Pixels: make([]uint8, n*size*size*3)}
			for i := range n {
				left, top, width, height := random(size/2), random(size/2), 1+random(size/2), 1+random(size/2)
				colour := [3]uint8{uint8(55 + random(200)), uint8(55 + random(200)), uint8(55 + random(200))}
				for y := top; y < top+height; y++ {
					for x := left; x < left+width; x++ {
						copy(b.Pixels[((i*size+y)*size+x)*3:], colour[:])
					}
				}
			}
			if !yield(b, nil) {
				return
			}
		}
	}
}

func testTrainConfig(t *testing.T, steps int) TrainConfig {
	t.Helper()
	model, err := SmallConfig(16, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultTrainConfig(model.WithLevels(8, 16))
	cfg.MaxSteps, cfg.BatchSize, cfg.WarmupSteps, cfg.LogEvery, cfg.Seed = steps, 4, 5, 5, 3
	return cfg
}

// weights returns the bytes of all weights.
func weights(m *AutoencoderKL) []byte {
	var b bytes.Buffer
	for _, t := range nn.State(m) {
		b.Write(t.Data)
	}
	return b.Bytes()
}

func TestTrainingLearnsAndRepeats(t *testing.T) {
	cfg := testTrainConfig(t, 60)
	for _, kind := range []string{"mse", "l1"} {
		cfg.Loss = kind
		var first []byte
		for run := range 2 {
			var steps []Step
			m, err := Train(t.Context(), torchtest.Device(t), cfg, Saves{}, rectangles(4, 16),
				func(s Step) { steps = append(steps, s) })
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if len(steps) != 60 || steps[59].Step != 60 || steps[0].Losses != nil || steps[4].Losses == nil ||
				steps[59].Losses == nil {
				t.Fatalf("%s: wrong steps: %+v", kind, steps)
			}
			if lr := steps[59].LR; math.Abs(lr-cfg.LR*cfg.FinalLR) > 1e-12 {
				t.Errorf("last learning rate %v, want %v", lr, cfg.LR*cfg.FinalLR)
			}
			if a, b := steps[4].Losses.Rec, steps[59].Losses.Rec; !(b < a/2) {
				t.Errorf("%s: reconstruction loss %v after 5 steps, %v after 60: want less than half", kind, a, b)
			}
			w := weights(m)
			if run == 0 {
				first = w
			} else if !m.Device().IsCUDA() && !bytes.Equal(w, first) { // cuDNN's gradients do not repeat
				t.Errorf("%s: two runs with equal seeds gave different weights", kind)
			}
		}
	}
	cfg.Seed++
	cfg.MaxSteps = 1
	a, err := Train(t.Context(), torchtest.Device(t), cfg, Saves{}, rectangles(4, 16), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	cfg.Seed++
	b, err := Train(t.Context(), torchtest.Device(t), cfg, Saves{}, rectangles(4, 16), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if bytes.Equal(weights(a), weights(b)) {
		t.Error("two seeds gave equal weights")
	}
}

func TestTrainingReturnsTheAverage(t *testing.T) {
	cfg := testTrainConfig(t, 3)
	train := func(decay float64) []byte {
		cfg.EMADecay = decay
		m, err := Train(t.Context(), torchtest.Device(t), cfg, Saves{}, rectangles(4, 16), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		return weights(m)
	}
	if bytes.Equal(train(0), train(0.9)) {
		t.Error("the averaged weights are the last ones")
	}
	// The decay grows as (1+step)/(10+step), so over three steps a limit above 3/12 changes nothing.
	if !bytes.Equal(train(0.9), train(0.5)) {
		t.Error("the decay of the first steps depends on its limit")
	}
}

func TestTrainingErrors(t *testing.T) {
	dev := torchtest.Device(t)
	ended := func(yield func(*Batch, error) bool) {
		for b := range rectangles(4, 16) {
			yield(b, nil)
			return
		}
	}
	failing := func(yield func(*Batch, error) bool) { yield(nil, errors.New("disk on fire")) }
	wild := testTrainConfig(t, 30)
	wild.LR, wild.WarmupSteps, wild.LogEvery = 1e30, 0, 30
	for name, tc := range map[string]struct {
		cfg     TrainConfig
		batches iter.Seq2[*Batch, error]
		want    string
	}{
		"batches end":  {testTrainConfig(t, 3), ended, "ended after 1 of 3 steps"},
		"batches fail": {testTrainConfig(t, 3), failing, "disk on fire"},
		"wrong batch":  {testTrainConfig(t, 3), rectangles(3, 16), "step 1: a batch of 2304 bytes, want 3072"},
		"not a number": {wild, rectangles(4, 16), "step 2: the loss is NaN"},
		"no steps":     {testTrainConfig(t, 0), rectangles(4, 16), "max-steps 0: want at least 1"},
		"size not fitting": {func() TrainConfig { c := testTrainConfig(t, 3); c.ImageSize = 15; return c }(),
			rectangles(4, 15),
			"image-size 15: want a multiple of 2"},
	} {
		live := torch.Live()
		m, err := Train(t.Context(), dev, tc.cfg, Saves{}, tc.batches, nil)
		if err == nil || !strings.Contains(err.Error(), tc.want) || m != nil {
			t.Errorf("%s: error %v and model %v, want %q and none", name, err, m != nil, tc.want)
		}
		if n := torch.Live(); n != live {
			t.Errorf("%s: %d tensors leaked", name, n-live)
		}
	}
}

func TestCancelledTrainingReturnsTheModelSoFar(t *testing.T) {
	cfg := testTrainConfig(t, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	live := torch.Live()
	m, err := Train(ctx, torchtest.Device(t), cfg, Saves{}, rectangles(4, 16), func(s Step) {
		if s.Step == 7 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || m == nil {
		t.Fatalf("error %v, model %v: want context.Canceled and a model", err, m != nil)
	}
	if err := m.Save(t.TempDir()); err != nil {
		t.Error(err)
	}
	m.Close()
	if n := torch.Live(); n != live {
		t.Errorf("%d tensors leaked", n-live)
	}
}

func TestLatentStdIsThatOfDrawnLatents(t *testing.T) {
	m := openTestModel(t, "tiny")
	const n, size = 8, 16
	got, err := LatentStd(t.Context(), m, size, 2*n, rectangles(n, size))
	if err != nil {
		t.Fatal(err)
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		s = s.NoGrad()
		var latents []*torch.Tensor
		for b := range rectangles(n, size) {
			mean, logvar := m.Encode(s, Pixels(s, b.Pixels, n, size, size))
			for draw := range 50 {
				indices := make([]int64, n)
				for i := range indices {
					indices[i] = int64(i + 1000*draw)
				}
				noise := s.PhiloxNormal(1, 5, s.Zeros(torch.Int64, 1), torch.From(s, indices, n), mean.Shape()[1:]...)
				latents = append(latents, Sample(s, mean, logvar, noise))
			}
			if len(latents) == 100 {
				break
			}
		}
		want := s.Std(s.Cat(latents, 0)).Item()
		if math.Abs(got/want-1) > 0.02 {
			t.Errorf("standard deviation %v, that of drawn latents is %v", got, want)
		}
		return nil
	})
	if _, err := LatentStd(t.Context(), m, size, 10, func(func(*Batch, error) bool) {}); err == nil {
		t.Error("no error without images")
	}
	if _, err := LatentStd(t.Context(), m, 15, 10, rectangles(n, 15)); err == nil {
		t.Error("no error for a size that does not fit")
	}
}

func TestTrainConfigValidate(t *testing.T) {
	model, err := SmallConfig(32, 4, 4)
	if err != nil {
		t.Fatal(err)
	}
	good := DefaultTrainConfig(model)
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*TrainConfig)
		want   string
	}{
		{func(c *TrainConfig) { c.Model.InChannels = 4 }, "in-channels 4 and out-channels 3: want 3"},
		{func(c *TrainConfig) { c.Model.LatentChannels = 0 }, "latent-channels 0: want 1 to 1024"},
		{func(c *TrainConfig) { c.Model.LayersPerBlock = -1 }, "layers-per-block -1: want 1 to 64"},
		{func(c *TrainConfig) { c.Model.SampleSize = 0 }, "image-size 0: want 1 to 65536"},
		{func(c *TrainConfig) { c.Model = model.WithLevels() }, "block-out-channels: 0 levels, want 1 to 10"},
		{func(c *TrainConfig) { c.Model = model.WithLevels(8, 12) },
			"block-out-channels 8,12: 12 is not divisible by norm-num-groups 8"},
		{func(c *TrainConfig) { c.Model = model.WithLevels(8192, 8192, 8192) },
			"block-out-channels 8192,8192,8192 and layers-per-block 1: "},
		{func(c *TrainConfig) { c.ImageSize = 30 }, "image-size 30: want a multiple of 4"},
		{func(c *TrainConfig) { c.MaxSteps = 0 }, "max-steps 0: want at least 1"},
		{func(c *TrainConfig) { c.BatchSize = 0 }, "batch-size 0: want at least 1"},
		{func(c *TrainConfig) { c.LogEvery = 0 }, "log-every 0: want at least 1"},
		{func(c *TrainConfig) { c.WarmupSteps = -1 }, "warmup-steps -1: want at least 0"},
		{func(c *TrainConfig) { c.LR = 0 }, "lr 0: want a positive number"},
		{func(c *TrainConfig) { c.LR = math.NaN() }, "lr NaN: want a positive number"},
		{func(c *TrainConfig) { c.LR = math.Inf(1) }, "lr +Inf: want a positive number"},
		{func(c *TrainConfig) { c.FinalLR = 2 }, "final-lr 2: want a share from 0 to 1"},
		{func(c *TrainConfig) { c.Loss = "huber" }, `loss "huber": want mse or l1`},
		{func(c *TrainConfig) { c.KLWeight = -1 }, "kl-weight -1: want 0 to 1e+06"},
		{func(c *TrainConfig) { c.InitLogvar = 21 }, "init-logvar 21: want -20 to 20"},
		{func(c *TrainConfig) { c.EMADecay = 1 }, "ema-decay 1: want at least 0 and less than 1"},
		{func(c *TrainConfig) { c.MaxGradNorm = math.NaN() }, "max-grad-norm NaN: want "},
	} {
		cfg := good
		c.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}

// Between two reads of the losses, one upload is all that passes between host and device in a step.
func TestTrainingStepsNeedOneUpload(t *testing.T) {
	cfg := testTrainConfig(t, 9)
	cfg.LogEvery, cfg.EMADecay = 3, 0.9
	var counts []torch.Traffic
	m, err := Train(t.Context(), torchtest.Device(t), cfg, Saves{}, rectangles(cfg.BatchSize, cfg.ImageSize),
		func(Step) { counts = append(counts, torch.Counts()) })
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	for step := 1; step < len(counts); step++ {
		if (step+1)%cfg.LogEvery == 0 {
			continue
		}
		if got, want := counts[step].Sub(counts[step-1]), (torch.Traffic{Uploads: 1}); got != want {
			t.Errorf("step %d: %+v, want %+v", step+1, got, want)
		}
	}
}
