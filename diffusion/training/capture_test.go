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

// bothWays makes a deterministic run with and without a graph, which must not tell: the same checkpoints, records,
// warnings and error. It returns the error.
func bothWays(t *testing.T, what string, job Job) (err error) {
	t.Helper()
	var results [2]Result
	var said [2][]string
	job.Device, job.Config.Deterministic = torchtest.Device(t), true
	for i, capture := range []StepCapture{CaptureNever, CaptureAlways} {
		var run *runner
		job.Capture, job.Dir = capture, t.TempDir()
		job.poison = func(r *runner, _ *torch.Scope, _ int, loss *torch.Tensor) *torch.Tensor {
			run = r
			return loss
		}
		results[i], said[i], err = recorded(job)
		if g := run.stepGraph; capture == CaptureAlways && !(g.wanted && g.trusted) {
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
	cfg.Deterministic, cfg.SampleEvery = true, 3
	want, _, err := tryRun(t, t.Context(), cfg, l, t.TempDir(), "", Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	same := func(_ *runner, _ *torch.Scope, loss *torch.Tensor) *torch.Tensor { return loss }
	var whole *intake     // while another one takes its place
	var wrong *torch.Feed // has a learning rate of Float32, which the optimizer refuses
	for what, c := range map[string]struct {
		said   string
		change func(r *runner, s *torch.Scope, loss *torch.Tensor) *torch.Tensor
		faults int   // the number of the capture that fails
		free   int64 // of the host's memory
	}{
		"reads back": {said: "called within a capture: it reads back",
			change: func(_ *runner, s *torch.Scope, loss *torch.Tensor) *torch.Tensor {
				loss.Item()
				return loss
			}},
		"gives something else": {said: "the first moments differ by",
			change: func(r *runner, s *torch.Scope, loss *torch.Tensor) *torch.Tensor {
				if r.busy { // in the comparison with the graph alone
					return s.MulScalar(loss, 1.5)
				}
				return loss
			}},
		"fails with gradients": {said: "learning rate",
			change: func(r *runner, s *torch.Scope, loss *torch.Tensor) *torch.Tensor {
				if wrong == nil {
					wrong = torch.NewFeed(s, make([]torch.Part, feedDecay+1)...)
				}
				if r.busy {
					whole, r.intake = r.intake, &intake{feed: wrong}
				}
				return loss
			}},
		"first capture fails": {said: "no room in the pool", change: same, faults: 1},
		"later capture fails": {said: "no room in the pool", change: same, faults: 2},
		"no memory": {said: "it takes 0.000986 GB of host memory, of which 0.0009 are free", change: same,
			free: 900_000},
	} {
		var said []string
		var run *runner
		captures := 0
		got, err := Run(t.Context(), Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(l), Dir: t.TempDir(),
			Capture: CaptureAlways, FreeMemory: func() int64 { return c.free },
			Hooks: Hooks{
				Warn: func(text string) {
					said = append(said, text)
					if whole != nil {
						wrong.Close()
						run.intake, whole = whole, nil
					}
				},
				Preview: func(*torch.Scope, *dit.DiT, int) {
					if run.stepGraph.graph != nil {
						t.Errorf("%s: a preview is drawn beside the graph", what)
					}
				},
			},
			fault: func(name string) error {
				if name != "capture" {
					return nil
				}
				if captures++; captures == c.faults {
					return errors.New("no room in the pool")
				}
				return nil
			},
			poison: func(r *runner, s *torch.Scope, _ int, loss *torch.Tensor) *torch.Tensor {
				run = r
				return c.change(r, s, loss)
			}})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if len(said) != 1 || !strings.HasPrefix(said[0], "steps run without a CUDA graph, and slower: ") ||
			!strings.Contains(said[0], c.said) {
			t.Errorf("%s: said %q, want %q", what, said, c.said)
		}
		if run.busy {
			t.Errorf("%s: the run still seems to be in a change of its state", what)
		}
		sameCheckpoint(t, what, got.Checkpoint, want.Checkpoint)
	}
}

// Results of a graph may differ by a share of what the step changed, and not by all of it.
func TestToleranceOfGraph(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		r, err := newRunner(s, Job{Config: small(3), Source: allOf(synthetic(t, syntheticPlan(20)))})
		if err != nil {
			return err
		}
		defer r.close()
		add := func(x float64) {
			w := nn.List(r.model)[0].Tensor
			s.NoGrad().Copy_(w, s.NoGrad().AddScalar(w, x))
		}
		before := r.copyState(s)
		defer before.close()
		add(1)
		limits := before.limits(s, 0.05)
		want := r.copyState(s)
		defer want.close()
		add(0.04)
		if err := want.near(s, limits); err != nil {
			t.Error(err)
		}
		err = want.near(s, before.limits(s, 0))
		if err == nil || !strings.Contains(err.Error(), "the weights differ") {
			t.Errorf("without a tolerance: error %v", err)
		}
		before.restore(s)
		if err := want.near(s, limits); err == nil || !strings.Contains(err.Error(), "the weights differ") {
			t.Errorf("a step that changes nothing: error %v", err)
		}
		return nil
	})
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
	cfg.CkptEvery, cfg.SampleEvery, cfg.Deterministic = 5, 2, true
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

// What kernels have to say is passed on whenever it comes: the optimizer's prove themselves after the last part of the
// first step. Where a run has nobody to tell, it is left for others.
func TestWarningsOfKernels(t *testing.T) {
	defer func(was func() []string) { takeWarnings = was }(takeWarnings)
	cfg := small(2)
	cfg.GlobalBatchSize, cfg.Accumulation = 10, 2
	job := Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(synthetic(t, syntheticPlan(60)))}
	calls := 0
	takeWarnings = func() []string {
		calls++
		return []string{fmt.Sprintf("after part %d", calls)}
	}
	job.Dir = t.TempDir()
	_, said, err := recorded(job)
	for part := 1; part <= 4; part++ {
		if want := fmt.Sprintf("warning after part %d", part); !slices.Contains(said, want) {
			t.Errorf("no %q in %q", want, said)
		}
	}
	if err != nil || calls != 4 {
		t.Errorf("warnings taken %d times, %v", calls, err)
	}
	calls, job.Dir = 0, t.TempDir()
	if _, err := Run(t.Context(), job); err != nil || calls > 0 {
		t.Errorf("warnings that nobody hears were taken %d times, %v", calls, err)
	}
}
