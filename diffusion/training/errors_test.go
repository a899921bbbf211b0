package training

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// A faulty source fails when the batch of a step (from 0) is asked for, the last part of it where there are
// several. Fails is given how often it did, and may return nil.
type faulty struct {
	samples.Source
	step  int
	fails func(times int) error
	times int
}

func (f *faulty) Batches(ctx context.Context, o stream.Options) iter.Seq2[samples.Batch, error] {
	return func(yield func(samples.Batch, error) bool) {
		for b, err := range f.Source.Batches(ctx, o) {
			if err == nil && b.Step == f.step && b.Micro == max(o.MicroBatches, 1)-1 {
				if err = f.fails(f.times); err != nil {
					f.times++
				}
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// quick are pauses for tests.
func quick() *pauses {
	short := []time.Duration{time.Millisecond, time.Millisecond}
	return &pauses{short, short, short}
}

// TestEveryError is the table of the errors that a run can meet, with what becomes of the run and of its steps.
// Each is met after step N; where the run ends by it, it leaves a checkpoint of what it had done, and where it goes
// on, it ends with the bits of a run that met none.
func TestEveryError(t *testing.T) {
	const n, total = 5, 8
	l := synthetic(t, syntheticPlan(60))
	straight := t.TempDir()
	cfg := small(total)
	cfg.CkptEvery = n
	run(t, cfg, l, straight, "", Hooks{})

	gone := errors.New("pictures/cat/17.jpg: no such file")
	reading := func(fails func(int) error) func(*Job) {
		return func(j *Job) { j.Source = &faulty{Source: j.Source, step: n, fails: fails} }
	}
	saving := func(what string, times int, err error) func(*Job) {
		return func(j *Job) {
			j.Config.CkptEvery = n
			j.fault = func(file string) error {
				if file == what && times > 0 {
					times--
					return err
				}
				return nil
			}
		}
	}
	poisoned := func(change func(s *torch.Scope, loss *torch.Tensor) *torch.Tensor) func(*Job) {
		return func(j *Job) {
			j.poison = func(_ *runner, s *torch.Scope, batch int, loss *torch.Tensor) *torch.Tensor {
				if batch == n {
					return change(s, loss)
				}
				return loss
			}
		}
	}
	nan := poisoned(func(s *torch.Scope, loss *torch.Tensor) *torch.Tensor { return s.MulScalar(loss, math.NaN()) })
	memory := func(j *Job) {
		calls := 0
		j.memory = func(int) error {
			if calls++; calls > n {
				return fmt.Errorf("allocate: %w", torch.ErrOutOfMemory)
			}
			return nil
		}
	}
	var cancel context.CancelCauseFunc
	stopped := errors.New("told to stop")
	for _, c := range []struct {
		name   string
		inject func(*Job)
		err    string // with which the run ends, "" where it goes on
		warn   string // what is said, "" for nothing
		step   int    // of the last checkpoint
	}{
		{"a read fails once", reading(func(times int) error {
			if times == 0 {
				return fmt.Errorf("read shard: %w", syscall.EIO)
			}
			return nil
		}), "", "read shard: input/output error: tried again in 1ms", total},
		{"a part of a batch fails once", func(j *Job) {
			j.Config.Accumulation = 2
			reading(func(times int) error {
				if times == 0 {
					return syscall.EMFILE
				}
				return nil
			})(j)
		}, "", "too many open files: tried again in 1ms", total},
		{"a read fails for long", reading(func(int) error { return syscall.ESTALE }),
			"step 6: " + syscall.ESTALE.Error(), "tried again", n},
		{"a picture is gone", reading(func(int) error { return gone }), "step 6: " + gone.Error(), "", n},
		{"the second part of a batch is gone", func(j *Job) {
			j.Config.Accumulation = 2
			reading(func(int) error { return gone })(j)
		}, "step 6: " + gone.Error(), "", n},
		{"a label that the model has not", func(j *Job) { j.Source = &mislabelled{j.Source, n} },
			"has label 9, which is out of range", "", n},
		{"no memory", memory, "step 6: allocate: out of memory: not even one sample fits", "", n},
		{"an operation fails", poisoned(func(s *torch.Scope, loss *torch.Tensor) *torch.Tensor {
			return s.Add(loss, s.Add(s.Zeros(torch.Float32, 2), s.Zeros(torch.Float32, 3)))
		}), "step 6: ", "", n},
		// A bad step is done, without having changed anything.
		{"a loss is no number", nan, "step 6: the gradient of x_embedder.proj.weight", "", n + 1},
		{"it is met late, as on a GPU", func(j *Job) {
			j.CheckSteps, j.Config.LogEvery = CheckWhenLogging, total
			nan(j)
		}, "step 8: the loss or a gradient was not a finite number", "", total},
		{"one bad step is passed over", func(j *Job) { j.Config.OnBadStep = onBadSkip; nan(j) }, "", "", total},
		{"told to stop", func(j *Job) {
			step := j.Hooks.Step
			j.Hooks.Step = func(at int) {
				if step != nil {
					step(at)
				}
				if at == n {
					cancel(stopped)
				}
			}
		}, stopped.Error(), "", n},
		{"a file of a checkpoint fails once", saving(saves.ModelName, 1, syscall.EIO), "", "", total},
		{"another fails twice", saving(optimizerAlone, 2, syscall.ENOSPC), "", "", total},
		{"the folder fails once", saving("folder", 1, syscall.EMFILE), "", "", total},
		{"the state fails once", saving(saves.StateName, 1, syscall.EIO), "", "", total},
		{"a checkpoint fails", saving(saves.EMAName, 3, syscall.ENOSPC), "",
			"save checkpoint of step 5: no space left on device; the run goes on, and tries again", total},
		{"a checkpoint may not be written", saving(saves.EMAName, 1, syscall.EACCES), "",
			"save checkpoint of step 5: permission denied; the run goes on, and tries again", total},
		{"the last fails too", saving(saves.EMAName, 6, syscall.EIO), "",
			"save checkpoint of step 8: input/output error: tried again in 1ms", total},
		{"none can be written", saving(saves.EMAName, 1000, syscall.EDQUOT),
			"save checkpoint of step 8: disk quota exceeded",
			"save checkpoint of step 5: disk quota exceeded", 0},
		{"latest cannot be made", saving(saves.LatestName, 1000, syscall.EPERM), "",
			"operation not permitted: the checkpoint of step 5 is whole, and found without it", total},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			var said []string
			job := Job{Device: torchtest.Device(t), Config: small(total), Source: allOf(l), Dir: dir, pauses: quick(),
				Hooks: Hooks{Warn: func(text string) { said = append(said, text) }}}
			c.inject(&job)
			var ctx context.Context
			ctx, cancel = context.WithCancelCause(t.Context())
			defer cancel(nil)
			live := torch.Live()
			result, err := Run(ctx, job)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if got := strings.Join(said, "\n"); c.warn == "" && got != "" || !strings.Contains(got, c.warn) {
				t.Errorf("said %q, want %q", got, c.warn)
			}
			if n := torch.Live(); n != live {
				t.Errorf("%d tensors live after the run, %d before", n, live)
			}
			want := filepath.Join(dir, saves.StepName(c.step))
			if c.step == 0 {
				want = ""
			}
			if path, damaged, err := Newest(dir); path != want || damaged != nil || err != nil {
				t.Errorf("the newest checkpoint is %q (%v, %v), want %q", path, damaged, err, want)
			}
			if result.Checkpoint != want || result.Saved != c.step {
				t.Errorf("result %+v, want %s", result, want)
			}
			if got := listing(t, dir); strings.Contains(got, "tmp") {
				t.Errorf("left %q", got)
			}
			switch {
			// other numbers
			case job.Config.Accumulation == 2 || job.Config.OnBadStep == onBadSkip ||
				job.CheckSteps == CheckWhenLogging || c.step == 0:
			case c.step == n+1: // a step that was not applied
				sameTensors(t, filepath.Join(want, saves.ModelName),
					filepath.Join(straight, saves.StepName(n), saves.ModelName))
			default:
				for _, name := range []string{saves.ModelName, saves.EMAName, optimizerAlone} {
					sameFile(t, c.name, filepath.Join(want, name),
						filepath.Join(straight, saves.StepName(c.step), name))
				}
			}
			// What is left continues.
			if c.step > 0 && c.step < total {
				next := small(total)
				if result, _ := run(t, next, l, filepath.Join(t.TempDir(), "next"), want,
					Hooks{}); result.Step != total {
					t.Errorf("continued to %+v", result)
				}
			}
		})
	}
}

// mislabelled gives a sample of one step the label 9.
type mislabelled struct {
	samples.Source
	step int
}

func (m *mislabelled) Batches(ctx context.Context, o stream.Options) iter.Seq2[samples.Batch, error] {
	return func(yield func(samples.Batch, error) bool) {
		for b, err := range m.Source.Batches(ctx, o) {
			if err == nil && b.Step == m.step {
				b.Labels[0] = 9
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// A GPU notices bad steps where it logs. Those in a row are counted as steps: windows with one bad step each are no
// row.
func TestBadStepsInARow(t *testing.T) {
	every := func(k int) func(*runner, *torch.Scope, int, *torch.Tensor) *torch.Tensor {
		return func(_ *runner, s *torch.Scope, batch int, loss *torch.Tensor) *torch.Tensor {
			if batch%k == k-1 {
				return s.MulScalar(loss, math.NaN())
			}
			return loss
		}
	}
	l := synthetic(t, syntheticPlan(60))
	ends := map[StepCheck]int{CheckWhenLogging: 120, CheckEveryStep: maxBadSteps}
	for check, want := range ends {
		cfg := small(3 * maxBadSteps)
		cfg.OnBadStep, cfg.LogEvery = onBadSkip, 2
		job := Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(l), Dir: t.TempDir(), CheckSteps: check,
			poison: every(2)}
		if result, err := Run(t.Context(), job); err != nil || result.Step != cfg.MaxSteps {
			t.Errorf("check %s: every other step bad: %+v, %v", check, result, err)
		}
		job.Dir, job.poison = t.TempDir(), every(1)
		job.Config.LogEvery = 40
		result, err := Run(t.Context(), job)
		if err == nil || !strings.HasSuffix(err.Error(),
			fmt.Sprintf("none of %d steps in a row could be applied", want)) || result.Step != want {
			t.Errorf("check %s: every step bad: %+v, %v", check, result, err)
		}
	}
}

// TestStepCheckChangesNoBits: when a run looks at its steps is of no consequence for what it computes, a step that is
// passed over included.
func TestStepCheckChangesNoBits(t *testing.T) {
	l, dirs := synthetic(t, syntheticPlan(20)), map[StepCheck]string{}
	for _, check := range []StepCheck{CheckByDevice, CheckEveryStep, CheckWhenLogging} {
		cfg := small(8)
		cfg.OnBadStep, cfg.LogEvery = onBadSkip, 3
		bad := 0
		job := Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(l), Dir: t.TempDir(), CheckSteps: check,
			Hooks: Hooks{BadStep: func(b BadStep) { bad = b.Step }},
			poison: func(_ *runner, s *torch.Scope, batch int, loss *torch.Tensor) *torch.Tensor {
				if batch == 3 {
					return s.MulScalar(loss, math.NaN())
				}
				return loss
			}}
		result, err := Run(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		dirs[check] = result.Checkpoint
		want := 6 // the next log step
		if check.everyStep(job.Device) {
			want = 4
		}
		if bad != want {
			t.Errorf("check %q: the bad step was noticed at step %d, want %d", check, bad, want)
		}
		for _, name := range []string{saves.ModelName, saves.EMAName, optimizerAlone} {
			sameFile(t, string(check), filepath.Join(dirs[check], name), filepath.Join(dirs[CheckByDevice], name))
		}
	}
}

// sameTensors compares files in all but their heads.
func sameTensors(t *testing.T, got, want string) {
	t.Helper()
	a, b := open(t, got), open(t, want)
	for _, info := range b.Tensors() {
		x, errA := a.Read(info.Name)
		y, errB := b.Read(info.Name)
		if errA != nil || errB != nil || !bytes.Equal(x, y) {
			t.Errorf("%s of %s differs from that of %s (%v, %v)", info.Name, got, want, errA, errB)
		}
	}
}

func open(t *testing.T, path string) *checkpoint.File {
	t.Helper()
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
