package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/latents/latentstest"
	"github.com/ditrun/ditrun/diffusion/runs"
)

// ownProcess runs a command line in a process of its own, and returns what it printed.
func ownProcess(t *testing.T, args ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), self, append([]string{"--device", "cpu", "--threads", "1"}, args...)...)
	cmd.Env = append(os.Environ(), asDitrun+"=1")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("ditrun %q: %v\n%s%s", args, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// The memory that plan names is what train then takes, within 10 %. With DITRUN_SOAK so is the time, which on a machine
// that does other work at the same time says nothing.
func TestPlanIsWhatTrainTakes(t *testing.T) {
	needTorch(t)
	soak := os.Getenv("DITRUN_SOAK") != ""
	plan := latentstest.Plan(64)
	plan.Height, plan.Width, plan.ImageSize.Height, plan.ImageSize.Width = 16, 16, 128, 128
	data := latentstest.Make(t, plan)
	for _, c := range []struct {
		model, batch string
	}{
		{"DiT-48x2x2/2", "8"},
		{"DiT-96x4x3/2", "32"},
		{"DiT-96x4x3/4", "64"},
		{"DiT-192x6x6/2", "16"},
		{"DiT-384x6x6/2", "4"},
		{"DiT-384x3x6/2", "16"},
	} {
		t.Run(strings.ReplaceAll(c.model, "/", "-")+" "+c.batch, func(t *testing.T) {
			of := []string{"--data", data, "--model", c.model, "--global-batch-size", c.batch}
			var r planResult
			text := ownProcess(t, append([]string{"plan", "--json", "--max-steps", "12"}, of...)...)
			if err := json.Unmarshal([]byte(text), &r); err != nil {
				t.Fatal(err)
			}
			steps := "12"
			if soak {
				steps = "60"
			}
			dir := filepath.Join(t.TempDir(), "run")
			ownProcess(t, append([]string{"train", "--quiet", "--run-dir", dir, "--max-steps", steps,
				"--log-every", "4", "--ckpt-every", "8", "--flip-prob", "0"}, of...)...)
			log, err := runs.ReadLog(filepath.Join(dir, runs.LogName))
			if err != nil {
				t.Fatal(err)
			}
			memory, seconds := int64(0), math.Inf(1)
			for _, s := range log {
				memory = max(memory, s.MemoryBytes)
				seconds = min(seconds, 1/float64(s.StepsPerSecond))
			}
			t.Logf("memory: planned %d MB (%+v), taken %d; a step: %.0f ms, %.0f", r.Memory.Peak/1e6, r.Memory,
				memory/1e6, 1e3*r.StepSeconds, 1e3*seconds)
			if math.Abs(float64(r.Memory.Peak)/float64(memory)-1) > 0.1 {
				t.Errorf("plan says %d bytes, train took %d", r.Memory.Peak, memory)
			}
			if soak && math.Abs(r.StepSeconds/seconds-1) > 0.1 {
				t.Errorf("plan says %.4f s a step, train took %.4f", r.StepSeconds, seconds)
			}
		})
	}
}

// The sums that the paper's own figures make: 400,000 steps of DiT-XL/2 on 256 cores of TPU v3 at 2 an hour.
func TestPlanOfThePaper(t *testing.T) {
	hours := 0.0
	for _, model := range []string{"S", "B", "L", "XL"} {
		for _, patch := range []string{"8", "4", "2"} {
			var r planResult
			o := mustRun(t, "plan", "--json", "--gpu", "TPUv3-256", "--max-steps", "400000", "--price", "512",
				"--model", "DiT-"+model+"/"+patch)
			if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
				t.Fatal(err)
			}
			if hours += r.Hours; r.Model != "DiT-XL/2" {
				continue
			}
			if math.Abs(r.Hours-19.5) > 0.05 || math.Abs(r.Price-9981) > 10 {
				t.Errorf("%.2f hours for %.0f, want 19.5 and 9,981", r.Hours, r.Price)
			}
			if of := hours / r.Hours; math.Abs(of-2.51) > 0.01 { // the last of the twelve
				t.Errorf("all twelve take %.3f times as long, want 2.51", of)
			}
		}
	}
}

func TestPlanOfSeveralGPUs(t *testing.T) {
	var one, eight planResult
	for n, r := range map[string]*planResult{"1": &one, "8": &eight} {
		o := mustRun(t, "plan", "--json", "--gpu", "H100", "--gpus", n, "--max-steps", "1000", "--precision", "bf16")
		if err := json.Unmarshal([]byte(o.stdout), r); err != nil {
			t.Fatal(err)
		}
	}
	params := one.Params
	if one.Memory.State != 24*params || eight.Memory.State != 12*params+12*params/8 {
		t.Errorf("state %d and %d of %d parameters", one.Memory.State, eight.Memory.State, params)
	}
	if math.Abs(one.Hours/eight.Hours-8) > 1e-9 || math.Abs(one.DeviceHours/eight.DeviceHours-1) > 1e-9 {
		t.Errorf("hours %g and %g", one.Hours, eight.Hours)
	}
	if eight.TrafficBytes != 8*params*7/8 || one.TrafficBytes != 0 {
		t.Errorf("traffic %d and %d", one.TrafficBytes, eight.TrafficBytes)
	}
	if one.Memory.MicroBatch != 128 || eight.Memory.MicroBatch != 32 {
		t.Errorf("micro-batches %d and %d", one.Memory.MicroBatch, eight.Memory.MicroBatch)
	}
}

// What was not measured is said not to be.
func TestPlanSaysWhatWasMeasured(t *testing.T) {
	for _, c := range []struct {
		args  string
		words []string
	}{
		{"--gpu H200 --precision bf16", []string{"measured with an earlier", "16.0 % more arithmetic",
			"FID at 256 pixels is 43.0 instead of 19.5"}},
		{"--gpu H200", []string{"tf32; not measured:"}},
		{"--gpu H200 --precision bf16 --model DiT-S/2", []string{"not measured:", "100.4 instead of 68.4"}},
		{"--gpu H100 --precision bf16 --price 3.5 --max-steps 100", []string{"not measured:", "money   0.0581 for"}},
		{"--gpu H200 --model DiT-XL/8", []string{"DiT-1152x28x16/16: ", "(4 tokens instead of 16)"}},
		{"--gpu TPUv3-256", []string{"TPUv3-256, as it was; the DiT paper"}},
	} {
		o := mustRun(t, append([]string{"plan"}, strings.Fields(c.args)...)...)
		text := strings.Join(strings.Fields(o.stdout), " ")
		for _, words := range c.words {
			if !strings.Contains(text, strings.Join(strings.Fields(words), " ")) {
				t.Errorf("plan %s: no %q in\n%s", c.args, words, o.stdout)
			}
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for _, c := range []struct {
		args  []string
		words string
	}{
		{[]string{"--gpu", "H900"}, "known are H200, H100"},
		{[]string{"--model", "DiT-7x7x7/7"}, "DiT-7x7x7/7"},
		{[]string{"--model", "DiT-XL/2", "--image-size", "100"}, "multiples of 8"},
		{[]string{"--gpu", "RTX-4090", "--image-size", "1024", "--model", "DiT-3072x48x24/2"}, "does not fit"},
		{[]string{"--gpus", "3"}, "not divisible by 3"},
		{[]string{"--gpus", "2"}, "only one device can be measured here"},
		{[]string{"--gpu", "H200", "--micro-batch", "7"}, "want a divisor"},
		{[]string{"--gpu", "H200", "--price", "-1"}, "want an amount"},
		{[]string{"--gpu", "H200", "--data", "nowhere"}, "nowhere"},
		{[]string{"--gpu", "H200", "--num-samples", "10"}, "more than the 10 pictures"},
		{[]string{"--gpu", "TPUv3-256", "--precision", "bf16"}, "has no effect"},
		{[]string{"--gpu", "H200", "--precision", "foo"}, "fp32"},
		{[]string{"--condition", "text"}, "name a device with --gpu"},
	} {
		o := ditrun(t, append([]string{"plan"}, c.args...)...)
		if o.code == 0 || !strings.Contains(o.stderr, c.words) {
			t.Errorf("plan %q: code %d, want %q\n%s%s", c.args, o.code, c.words, o.stdout, o.stderr)
		}
	}
}
