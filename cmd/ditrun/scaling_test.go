package main

import (
	"encoding/json"
	"fmt"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
)

// scaledRun makes the folder of a run of 200 steps of 64 pictures, each of which took as many seconds as the model has
// MACs, times 1e-8, and whose loss ends at 2 (MACs)^-0.1. Settings are lines of its config.yaml.
func scaledRun(t *testing.T, results, model string, steps int, settings ...string) string {
	t.Helper()
	cfg, err := dit.Named(model)
	if err != nil {
		t.Fatal(err)
	}
	cfg.SetInput(8, 8)
	config := map[string]any{"data": "latents", "max-steps": 200, "global-batch-size": 64, "lr": 1e-4}
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		config[key] = value
	}
	run, err := runs.Create(runs.Options{ResultsDir: results, Model: model, Config: config})
	if err != nil {
		t.Fatal(err)
	}
	seconds := 0.0
	for step := 10; step <= steps; step += 10 {
		wiggle := 1 + 0.01*math.Sin(float64(step))
		loss := 2 * math.Pow(cfg.MACs(), -0.1) * (1 + 3*math.Exp(-float64(step)/20)) * wiggle
		seconds += 640 * cfg.MACs() * 1e-8
		if err := run.Log(runs.Step{Step: step, Loss: runs.Number(loss), Seconds: runs.Number(seconds),
			ImagesPerSecond: runs.Number(1e8 / cfg.MACs()), Time: time.Unix(0, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	dir := run.Dir()
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "checkpoints", fmt.Sprintf("%07d", steps))
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		m, err := dit.New(s, cfg)
		if err != nil {
			return err
		}
		defer m.Close()
		return m.Save(filepath.Join(at, "ema.safetensors"), dit.Info{Step: steps})
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Base(at), filepath.Join(dir, "checkpoints", "latest")); err != nil {
		t.Fatal(err)
	}
	return dir
}

var scaledModels = []string{"DiT-16x1x2/2", "DiT-24x2x2/2", "DiT-32x2x2/1", "DiT-32x4x2/2"}

func TestScaling(t *testing.T) {
	results := t.TempDir()
	for _, model := range scaledModels {
		scaledRun(t, results, model, 200)
	}
	unfinished := scaledRun(t, results, "DiT-16x2x2/2", 100)
	for _, end := range []string{".png", ".svg"} {
		plot := filepath.Join(t.TempDir(), "scaling"+end)
		o := mustRun(t, "scaling", results, "--plot", plot, "--predict", "DiT-64x4x2/2", "--json")
		var r scalingResult
		if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
			t.Fatal(err)
		}
		if e := r.ByGMACs.Exponent; math.Abs(e.Value-0.1) > 1e-6 || e.Low > 0.1 || e.High < 0.1 || e.High-e.Low > 0.02 {
			t.Errorf("exponent %+v, want 0.1", e)
		}
		if len(r.Runs) != 4 || r.Images != 12800 || r.Runs[0].Model != "DiT-16x1x2/2" || r.Runs[3].Steps != 200 ||
			r.Runs[0].LossError <= 0 || math.Abs(r.Runs[0].Residual) > 1e-6 {
			t.Errorf("runs %+v", r.Runs)
		}
		p := r.Predictions[0]
		want := 2 * math.Pow(p.GMACs*1e9, -0.1)
		if math.Abs(p.Loss.Value/want-1) > 0.01 || p.Loss.Low > p.Loss.Value || p.Loss.High < p.Loss.Value {
			t.Errorf("predicted loss %+v, want %g", p.Loss, want)
		}
		if hours := 12800 * p.GMACs * 10 / 3600; math.Abs(p.Hours.Value/hours-1) > 1e-6 {
			t.Errorf("predicted hours %+v, want %g", p.Hours, hours)
		}
		if first, last := r.Frontier[0], r.Frontier[len(r.Frontier)-1]; first.From >= last.To ||
			r.ByCompute.Exponent.Value <= 0 || first.Model != "DiT-16x1x2/2" {
			t.Errorf("frontier %+v", r.Frontier)
		}
		if !strings.Contains(o.stderr, unfinished+": left out, it stopped at step 100 of 200") {
			t.Errorf("the unfinished run is not named: %s", o.stderr)
		}
		f, err := os.Open(plot)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if end == ".png" {
			if _, err := png.Decode(f); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestScalingPaper(t *testing.T) {
	o := mustRun(t, "scaling")
	if !strings.Contains(o.stdout, "DiT-XL/2       118.64        675 M    19.47") ||
		!strings.Contains(o.stdout, "law: FID = 137.8 GMACs^-0.365") {
		t.Errorf("the paper's table:\n%s", o.stdout)
	}
}

func TestScalingRefuses(t *testing.T) {
	results, empty := t.TempDir(), t.TempDir()
	one := scaledRun(t, results, "DiT-16x1x2/2", 200)
	same := scaledRun(t, results, "DiT-16x1x2/2", 200)
	other := scaledRun(t, results, "DiT-24x2x2/2", 200, "data=others")
	velocity := scaledRun(t, results, "DiT-24x2x2/2", 200, "objective=velocity")
	half := scaledRun(t, results, "DiT-24x2x2/2", 200, "global-batch-size=32")
	epochs := scaledRun(t, results, "DiT-24x2x2/2", 200, "max-steps=0", "epochs=1400")
	endless := scaledRun(t, results, "DiT-24x2x2/2", 200, "max-steps=0")
	nan := scaledRun(t, results, "DiT-24x2x2/2", 200, "global-batch-size=NaN")
	stopped := scaledRun(t, results, "DiT-24x2x2/2", 100)
	for _, c := range []struct {
		args  []string
		words string
	}{
		{[]string{empty}, "no finished run in " + empty},
		{[]string{stopped}, "it stopped at step 100 of 200"},
		{[]string{filepath.Join(empty, "no")}, "no such folder"},
		{[]string{one, same}, "all are at"},
		{[]string{one, other}, "runs of different data: " + one + " learned latents, " + other + " learned others"},
		{[]string{one, velocity}, "objective of " + one + " is \"eps\", of " + velocity + " \"velocity\""},
		{[]string{one, "--predict", "DiT-24x2x2/2"}, "one finished run alone"},
		{[]string{"--predict", "DiT-24x2x2/2"}, "no runs to predict from"},
		{[]string{one, "--predict", "DiT-7"}, "DiT-7"},
		{[]string{one, "--plot", "x.jpg"}, "want the name of a .png or .svg"},
		{[]string{one, "--plot", ""}, "the value is empty"},
		{[]string{one, "--plot", filepath.Join(one, "run.json", "x.png")}, "cannot be written"},
		{[]string{epochs}, "its 1400 epochs cannot be counted in steps without its latents, latents"},
		{[]string{nan}, "global-batch-size \"NaN\""},
		{[]string{endless}, "names neither max-steps nor epochs"},
	} {
		o := ditrun(t, append([]string{"scaling"}, c.args...)...)
		if o.code == 0 || !strings.Contains(o.stderr+o.stdout, c.words) {
			t.Errorf("scaling %q: code %d, want %q\n%s%s", c.args, o.code, c.words, o.stdout, o.stderr)
		}
	}
	if o := mustRun(t, "scaling", one); !strings.Contains(o.stdout, "one run: a law needs two sizes") {
		t.Errorf("one run:\n%s", o.stdout)
	}
	o := ditrun(t, "scaling", one, half)
	if o.code != 0 || !strings.Contains(o.stderr, "the runs differ in global-batch-size") {
		t.Errorf("batches of two sizes:\n%s", o.stderr)
	}
}
