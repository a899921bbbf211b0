package training

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// TestNewestPassesOverDamage: the newest whole checkpoint is found, and what is wrong with the others is said.
func TestNewestPassesOverDamage(t *testing.T) {
	l, cfg, dir := synthetic(t, syntheticPlan(20)), small(6), t.TempDir()
	cfg.CkptEvery = 2
	run(t, cfg, l, dir, "", Hooks{})
	if path, damaged, err := Newest(dir); path != filepath.Join(dir, "0000006") || damaged != nil || err != nil {
		t.Errorf("%q, %v, %v", path, damaged, err)
	}
	flip := func(path string, at int) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-at] ^= 1
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	flip(filepath.Join(dir, "0000006", optimizerAlone), 100)
	if err := os.Truncate(filepath.Join(dir, "0000004", saves.EMAName), 50); err != nil {
		t.Fatal(err)
	}
	path, damaged, err := Newest(dir)
	if path != filepath.Join(dir, "0000002") || err != nil || len(damaged) != 2 ||
		!strings.Contains(damaged[0].Error(), "0000006: optimizer-000-of-001.safetensors: sha256") ||
		!strings.Contains(damaged[1].Error(), "0000004: ema.safetensors: 50 bytes") {
		t.Errorf("%q, %v, %v", path, damaged, err)
	}
	if _, err := Check(cfg, samples.SetOf(l), 1, filepath.Join(dir, "0000006")); err == nil ||
		!strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged checkpoint that is named: error %v", err)
	}
	// What is put right is continued from.
	flip(filepath.Join(dir, "0000006", optimizerAlone), 100)
	if path, _, _ := Newest(dir); path != filepath.Join(dir, "0000006") {
		t.Errorf("%q", path)
	}
	if path, damaged, err := Newest(filepath.Join(dir, "none")); path != "" || damaged != nil || err != nil {
		t.Errorf("%q, %v, %v", path, damaged, err)
	}
	// A list of other files, which could lead out of the folder, is not followed.
	state := filepath.Join(dir, "0000002", saves.StateName)
	b, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, []byte(strings.Replace(string(b), saves.EMAName, "../0000004/ema.safetensors", 1)),
		0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(cfg, samples.SetOf(l), 1, filepath.Join(dir, "0000002")); err == nil ||
		!strings.Contains(err.Error(), `want "ema.safetensors"`) {
		t.Errorf("error %v", err)
	}
}

func TestRetention(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(20)), small(11)
	cfg.CkptEvery = 2
	for _, c := range []struct {
		last, every int
		want        string
	}{
		{0, 0, "0000002 0000004 0000006 0000008 0000010 0000011 latest"},
		{1, 0, "0000011 latest"},
		{2, 4, "0000004 0000008 0000010 0000011 latest"},
	} {
		dir := t.TempDir()
		cfg.KeepLast, cfg.KeepEvery = c.last, c.every
		run(t, cfg, l, dir, "", Hooks{})
		if got := listing(t, dir); got != c.want {
			t.Errorf("last %d, every %d: %q, want %q", c.last, c.every, got, c.want)
		}
	}
}

// TestOutOfMemoryNamesWhatFits with a memory that holds no more than five samples.
func TestOutOfMemoryNamesWhatFits(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(20)), small(3)
	job := Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(l), Dir: t.TempDir(),
		memory: func(n int) error {
			if n > 5 {
				return fmt.Errorf("allocate: %w", torch.ErrOutOfMemory)
			}
			return nil
		}}
	_, err := Run(context.Background(), job)
	if want := "step 1: allocate: out of memory: a process takes 8 samples at a time, of which 5 would have fitted: " +
		"--gradient-accumulation-steps 2 gives the same training in smaller parts; --recompute-activations fits " +
		"more, and takes a third longer"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	var batch *BatchError
	if !errors.As(err, &batch) || batch.Samples != 8 || batch.Fit != 5 || !errors.Is(err, torch.ErrOutOfMemory) {
		t.Errorf("error %#v", err)
	}
	job.Config.Accumulation = 2
	if _, err := Run(context.Background(), job); err != nil {
		t.Error(err)
	}
}

// TestSpikeIsPassedOver: a step whose loss jumps is not applied, the run goes on.
func TestSpikeIsPassedOver(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(60)), small(30)
	cfg.SpikeFactor, cfg.OnBadStep = 3, onBadSkip
	var bad []BadStep
	var records []Record
	job := Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(l), poison: spike, Dir: t.TempDir(),
		Hooks: Hooks{
			BadStep: func(b BadStep) { bad = append(bad, b) },
			Log:     func(r Record) { records = append(records, r) },
		}}
	if _, err := Run(context.Background(), job); err != nil {
		t.Fatal(err)
	}
	if len(bad) != 1 || bad[0].Step != 21 || bad[0].Count != 1 ||
		!strings.Contains(bad[0].Why, "the loss is above 3 times its running mean of") {
		t.Errorf("bad steps %+v", bad)
	}
	for _, r := range records {
		if r.Step == 21 && (r.Skipped != 1 || r.UpdateNorm != 0) || r.Step != 21 &&
			(r.Skipped != 0 || r.Loss > 2 || r.UpdateNorm == 0) {
			t.Errorf("step %d: %+v", r.Step, r)
		}
	}
}

// spike adds to the loss of batch 20.
func spike(_ *runner, s *torch.Scope, batch int, loss *torch.Tensor) *torch.Tensor {
	if batch == 20 {
		return s.AddScalar(loss, 10)
	}
	return loss
}

// TestHealthIsSaid: the usual faults of a set are named in words, once; a sound one gets no warning.
func TestHealthIsSaid(t *testing.T) {
	warnings := func(change func(*latents.Plan, *Config), src func(samples.Source) samples.Source) string {
		plan, cfg := syntheticPlan(60), small(20)
		change(&plan, &cfg)
		var said []string
		job := Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(synthetic(t, plan)), Dir: t.TempDir(),
			Hooks: Hooks{Warn: func(text string) { said = append(said, text) }}}
		if src != nil {
			job.Source = src(job.Source)
		}
		if _, err := Run(context.Background(), job); err != nil {
			t.Fatal(err)
		}
		return strings.Join(said, "\n")
	}
	long := func(p *latents.Plan, c *Config) { p.Dataset.Samples, c.GlobalBatchSize = 600, 30 }
	for _, c := range []struct {
		change func(*latents.Plan, *Config)
		src    func(samples.Source) samples.Source
		want   string
	}{
		{func(*latents.Plan, *Config) {}, nil, ""},
		{func(p *latents.Plan, c *Config) { p.VAE.ScalingFactor = 0.5 * 0.18215 }, nil,
			"the latents have a standard deviation of 0.182 after scaling by 0.091075, a DiT wants about 1: a " +
				"scaling factor of another autoencoder? 0.5"},
		{func(p *latents.Plan, c *Config) { c.Model.ClassDropoutProb = 0 }, nil,
			"the null class is missing: no labels are dropped"},
		{func(p *latents.Plan, c *Config) {}, func(s samples.Source) samples.Source { return sameLabel{s} },
			`all samples so far are of class 1, "b", of 3: are the labels right?`},
		{func(p *latents.Plan, c *Config) {}, func(s samples.Source) samples.Source { return oneClass{s} },
			`all samples are of one class, "all", and the model has 3`},
		{func(p *latents.Plan, c *Config) { c.Model.SetCondition(dit.OnNothing, 0, 0, 0) }, nil, ""},
		{long, nil, ""},
		{long, func(s samples.Source) samples.Source { return swapped{s} },
			"the labels of the first 600 samples say nothing about their latents, as if they were swapped: the " +
				"variance between classes is "},
	} {
		got := warnings(c.change, c.src)
		if !strings.HasPrefix(got, c.want) || strings.Contains(got, "\n") || c.want == "" && got != "" {
			t.Errorf("said %q, want %q", got, c.want)
		}
	}
}

// oneClass has one class for all samples.
type oneClass struct{ samples.Source }

func (o oneClass) Set() samples.Set {
	set := o.Source.Set()
	set.Classes = []string{"all"}
	return set
}

// swapped gives the labels of each batch to other samples of it.
type swapped struct{ samples.Source }

func (w swapped) Batches(ctx context.Context, o stream.Options) iter.Seq2[samples.Batch, error] {
	rng := rand.New(rand.NewPCG(1, 2))
	return func(yield func(samples.Batch, error) bool) {
		for b, err := range w.Source.Batches(ctx, o) {
			rng.Shuffle(len(b.Labels), func(i, j int) { b.Labels[i], b.Labels[j] = b.Labels[j], b.Labels[i] })
			if !yield(b, err) {
				return
			}
		}
	}
}

// sameLabel gives every sample the label 1.
type sameLabel struct{ samples.Source }

func (l sameLabel) Batches(ctx context.Context, o stream.Options) iter.Seq2[samples.Batch, error] {
	return func(yield func(samples.Batch, error) bool) {
		for b, err := range l.Source.Batches(ctx, o) {
			for i := range b.Labels {
				b.Labels[i] = 1
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// TestLabelOutOfRange is found before it reaches the device.
func TestLabelOutOfRange(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(20)), small(3)
	src := labelled{allOf(l)}
	_, err := Run(context.Background(), Job{Device: torchtest.Device(t), Config: cfg, Source: src, Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(),
		"has label 9, which is out of range: the model has classes 0 to 2") {
		t.Errorf("error %v", err)
	}
}

// labelled gives one sample the label 9.
type labelled struct{ samples.Source }

func (l labelled) Batches(ctx context.Context, o stream.Options) iter.Seq2[samples.Batch, error] {
	return func(yield func(samples.Batch, error) bool) {
		for b, err := range l.Source.Batches(ctx, o) {
			b.Labels[0] = 9
			if !yield(b, err) {
				return
			}
		}
	}
}
