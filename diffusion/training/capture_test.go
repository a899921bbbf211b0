package training

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// eventful is small with all that a step can hold: a rate and a decay that change, clipping, spikes.
func eventful(cfg Config) Config {
	cfg.LRSchedule, cfg.WarmupSteps, cfg.EMAWarmup, cfg.MaxGradNorm, cfg.SpikeFactor = "cosine", 3, true, 1, 5
	cfg.WeightDecay, cfg.Model.ClassDropoutProb = 0.01, 0.3
	return cfg
}

// bothWays makes a run with and without a graph, which must not tell: the same checkpoints, records, warnings and
// error. It returns the error.
func bothWays(t *testing.T, what string, job Job) (err error) {
	t.Helper()
	var results [2]Result
	var said [2][]string
	job.Device = torchtest.Device(t)
	for i, capture := range []StepCapture{CaptureNever, CaptureAlways} {
		replays := 0
		job.Capture, job.Dir = capture, t.TempDir()
		job.poison = func(r *runner, _ *torch.Scope, _ int, loss *torch.Tensor) *torch.Tensor {
			if r.captured.trusted && r.captured.wanted {
				replays++
			}
			return loss
		}
		results[i], said[i], err = recorded(job)
		if capture == CaptureAlways && replays == 0 && !job.Device.IsCUDA() { // which calls no function again
			t.Errorf("%s: no step was made by the graph", what)
		}
	}
	if !slices.Equal(said[0], said[1]) {
		t.Errorf("%s: with a graph the run says\n%s\nwithout\n%s", what, strings.Join(said[1], "\n"),
			strings.Join(said[0], "\n"))
	}
	if results[0].Step != results[1].Step || results[0].Saved != results[1].Saved {
		t.Fatalf("%s: %+v with a graph, %+v without", what, results[1], results[0])
	}
	sameCheckpoint(t, what, results[1].Checkpoint, results[0].Checkpoint)
	return err
}

// recorded makes a run and returns all that it says but times.
func recorded(job Job) (result Result, said []string, err error) {
	say := func(what string, v any) { said = append(said, fmt.Sprintf("%s %+v", what, v)) }
	job.Hooks = Hooks{
		Warn:     func(text string) { say("warning", text) },
		BadStep:  func(b BadStep) { say("bad", b) },
		Rollback: func(step int) { say("back to", step) },
		Log: func(r Record) {
			r.Seconds, r.DataWaitSeconds, r.SavingSeconds, r.LoggingSeconds, r.SecondsSinceStart = 0, 0, 0, 0, 0
			say("record", r)
		},
	}
	result, err = Run(context.Background(), job)
	say("end", err)
	return result, said, err
}

// A captured step is the step to the bit, in each design and for each condition.
func TestCapturedStepEqualsStep(t *testing.T) {
	l := captioned(t)
	for i, block := range dit.BlockKinds() {
		for k, condition := range []dit.ConditionKind{dit.OnClass, dit.OnText, dit.OnTextAndClass} {
			cfg := eventful(onText(9, block, condition))
			if !cfg.Model.HasText() {
				cfg.Model.TextWidth, cfg.Model.TextLength = 0, 0
			}
			cfg.LogEvery, cfg.CkptEvery, cfg.Recompute = 2, 4, (i+k)%2 == 0
			if i == k {
				cfg.Precision = nn.BF16
			}
			what := fmt.Sprintf("%s on %s", block, condition)
			if err := bothWays(t, what, Job{Config: cfg, Source: allOf(l)}); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if n := torch.Live(); n != 0 {
		t.Errorf("%d tensors live", n)
	}
}

// A number that changes from step to step would be frozen in a graph: a replay on the CPU finds it.
func TestFrozenNumberIsFound(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(60)), eventful(small(9))
	job := Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(l), Capture: CaptureAlways,
		poison: func(r *runner, s *torch.Scope, _ int, loss *torch.Tensor) *torch.Tensor {
			return s.MulScalar(loss, 1+r.cfg.learningRate(r.step, r.total))
		}}
	if job.Device.IsCUDA() {
		t.Skip("a GPU compares nothing")
	}
	_, err := Run(t.Context(), job)
	if err == nil || !strings.Contains(err.Error(), "step 3: ") || !strings.Contains(err.Error(), "MulScalar") {
		t.Errorf("error %v, want one that names the operation", err)
	}
}

// Where a step cannot be captured, or the graph gives something else, the run says so once and goes on without it, with
// the bits of a run that never tried.
func TestRunWithoutGraph(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(60)), eventful(small(7))
	want, _, err := tryRun(t, t.Context(), cfg, l, t.TempDir(), "", Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	for text, change := range map[string]func(*torch.Scope, *torch.Tensor) *torch.Tensor{
		"called within a capture: it reads back": func(s *torch.Scope, loss *torch.Tensor) *torch.Tensor {
			loss.Item()
			return loss
		},
		"the first moments differ by": func(s *torch.Scope, loss *torch.Tensor) *torch.Tensor {
			if calls++; calls == 3 { // the first by the graph
				return s.MulScalar(loss, 1.5)
			}
			return loss
		},
	} {
		var said []string
		got, err := Run(t.Context(), Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(l), Dir: t.TempDir(),
			Capture: CaptureAlways, Hooks: Hooks{Warn: func(text string) { said = append(said, text) }},
			poison: func(_ *runner, s *torch.Scope, _ int, loss *torch.Tensor) *torch.Tensor {
				return change(s, loss)
			}})
		if err != nil {
			t.Fatal(err)
		}
		if len(said) != 1 || !strings.HasPrefix(said[0], "steps run without a CUDA graph, and slower: ") ||
			!strings.Contains(said[0], text) {
			t.Errorf("said %q, want %q", said, text)
		}
		sameCheckpoint(t, text, got.Checkpoint, want.Checkpoint)
	}
}

// distorted gives samples of some batches other moments.
type distorted struct {
	samples.Source
	batches []int
	value   float32
}

func (d distorted) Batches(ctx context.Context, o stream.Options) iter.Seq2[samples.Batch, error] {
	return func(yield func(samples.Batch, error) bool) {
		for b, err := range d.Source.Batches(ctx, o) {
			for _, k := range d.batches {
				if err == nil && b.Batch.Batch == k {
					binary.LittleEndian.PutUint32(b.Data[4*7:], math.Float32bits(d.value))
				}
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// What happens to a run happens to one with a graph: steps that are not applied, whatever follows them, and the second
// step of the run, which is the first to be captured, among them.
func TestCapturedRunMeetsBadSteps(t *testing.T) {
	l := synthetic(t, syntheticPlan(60))
	nan := float32(math.NaN())
	for what, c := range map[string]struct {
		bad     string
		check   StepCheck
		value   float32
		batches []int
		err     string
	}{
		"stop":        {onBadStop, CheckEveryStep, nan, []int{5}, "step 6: "},
		"skip":        {onBadSkip, CheckEveryStep, nan, []int{1, 2, 5}, ""},
		"skip late":   {onBadSkip, CheckWhenLogging, nan, []int{1, 5, 6}, ""},
		"skip spikes": {onBadSkip, CheckWhenLogging, 1e4, []int{6}, ""},
		"back":        {onBadRollback, CheckEveryStep, nan, []int{5, 8}, ""},
		"back late":   {onBadRollback, CheckWhenLogging, nan, []int{6}, ""},
	} {
		cfg := eventful(small(11))
		cfg.OnBadStep, cfg.CkptEvery, cfg.LogEvery = c.bad, 2, 3
		err := bothWays(t, what, Job{Config: cfg, Source: distorted{allOf(l), c.batches, c.value}, CheckSteps: c.check})
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: error %v, want %q", what, err, c.err)
		}
	}
}

// A run that is continued with a graph has the bits of one that was not cut.
func TestCapturedRunIsContinued(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(60)), eventful(small(10))
	cfg.CkptEvery, cfg.SampleEvery = 5, 2
	straight := t.TempDir()
	want, _ := run(t, cfg, l, straight, "", Hooks{})
	previews := 0
	got, err := Run(t.Context(), Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(l), Dir: t.TempDir(),
		Resume: filepath.Join(straight, "0000005"), Capture: CaptureAlways,
		Hooks: Hooks{Preview: func(*torch.Scope, *dit.DiT, int) { previews++ }}})
	if err != nil || previews != 3 {
		t.Fatalf("%d previews, %v", previews, err)
	}
	sameCheckpoint(t, "continued", got.Checkpoint, want.Checkpoint)
}

// A step that does not fit into memory is tried in smaller parts after a graph too.
func TestCapturedRunOutOfMemory(t *testing.T) {
	l, cfg, steps := synthetic(t, syntheticPlan(60)), small(9), 0
	_, err := Run(t.Context(), Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(l), Capture: CaptureAlways,
		memory: func(n int) error {
			if steps++; steps > 4 && n > 5 {
				return fmt.Errorf("allocate: %w", torch.ErrOutOfMemory)
			}
			return nil
		}})
	var batch *BatchError
	if !errors.As(err, &batch) || batch.Fit != 5 {
		t.Errorf("error %v", err)
	}
}
