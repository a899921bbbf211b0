package training

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/saves"
)

func TestEMADecay(t *testing.T) {
	for steps, want := range map[int]float64{
		0: 0, 1: 0, 10: 0, 20: 0.5, 50: 0.8, 100: 0.9, 1000: 0.99, 2400: 0.9958, 50_000: 0.9998, 99_000: 0.9999,
		100_000: 0.9999, 400_000: 0.9999, 7_000_000: 0.9999,
	} {
		if got := EMADecay(steps); got != want {
			t.Errorf("EMADecay(%d) = %v, want %v", steps, got, want)
		}
	}
	// It never falls with the length, and leaves nothing of the first weights.
	last := 0.0
	for steps := 1; steps < 300_000; steps += 1 + steps/20 {
		d := EMADecay(steps)
		if d < last || d > 0.9999 {
			t.Errorf("EMADecay(%d) = %v after %v", steps, d, last)
		}
		if c := (Config{EMADecay: d}); c.InitialShare(steps) > 1e-4 {
			t.Errorf("%d steps leave %v of the first weights in the average", steps, c.InitialShare(steps))
		}
		last = d
	}
}

func TestInitialShare(t *testing.T) {
	for _, c := range []struct {
		decay  float64
		warmup bool
		steps  int
		want   float64
	}{
		{0.9999, false, 2400, 0.7866}, {0.9999, false, 400_000, 0}, {0.5, false, 3, 0.125}, {0, false, 1, 0},
		{0.9999, false, 0, 1}, {0.9999, true, 2400, 0}, {0.9999, true, 2, 0.1 * 2 / 11},
	} {
		got := Config{EMADecay: c.decay, EMAWarmup: c.warmup}.InitialShare(c.steps)
		if math.Abs(got-c.want) > 1e-4 {
			t.Errorf("decay %v, warm-up %v, %d steps: %v of the first weights, want %v", c.decay, c.warmup, c.steps,
				got, c.want)
		}
	}
}

// lossOf returns the mean training loss of weights that a run left, over the noise of 10 steps.
func lossOf(t *testing.T, l *latents.Set, folder, name string) float64 {
	t.Helper()
	w, err := dit.Read(filepath.Join(folder, name), "")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cfg := small(10)
	cfg.Init, cfg.LR, cfg.LogEvery, cfg.GlobalSeed = w.Source, 1e-30, 10, 11
	_, records := run(t, cfg, l, t.TempDir(), "", Hooks{})
	return records[0].Loss
}

// The averages of a short run are near its weights, where those of the paper's decay are still the first weights.
func TestAverageOfShortRun(t *testing.T) {
	l := synthetic(t, syntheticPlan(20))
	const steps = 120
	losses := map[string]float64{}
	for name, decay := range map[string]float64{"follows": EMADecay(steps), "paper": 0.9999} {
		cfg := small(steps)
		cfg.EMADecay, cfg.LogEvery = decay, steps
		dir := t.TempDir()
		result, _ := run(t, cfg, l, dir, "", Hooks{})
		losses[name] = lossOf(t, l, result.Checkpoint, saves.EMAName)
		if name == "follows" {
			losses["weights"] = lossOf(t, l, result.Checkpoint, saves.ModelName)
		}
	}
	t.Logf("loss of the weights %.4f, of averages of decay %v %.4f, of decay 0.9999 %.4f", losses["weights"],
		EMADecay(steps), losses["follows"], losses["paper"])
	if learned := losses["paper"] - losses["weights"]; losses["follows"] > losses["weights"]+0.2*learned {
		t.Errorf("losses %v: want the averages that follow the length near the weights", losses)
	}
}
