package training

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion/flow"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/philox"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// onPath is small on a path.
func onPath(steps int, objective string) Config {
	cfg := small(steps)
	cfg.Objective = objective
	return cfg
}

func TestTimeName(t *testing.T) {
	for _, c := range []struct {
		objective string
		time      float64
		want      string
	}{{"eps", 999, "timestep 999"}, {"eps", 0, "timestep 0"}, {"velocity", float64(float32(0.3)), "time 0.3"}} {
		if got := onPath(1, c.objective).timeName(c.time); got != c.want {
			t.Errorf("%s: %q, want %q", c.objective, got, c.want)
		}
	}
}

// What does not go together is refused with the reason, and what to give.
func TestObjectivesThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Objective = "v" }, `objective "v": want eps, velocity, noise, score or data`},
		{func(c *Config) { c.Path = "linear" },
			"path linear: for the objectives velocity, noise, score and data; eps is on the 1000 steps of DiT"},
		{func(c *Config) { c.TimeSampling = "logit-normal" }, "time-sampling logit-normal: for the objectives"},
		{func(c *Config) { c.TimeShift = 3 }, "time-shift 3: for the objectives velocity"},
		{func(c *Config) { c.LossWeight = "likelihood" },
			"loss-weight likelihood: for the objectives noise, score and data; eps takes none or min-snr"},
		{func(c *Config) { c.LossWeight = "snr" }, `loss-weight "snr": want none, velocity, likelihood or min-snr`},
		{func(c *Config) { c.Objective, c.Path = "velocity", "Linear" }, `path "Linear": want linear, gvp or vp`},
		{func(c *Config) { c.Objective, c.LossWeight = "velocity", "velocity" },
			"loss-weight velocity: the loss of a velocity has no weight"},
		{func(c *Config) { c.Objective, c.LossWeight = "noise", "min-snr" },
			"loss-weight min-snr: for the objective eps; on a path noise, score and data take velocity or likelihood"},
		{func(c *Config) { c.Objective, c.TimeShift = "velocity", 0 },
			"time-shift 0: want a positive number up to 1e+06, 1 for none"},
		{func(c *Config) { c.Objective, c.TimeShift = "velocity", 1e7 },
			"time-shift 1e+07: want a positive number up to 1e+06"},
		{func(c *Config) { c.Objective, c.TimeShift = "velocity", math.Inf(1) }, "time-shift +Inf: want a positive"},
		{func(c *Config) { c.Objective, c.TimeSampling = "velocity", "normal" }, `time-sampling "normal": want`},
		{func(c *Config) { c.Objective, c.TimeSampling = "velocity", "uniform:0,1" }, "want uniform, logit-normal or"},
		{func(c *Config) { c.Objective, c.TimeSampling = "velocity", "logit-normal:1" }, "want uniform, logit-normal"},
		{func(c *Config) { c.Objective, c.TimeSampling = "velocity", "logit-normal:0,0" }, "want a deviation above 0"},
	} {
		cfg := small(1)
		c.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	for _, objective := range []string{"velocity", "noise", "score", "data"} {
		for _, path := range []string{"", "linear", "gvp", "vp"} {
			for _, times := range []string{"", "logit-normal", "logit-normal:-0.4,1.5"} {
				cfg := onPath(1, objective)
				cfg.Path, cfg.TimeSampling, cfg.TimeShift = path, times, 0.3
				if objective != "velocity" {
					cfg.LossWeight = "velocity"
				}
				if err := cfg.Validate(); err != nil {
					t.Errorf("%s on %q at times %q: %v", objective, path, times, err)
				}
			}
		}
	}
}

// Three steps on a velocity have the losses that package flow gives for the draws that the tags name.
func TestVelocityRunHasLossesOfDraws(t *testing.T) {
	l := synthetic(t, syntheticPlan(20))
	for _, times := range []string{"uniform", "logit-normal:-0.4,1.2"} {
		cfg := onPath(3, "velocity")
		cfg.TimeSampling, cfg.TimeShift, cfg.Model.ClassDropoutProb = times, 0.5, 0
		o, err := flow.New(flow.Config{Path: schedule.Path{Kind: schedule.Linear}, Times: flow.Times{
			LogitNormal: times != "uniform", Mean: -0.4, Std: 1.2, Shift: 0.5}})
		if times == "uniform" {
			o, err = flow.New(flow.Config{Path: schedule.Path{Kind: schedule.Linear}, Times: flow.Times{Shift: 0.5}})
		}
		if err != nil {
			t.Fatal(err)
		}
		const n, size = 8, 4 * 4 * 4
		step := 0
		hook := func(r *runner, s *torch.Scope, batch int, loss *torch.Tensor) *torch.Tensor {
			s = s.NoGrad()
			noise, uniforms := make([]float32, n*size), make([]float64, n)
			for i := range n {
				index := uint64(batch*n + i)
				philox.Normals(noise[i*size:(i+1)*size], cfg.GlobalSeed, philox.TagStartNoise, 0, index)
				uniforms[i] = philox.Uniform(cfg.GlobalSeed, philox.TagTimestep, 0, index)
			}
			p := r.inputs(s)
			at := o.Time(s, torch.From(s, uniforms, n))
			model := func(s *torch.Scope, x, at *torch.Tensor) *torch.Tensor {
				return r.model.Forward(s, x, at, p.cond)
			}
			want := s.Mean(o.Losses(s, model, p.x0, torch.From(s, noise, n, 4, 4, 4), at).Total).Item()
			if got := loss.Item(); !(math.Abs(got-want) <= 1e-6*want) {
				t.Errorf("times %s: loss of batch %d is %v, want %v", times, batch, got, want)
			}
			step++
			return loss
		}
		if _, err := Run(t.Context(), Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(l),
			Capture: CaptureNever, poison: hook}); err != nil || step != 3 {
			t.Errorf("times %s: %v after %d steps", times, err, step)
		}
	}
}

// Every objective is learnt: the losses of a run fall, and its records have no bound where the variance is not trained.
// The step is captured as any other.
func TestEveryObjectiveIsTrained(t *testing.T) {
	l := synthetic(t, syntheticPlan(60))
	for _, c := range []Config{
		onPath(60, "velocity"), onPath(60, "noise"), onPath(60, "score"), onPath(60, "data"), onPath(60, "eps"),
	} {
		c.LogEvery = 15
		if c.Objective == "eps" {
			c.LossWeight = minSNR
		}
		_, records := run(t, c, l, "", "", Hooks{})
		first, last := records[0], records[len(records)-1]
		if !(last.Loss < 0.8*first.Loss) {
			t.Errorf("%s: the loss went from %v to %v", c.Objective, first.Loss, last.Loss)
		}
		if (last.VB != 0) != (c.Objective == "eps") {
			t.Errorf("%s: bound %v", c.Objective, last.VB)
		}
		bins := 0
		for _, v := range last.Bins {
			if !math.IsNaN(v) {
				bins++
			}
		}
		if bins < NumBins/2 {
			t.Errorf("%s: losses in %d bins of times: %v", c.Objective, bins, last.Bins)
		}
	}
	for _, change := range []func(*Config){
		func(c *Config) { c.TimeSampling, c.Precision = logitNormalTimes, nn.BF16 },
		func(c *Config) { c.Path, c.Recompute = "vp", true },
		func(c *Config) { c.Objective, c.Path, c.LossWeight = "score", "gvp", "likelihood" },
		func(c *Config) { c.Objective, c.LossWeight = "eps", minSNR },
	} {
		cfg := eventful(onPath(9, "velocity"))
		cfg.LogEvery, cfg.CkptEvery = 2, 4
		change(&cfg)
		what := fmt.Sprintf("%s on %s, %s", cfg.Objective, cfg.Path, cfg.LossWeight)
		if err := bothWays(t, what, Job{Config: cfg, Source: allOf(l)}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// The weights of the loss do something, and the squared errors in the records stay without them.
func TestLossWeight(t *testing.T) {
	l := synthetic(t, syntheticPlan(20))
	for objective, weight := range map[string]string{"eps": minSNR, "noise": "velocity", "score": "likelihood"} {
		_, plain := run(t, onPath(1, objective), l, "", "", Hooks{})
		cfg := onPath(1, objective)
		cfg.LossWeight = weight
		_, weighted := run(t, cfg, l, "", "", Hooks{})
		if p, w := plain[0], weighted[0]; p.MSE != w.MSE || p.Loss == w.Loss {
			t.Errorf("%s: %+v, with weight %s %+v", objective, p, weight, w)
		}
	}
}

// Checkpoints say what the model is trained on, and a run goes on with that alone. Those of DiT's objective say what
// they always said.
func TestCheckpointsSayTheObjective(t *testing.T) {
	l, dir := synthetic(t, syntheticPlan(20)), t.TempDir()
	cfg := onPath(4, "velocity")
	cfg.Path, cfg.TimeShift = "gvp", 0.3
	result, _ := run(t, cfg, l, dir, "", Hooks{})
	w, err := dit.Read(result.Checkpoint, "")
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if want := (dit.Process{Objective: "velocity", Path: "gvp", Shift: 0.3}); w.Process != want {
		t.Errorf("the checkpoint says %+v, want %+v", w.Process, want)
	}
	for objective, want := range map[string]string{
		"noise": "it was trained on another objective, velocity on the GVP path, noise at 0, data at 1, this run is " +
			"on noise on the GVP path, noise at 0, data at 1",
		"eps": "this run is on noise at DiT's 1000 steps",
	} {
		other := cfg
		other.Objective, other.MaxSteps = objective, 8
		if objective == "eps" {
			other.Path, other.TimeShift = "", 1
		}
		if _, err := Check(other, allOf(l).Set(), 1, result.Checkpoint); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", objective, err, want)
		}
	}
	longer := cfg
	longer.MaxSteps, longer.TimeShift = 8, 1
	if _, err := Check(longer, allOf(l).Set(), 1, result.Checkpoint); err != nil {
		t.Errorf("another shift: %v", err)
	}

	eps, _ := run(t, small(2), l, t.TempDir(), "", Hooks{})
	text, err := os.ReadFile(filepath.Join(eps.Checkpoint, saves.EMAName))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "process") {
		t.Error("a checkpoint of DiT's objective says that of a process")
	}
}

// A run from before there were objectives, whose state says none, goes on with the same bits.
func TestResumeFromBeforeObjectives(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(20)), small(6)
	cfg.CkptEvery = 3
	a := t.TempDir()
	straight, records := run(t, cfg, l, a, "", Hooks{})
	old := filepath.Join(a, "0000003")
	st, folder, err := openCheckpoint(old)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(folder.State, &fields); err != nil {
		t.Fatal(err)
	}
	config := fields["config"].(map[string]any)
	for _, name := range []string{"objective", "path", "time_sampling", "time_shift", "loss_weight"} {
		if _, is := config[name]; !is {
			t.Errorf("the state lacks %s", name)
		}
		delete(config, name)
	}
	delete(fields, "sha256")
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(old, saves.StateName), text, 0o666); err != nil {
		t.Fatal(err)
	}
	if st, err = readState(old); err != nil || st.Config.Objective != "" || st.Config.TimeShift != 0 {
		t.Fatalf("%+v, %v", st.Config, err)
	}
	if changes, err := ChangesSince(old, cfg, allOf(l).Set()); err != nil || len(changes) > 0 {
		t.Errorf("changes %q, %v", changes, err)
	}
	resumed, rest := run(t, cfg, l, t.TempDir(), old, Hooks{})
	sameLosses(t, "resumed", rest, records[3:])
	sameCheckpoint(t, "resumed", resumed.Checkpoint, straight.Checkpoint)
}
