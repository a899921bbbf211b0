package training

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
	"github.com/ditrun/ditrun/vae"
)

// TestMain computes on one thread, for the reason that package vae's tests do.
func TestMain(m *testing.M) {
	torch.SetNumThreads(1)
	os.Exit(m.Run())
}

func testOptions(t *testing.T, out string) Options {
	t.Helper()
	model, err := vae.SmallConfig(8, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	model = model.WithLevels(8, 8)
	o := Options{Config: vae.DefaultTrainConfig(model), Source: &manyPictures{20, make([]int, 20)},
		Device: torchtest.Device(t), OutDir: out, FlipProb: 0.5, NumWorkers: 1, SaveEvery: 2}
	o.Config.MaxSteps, o.Config.BatchSize, o.Config.LogEvery = 6, 4, 1
	return o
}

// TestRun: a run leaves a model whose scaling factor is that of its latents. One that is cut short leaves a model too,
// and ends with the bytes of one that nothing stopped.
func TestRun(t *testing.T) {
	whole, stopped := filepath.Join(t.TempDir(), "whole"), filepath.Join(t.TempDir(), "stopped")
	o := testOptions(t, whole)
	measured := 0
	o.OnMeasure = func(done, total int) { measured = done }
	r, err := Run(t.Context(), o)
	if err != nil || r.Steps != 6 || r.Reconstructions != 1 || measured != 20 {
		t.Fatalf("result %+v, measured on %d, error %v", r, measured, err)
	}
	if _, err := os.Stat(RunDir(whole)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a finished run is kept: %v", err)
	}
	model, err := vae.Open(whole, o.Device)
	if err != nil {
		t.Fatal(err)
	}
	if got := model.Config().ScalingFactor; math.Abs(got*r.LatentStd-1) > 1e-6 {
		t.Errorf("scaling factor %v, standard deviation %v", got, r.LatentStd)
	}
	model.Close()

	o = testOptions(t, stopped)
	ctx, cancel := context.WithCancel(t.Context())
	o.OnStep = func(s vae.Step) {
		if s.Step == 3 {
			cancel()
		}
	}
	r, err = Run(ctx, o)
	if !errors.Is(err, context.Canceled) || r.Steps != 3 || r.Saved != 3 || r.LatentStd == 0 {
		t.Fatalf("cut short: result %+v, error %v", r, err)
	}
	if _, err := os.Stat(filepath.Join(stopped, ReconstructionsName)); r.Quality.Pictures != 0 || err == nil {
		t.Errorf("cut short, it compared %d pictures (%v)", r.Quality.Pictures, err)
	}
	o = testOptions(t, stopped)
	if o.Resume, err = vae.ReadState(RunDir(stopped)); err != nil || o.Resume.Data != o.DataName() {
		t.Fatalf("state %+v, error %v", o.Resume, err)
	}
	if r, err = Run(t.Context(), o); err != nil || r.Steps != 6 {
		t.Fatalf("continued: result %+v, error %v", r, err)
	}
	if o.Device.IsCUDA() {
		return // whose sums are not the same bits each time
	}
	for _, name := range []string{vae.WeightsName, vae.ConfigName, ReconstructionsName} {
		a, err := os.ReadFile(filepath.Join(whole, name))
		b, err2 := os.ReadFile(filepath.Join(stopped, name))
		if err != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs in the run that was cut short (%v, %v)", name, err, err2)
		}
	}
}

// TestRunWithoutSheet: a model that is written can be used, whatever becomes of the sheet. An interrupt while pictures
// are compared keeps the run, and its continuation draws them.
func TestRunWithoutSheet(t *testing.T) {
	out := t.TempDir()
	sheetPath := filepath.Join(out, ReconstructionsName)
	o := testOptions(t, out)
	ctx, cancel := context.WithCancel(t.Context())
	o.OnCompare = func(done, total int) { cancel() }
	r, err := Run(ctx, o)
	if _, statErr := os.Stat(sheetPath); !errors.Is(err, context.Canceled) || r.Steps != 6 || r.LatentStd == 0 ||
		!errors.Is(statErr, os.ErrNotExist) {
		t.Fatalf("interrupted: result %+v, error %v; sheet: %v", r, err, statErr)
	}
	// A folder stands where the sheet should.
	if err := os.Mkdir(sheetPath, 0o777); err != nil {
		t.Fatal(err)
	}
	o = testOptions(t, out)
	if o.Resume, err = vae.ReadState(RunDir(out)); err != nil {
		t.Fatal(err)
	}
	var warnings []string
	o.OnWarning = func(err error) { warnings = append(warnings, err.Error()) }
	done := -1
	o.OnCompare = func(n, total int) { done = n }
	r, err = Run(t.Context(), o)
	if err != nil || r.Quality.Pictures != 20 || r.Reconstructions != 0 || done != 20 {
		t.Errorf("result %+v, %d compared, error %v", r, done, err)
	}
	if len(warnings) != 1 || !strings.HasPrefix(warnings[0], "no reconstructions.png: ") {
		t.Errorf("warnings %q", warnings)
	}
	if _, err := os.Stat(RunDir(out)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a finished run is kept: %v", err)
	}
}

// TestShownFit: as many pictures are shown as a sheet holds beside their reconstructions, however long their names are.
func TestShownFit(t *testing.T) {
	name := strings.Repeat("a name that takes more than a line ", 20)
	for side := 448; side <= 2112; side += 64 {
		n := mostShown(side)
		if n < 1 || n > 10 || side < 512 && n < 10 {
			t.Fatalf("%d pixels: %d pictures", side, n)
		}
		labels := make([]sheet.Label, n)
		for i := range labels {
			labels[i] = sheet.Label{Text: name, Else: strconv.Itoa(i), Note: "24.0 dB"}
		}
		if err := sheet.Check(pairSize(side), n, sheet.Options{Labels: labels, Title: name}); err != nil {
			t.Error(err)
		}
	}
}

// TestRunRefuses: what cannot be trained, or not now, is said before anything is made.
func TestRunRefuses(t *testing.T) {
	out := filepath.Join(t.TempDir(), "vae")
	for want, change := range map[string]func(o *Options){
		"Source and OutDir are required": func(o *Options) { o.Source = nil },
		"flip-prob 2: want 0 to 1":       func(o *Options) { o.FlipProb = 2 },
		"batch":                          func(o *Options) { o.Config.BatchSize = 0 },
	} {
		o := testOptions(t, out)
		change(&o)
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: made %s", want, out)
		}
	}
	if err := os.Mkdir(out, 0o777); err != nil {
		t.Fatal(err)
	}
	lock, err := disk.TryLock(filepath.Join(out, ".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Remove()
	if _, err := Run(t.Context(), testOptions(t, out)); lock.Held() && !errors.As(err, new(*InUseError)) {
		t.Errorf("error %v of a folder in use", err)
	}
}
