package training

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

func sameLosses(t *testing.T, what string, got, want []Record) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d records, want %d", what, len(got), len(want))
		return
	}
	for i, w := range want {
		if g := got[i]; g.Step != w.Step || g.Epoch != w.Epoch || g.Loss != w.Loss || g.MSE != w.MSE || g.VB != w.VB ||
			g.GradNorm != w.GradNorm || g.LR != w.LR {
			t.Errorf("%s: record %d is %+v, want %+v", what, i, g, w)
			return
		}
	}
}

func TestSameSeedSameFiles(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(20)), small(12)
	a, b, c := t.TempDir(), t.TempDir(), t.TempDir()
	first, records := run(t, cfg, l, a, "", Hooks{})
	second, again := run(t, cfg, l, b, "", Hooks{})
	if first.Step != 12 || first.Checkpoint != filepath.Join(a, "0000012") {
		t.Errorf("result %+v", first)
	}
	sameCheckpoint(t, "second run", second.Checkpoint, first.Checkpoint)
	sameLosses(t, "second run", again, records)
	if got := listing(t, a); got != "0000012 latest" {
		t.Errorf("the run left %q", got)
	}
	cfg.GlobalSeed++
	_, other := run(t, cfg, l, c, "", Hooks{})
	if other[0].Loss == records[0].Loss {
		t.Error("another seed gives the same loss")
	}
}

// TestRunWithoutFolder: it writes no checkpoint anywhere, whether it ends or is stopped.
func TestRunWithoutFolder(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(20)), small(4)
	cfg.CkptEvery = 2
	t.Chdir(t.TempDir())
	saved := func(path string, step int) { t.Errorf("saved step %d in %s", step, path) }
	result, _ := run(t, cfg, l, "", "", Hooks{Saved: saved})
	if result.Step != 4 || result.Checkpoint != "" {
		t.Errorf("result %+v", result)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result, _, err := tryRun(t, ctx, cfg, l, "", "", Hooks{Saved: saved, Step: func(int) { cancel() }})
	if !errors.Is(err, context.Canceled) || result.Step != 1 || result.Checkpoint != "" {
		t.Errorf("stopped: %v, result %+v", err, result)
	}
	if got := listing(t, "."); got != "" {
		t.Errorf("the runs left %q", got)
	}
}

func TestResumeEqualsStraightRun(t *testing.T) {
	for _, precision := range []nn.Precision{nn.FP32, nn.BF16} {
		l, cfg := synthetic(t, syntheticPlan(20)), small(12) // 2 steps an epoch
		cfg.LRSchedule, cfg.WarmupSteps, cfg.MaxGradNorm, cfg.WeightDecay, cfg.Precision = "linear", 4, 1, 0.01,
			precision
		cfg.CkptEvery = 5
		a, b := t.TempDir(), t.TempDir()
		straight, records := run(t, cfg, l, a, "", Hooks{})
		if got := listing(t, a); got != "0000005 0000010 0000012 latest" {
			t.Errorf("checkpoints %q", got)
		}
		start := 0
		resumed, rest := run(t, cfg, l, b, filepath.Join(a, "0000005"), Hooks{Start: func(params, first, total int) {
			start = first
			if total != 12 || params != int(cfg.Model.NumParams()) {
				t.Errorf("started with %d parameters for %d steps", params, total)
			}
		}})
		if start != 5 {
			t.Errorf("resumed at step %d", start)
		}
		sameCheckpoint(t, string(precision), resumed.Checkpoint, straight.Checkpoint)
		sameLosses(t, string(precision), rest, records[5:])
	}
}

// A process alone computes in bf16 on copies of the weights that the optimizer keeps; where it casts them in each step
// the run is the same to the bit.
func TestCopiesEqualCasts(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(20)), small(5)
	cfg.MaxGradNorm, cfg.CkptEvery = 1, 5
	for _, precision := range []nn.Precision{nn.FP32, nn.BF16} {
		cfg.Precision = precision
		var dirs [2]string
		for i, casts := range []bool{false, true} {
			dirs[i] = t.TempDir()
			result, err := Run(t.Context(), Job{
				Device: torchtest.Device(t), Config: cfg, Source: allOf(l), Dir: dirs[i], Capture: CaptureNever,
				poison: func(r *runner, _ *torch.Scope, _ int, loss *torch.Tensor) *torch.Tensor {
					if copies := r.steps != r.model; copies != (precision == nn.BF16 && (!casts || r.step == 0)) {
						t.Errorf("%s: step %d computes on copies: %v", precision, r.step+1, copies)
					}
					if casts {
						r.steps = r.model
					}
					return loss
				}})
			if err != nil {
				t.Fatal(err)
			}
			dirs[i] = result.Checkpoint
		}
		if !torchtest.Device(t).IsCUDA() {
			sameCheckpoint(t, string(precision), dirs[1], dirs[0])
		}
	}
}

func TestCancelSavesAndContinues(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(20)), small(12)
	a, b := t.TempDir(), t.TempDir()
	straight, records := run(t, cfg, l, a, "", Hooks{})

	why := errors.New("the user pressed a key")
	ctx, cancel := context.WithCancelCause(context.Background())
	result, before, err := tryRun(t, ctx, cfg, l, b, "", Hooks{Step: func(step int) {
		if step == 5 {
			cancel(why)
		}
	}})
	if !errors.Is(err, why) {
		t.Fatalf("cancelled run: error %v", err)
	}
	if result.Step != 5 || result.Checkpoint != filepath.Join(b, "0000005") {
		t.Fatalf("cancelled run: result %+v", result)
	}
	if st, err := readState(filepath.Join(b, "latest")); st.Step != 5 || err != nil {
		t.Errorf("latest is at step %d, %v", st.Step, err)
	}
	resumed, after := run(t, cfg, l, b, filepath.Join(b, "latest"), Hooks{})
	sameCheckpoint(t, "cancelled and continued", resumed.Checkpoint, straight.Checkpoint)
	sameLosses(t, "cancelled and continued", append(before, after...), records)

	// Cancelled before the first step there is nothing to save, and nothing is overwritten.
	done, cancelNow := context.WithCancel(context.Background())
	cancelNow()
	c := filepath.Join(t.TempDir(), "checkpoints")
	if _, _, err := tryRun(t, done, cfg, l, c, "", Hooks{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before the start: error %v", err)
	}
	if got := listing(t, c); got != "" {
		t.Errorf("cancelled before the start: left %q", got)
	}
	result, _, err = tryRun(t, done, cfg, l, b, filepath.Join(b, "0000005"), Hooks{})
	if !errors.Is(err, context.Canceled) || result.Step != 5 {
		t.Errorf("cancelled right after resuming: %+v, %v", result, err)
	}
	if _, err := readState(filepath.Join(b, "0000005")); err != nil {
		t.Errorf("cancelled right after resuming: %v", err)
	}
}

// A preview that ctx cuts short must not keep the run from saving.
func TestCancelInPreviewSaves(t *testing.T) {
	l, cfg, dir := synthetic(t, syntheticPlan(20)), small(12), t.TempDir()
	cfg.SampleEvery = 3
	why := errors.New("stop")
	ctx, cancel := context.WithCancelCause(context.Background())
	result, _, err := tryRun(t, ctx, cfg, l, dir, "", Hooks{Preview: func(*torch.Scope, *dit.DiT, int) {
		cancel(why)
	}})
	if !errors.Is(err, why) || result.Step != 3 || listing(t, dir) != "0000003 latest" {
		t.Errorf("result %+v, error %v, files %q", result, err, listing(t, dir))
	}
}

// A run that diverges ends. What it leaves is finite.
func TestDivergenceEndsTheRun(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(20)), small(50)
	cfg.LR = 1e30
	for _, every := range []int{1, 1000} { // found when it is logged, or when it would be saved
		dir := t.TempDir()
		cfg.LogEvery, cfg.CkptEvery = every, 20
		result, _, err := tryRun(t, context.Background(), cfg, l, dir, "", Hooks{})
		if err == nil || !strings.Contains(err.Error(), "the loss of sample") {
			t.Errorf("error %v, want one that names a sample", err)
		}
		if result.Checkpoint == "" {
			continue
		}
		f := open(t, filepath.Join(result.Checkpoint, saves.ModelName))
		for _, info := range f.Tensors() {
			b, err := f.Read(info.Name)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(b); i += 4 {
				if v := math.Float32frombits(binary.LittleEndian.Uint32(b[i:])); v-v != 0 {
					t.Fatalf("%s of %s holds %v", info.Name, result.Checkpoint, v)
				}
			}
		}
	}
}

func TestLossFalls(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(60)), small(200)
	cfg.GlobalBatchSize, cfg.LogEvery = 16, 50
	_, records := run(t, cfg, l, t.TempDir(), "", Hooks{})
	first, last := records[0], records[len(records)-1]
	if len(records) != 4 || last.Step != 200 || last.Steps != 50 || last.Samples != 800 || last.StepsTotal != 200 {
		t.Errorf("%d records, the last %+v", len(records), last)
	}
	if !(first.Loss > 0.5 && last.Loss < 0.6*first.Loss) {
		t.Errorf("loss %v at first, %v at last: it hardly falls", first.Loss, last.Loss)
	}
	for _, r := range records {
		if math.Abs(r.Loss-r.MSE-r.VB) > 1e-5 || r.VB <= 0 {
			t.Errorf("step %d: loss %v is not mse %v and vb %v", r.Step, r.Loss, r.MSE, r.VB)
		}
	}
	if want := 6 * cfg.Model.MACs() * 800; last.FLOPs != want {
		t.Errorf("FLOPs %v, want %v", last.FLOPs, want)
	}
	if last.Seconds <= 0 || last.SecondsSinceStart < last.Seconds || last.DataWaitSeconds <= 0 ||
		last.DataWaitSeconds > last.Seconds {
		t.Errorf("times %+v", last)
	}
}

func TestPreviewSeesTheAverages(t *testing.T) {
	l, cfg, dir := synthetic(t, syntheticPlan(20)), small(4), t.TempDir()
	cfg.SampleEvery, cfg.LogEvery = 2, 4
	const pause = 300 * time.Millisecond
	weights := map[int][]float32{}
	_, records := run(t, cfg, l, dir, "", Hooks{Preview: func(s *torch.Scope, ema *dit.DiT, step int) {
		if s.RecordsGrad() {
			t.Error("the preview's scope records gradients")
		}
		weights[step] = torch.Data[float32](ema.Final.(*dit.FinalLayer).Linear.Weight)
		x := torchtest.Normal(s, 1, 1, 4, 4, 4)
		ema.Forward(s, x, torch.From(s, []int64{1}, 1), dit.Condition{Labels: torch.From(s, []int64{0}, 1)})
		if step == 2 {
			time.Sleep(pause)
		}
	}})
	if len(weights) != 2 {
		t.Fatalf("previews at %d steps, want 2 and 4", len(weights))
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		for file, want := range map[string]bool{saves.EMAName: true, saves.ModelName: false} {
			m, info, err := dit.Open(s, filepath.Join(dir, "0000004", file))
			if err != nil {
				return err
			}
			same := torchtest.Relative(s, torch.From(s, weights[4], 32, 24),
				m.Final.(*dit.FinalLayer).Linear.Weight) == 0
			if same != want {
				t.Errorf("the preview's weights are those of %s: %v", file, same)
			}
			if info.EMA != want || info.Step != 4 || info.ScalingFactor != 0.5 || info.VAE != l.Manifest().VAE.SHA256 ||
				len(info.Classes) != 3 || info.ImageSize != 32 {
				t.Errorf("%s says %+v", file, info)
			}
			nn.Close(m)
		}
		return nil
	})
	// All four steps count, the preview's pause does not.
	if r := records[0]; r.Steps != 4 || r.Seconds >= r.SecondsSinceStart-pause.Seconds()*0.9 {
		t.Errorf("%d steps in %.3f of %.3f seconds, of which a preview took %.3f", r.Steps, r.Seconds,
			r.SecondsSinceStart, pause.Seconds())
	}
}

// Many steps keep neither tensors nor memory. DITRUN_SOAK=1 makes 10,000 of them.
func TestStepsKeepNothing(t *testing.T) {
	steps, warm := 200, 50
	if os.Getenv("DITRUN_SOAK") != "" {
		steps, warm = 10000, 1000
	}
	l, cfg, before := synthetic(t, syntheticPlan(60)), small(steps), torch.Live()
	cfg.LogEvery, cfg.CkptEvery = 10, max(steps/4, 1)
	var live, liveEnd int64
	var rss, rssEnd int64
	run(t, cfg, l, t.TempDir(), "", Hooks{Step: func(step int) {
		switch step {
		case warm:
			live, rss = torch.Live(), residentBytes(t)
		case steps:
			liveEnd, rssEnd = torch.Live(), residentBytes(t)
		}
	}})
	t.Logf("resident after %d steps %.1f MB, after %d %.1f MB", warm, float64(rss)/1e6, steps, float64(rssEnd)/1e6)
	if live != liveEnd || live == 0 {
		t.Errorf("%d tensors live after %d steps, %d after %d", live, warm, liveEnd, steps)
	}
	// 16 MB over 10,000 steps would be a tensor of 1.6 kB a step.
	if rssEnd-rss > 16e6 {
		t.Errorf("resident memory grew by %.1f MB from step %d to step %d", float64(rssEnd-rss)/1e6, warm, steps)
	}
	if after := torch.Live(); after != before {
		t.Errorf("%d tensors live after the run, %d before", after, before)
	}
}

func residentBytes(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("no /proc/self/statm")
	}
	pages := int64(0)
	for _, c := range strings.Fields(string(text))[1] {
		pages = pages*10 + int64(c-'0')
	}
	return pages * int64(os.Getpagesize())
}

// The rest of what decides a run is held against the latents before anything is made.
func TestLatentsMustFit(t *testing.T) {
	l := synthetic(t, syntheticPlan(20))
	plan := syntheticPlan(20)
	plan.Flip = false
	oneView := synthetic(t, plan)
	for _, c := range []struct {
		l      *latents.Set
		change func(*Config)
		want   string
	}{
		{l, func(c *Config) { c.Model.InputSize = 8 }, "latents are 4x4x4, the model wants 4x8x8"},
		{l, func(c *Config) { c.Model.InChannels = 3 }, "the model wants 3x4x4"},
		{l, func(c *Config) { c.Model.NumClasses = 2 }, "latents have 3 classes, the model has 2"},
		{l, func(c *Config) { c.GlobalBatchSize = 21 },
			"global-batch-size 21 is larger than the data set of 20 samples"},
		{l, func(c *Config) { c.LR = -1 }, "lr -1: want a positive number"},
		{oneView, func(c *Config) {}, "no mirrored view"},
	} {
		cfg, dir := small(1), filepath.Join(t.TempDir(), "checkpoints")
		c.change(&cfg)
		if _, _, err := tryRun(t, context.Background(), cfg, c.l, dir, "", Hooks{}); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
		if got := listing(t, dir); got != "" {
			t.Errorf("%s: left %q", c.want, got)
		}
	}
	cfg := small(2)
	cfg.FlipProb = 0
	run(t, cfg, oneView, t.TempDir(), "", Hooks{})
}
