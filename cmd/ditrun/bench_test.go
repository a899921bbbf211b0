package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/bench"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// smallBench are flags with which a work takes no time.
var smallBench = []string{"--model", "DiT-16x1x2/2", "--image-size", "16", "--batch-size", "2", "--rounds", "3",
	"--steps", "2"}

// benched is what a bench with --json found.
func benched(t *testing.T, args ...string) (r benchResult) {
	t.Helper()
	t.Setenv(asDitrun, "1") // for the processes that bench starts
	o := mustRun(t, slices.Concat([]string{"bench", "--json"}, args)...)
	if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
		t.Fatalf("%v\n%s", err, o.stdout)
	}
	return r
}

// TestBenchMeasuresAllWorks: in order, with the figures that each has.
func TestBenchMeasuresAllWorks(t *testing.T) {
	r := theRoad(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	result := benched(t, slices.Concat(smallBench, []string{"--vae", r.vae})...)
	if result.Device != "cpu" || result.Threads != 1 || result.Model != "DiT-16x1x2/2" || result.Params < 1000 ||
		result.ImageSize != "16" || result.Precision != "fp32" || result.Steps != 2 || result.CPU.Cores < 1 ||
		result.Memory.Total < 1 || !strings.HasPrefix(result.Versions.Libtorch, "2.") || result.Versions.Go == "" {
		t.Errorf("the result is of %+v", result)
	}
	var names []string
	for _, f := range result.Works {
		names = append(names, f.Work)
		pictures := f.Work != "load" && f.Work != "start"
		if len(f.Rounds) != 3 || f.StepSeconds != slices.Min(f.Rounds) || f.StepSeconds <= 0 ||
			f.MedianStepSeconds != slices.Sorted(slices.Values(f.Rounds))[1] || f.MemoryOf != "host" ||
			f.PeakMemoryBytes < 10e6 || f.MFU != 0 || (f.Bytes > 0) != (f.Work == "load") {
			t.Errorf("%s: %+v", f.Work, f)
		}
		if pictures != (f.Batch == 2) || pictures != (f.TFLOPS > 0) ||
			math.Abs(f.ImagesPerSecond*f.StepSeconds-float64(f.Batch)) > 1e-9 {
			t.Errorf("%s: %d pictures, %g a second, %g TFLOP/s", f.Work, f.Batch, f.ImagesPerSecond, f.TFLOPS)
		}
	}
	if !slices.Equal(names, benchWorks) {
		t.Errorf("works %q, want %q", names, benchWorks)
	}
	if left := list(t, tmp); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestBenchTable: a row for each work, as wide as a terminal.
func TestBenchTable(t *testing.T) {
	r := theRoad(t)
	t.Setenv(asDitrun, "1")
	o := mustRun(t, slices.Concat([]string{"bench", "decode", "load"}, smallBench, []string{"--vae", r.vae})...)
	fits(t, o.stdout+o.stderr)
	_, table, _ := strings.Cut(o.stdout, "\n\n")
	var first []string
	for line := range strings.Lines(table) {
		first = append(first, strings.Fields(line)[0])
	}
	if !slices.Equal(first, []string{"work", "decode", "load"}) {
		t.Errorf("prints\n%s", o.stdout)
	}
	b := &benchRun{env: &env{stdout: &strings.Builder{}}}
	b.add(bench.Figures{Work: "train", Batch: 65536, StepSeconds: 1234.5, MedianStepSeconds: 12345.6,
		ImagesPerSecond: 123456.7, PeakMemoryBytes: 141e9, TFLOPS: 12345, MFU: 0.999})
	fits(t, b.stdout.(*strings.Builder).String())
}

// TestBenchTakesWeights: those of a run and of an autoencoder, whose sizes count.
func TestBenchTakesWeights(t *testing.T) {
	r := theRoad(t)
	file, err := os.Stat(filepath.Join(r.run, "checkpoints", "latest", "ema.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	for _, work := range []string{"train", "sample", "load"} {
		got := benched(t, work, "--ckpt", r.run, "--batch-size", "4", "--rounds", "1", "--steps", "2")
		if got.Model != "DiT-16x1x2/2" || got.ImageSize != "8" || len(got.Works) != 1 || got.Works[0].Work != work {
			t.Errorf("%s: %+v", work, got)
		}
		if work == "load" && got.Works[0].Bytes != file.Size() {
			t.Errorf("%d bytes, want %d", got.Works[0].Bytes, file.Size())
		}
		if got.FirstStep.IsZero() != (work != "train") {
			t.Errorf("%s: the first step was at %v", work, got.FirstStep)
		}
	}
	// Pictures of three pixels to a latent, and of two shapes: Stable Diffusion's autoencoder cannot encode them.
	wide := filepath.Join(t.TempDir(), "wide.safetensors")
	if err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		cfg, err := dit.Named("DiT-16x1x2/2")
		if err != nil {
			return err
		}
		cfg.SetInput(4, 6)
		m, err := dit.New(s, cfg)
		if err != nil {
			return err
		}
		defer nn.Close(m)
		return m.Save(wide, dit.Info{ImageSize: 12, ScalingFactor: 1})
	}); err != nil {
		t.Fatal(err)
	}
	if got := benched(t, "sample", "--ckpt", wide, "--batch-size", "1", "--rounds", "1"); got.ImageSize != "12x18" {
		t.Errorf("pictures of %s pixels, want 12x18", got.ImageSize)
	}
	ditrun(t, "bench", "--ckpt", wide).refused(t, 1, "--ckpt "+wide+": image-size 12: want a multiple of 8",
		"hint: give the autoencoder of its latents with --vae")
	ditrun(t, "bench", "--ckpt", wide, "--model", "XL/2").refused(t, 2, "did you mean DiT-XL/2?")
	for _, path := range []string{filepath.Join(r.vae, "config.json"), filepath.Join(r.vae, "none")} {
		ditrun(t, "bench", "--vae", path).refused(t, 1, path) // before anything is measured
	}
}

// TestBenchPrecisions: each precision runs each kind of work.
func TestBenchPrecisions(t *testing.T) {
	r := theRoad(t)
	for _, precision := range []string{"tf32", "bf16"} {
		for _, work := range []string{"train", "sample", "encode", "decode"} {
			got := benched(t, slices.Concat([]string{work, "--precision", precision, "--vae", r.vae}, smallBench)...)
			if string(got.Precision) != precision || len(got.Works) != 1 {
				t.Errorf("%s in %s: %+v", work, precision, got)
			}
		}
	}
}

// TestInterruptBench: here, and in a process that it started.
func TestInterruptBench(t *testing.T) {
	r := theRoad(t)
	for _, works := range [][]string{{"train"}, {"sample"}, {"encode"}, {"train", "decode"}} {
		args := slices.Concat([]string{"bench"}, works, smallBench, []string{"--vae", r.vae, "--rounds", "1000",
			"--steps", "1000"})
		for _, sig := range interrupts {
			p := start(t, args...)
			p.until("images/s")
			p.signal(sig)
			p.wait().stoppedBy(t, sig)
		}
	}
}
