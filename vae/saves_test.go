package vae

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// after yields the batches that follow the first n of rectangles, and fails where there would be batch number end.
func after(n, end int) iter.Seq2[*Batch, error] {
	return func(yield func(*Batch, error) bool) {
		i := 0
		for b := range rectangles(4, 16) {
			if i == end {
				yield(nil, errors.New("a picture vanished"))
				return
			}
			if i >= n && !yield(b, nil) {
				return
			}
			i++
		}
	}
}

// resumed continues the save in dir to the end and returns the weights.
func resumed(t *testing.T, dir string, cfg TrainConfig) []byte {
	t.Helper()
	st, err := ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Train(t.Context(), torchtest.Device(t), cfg, Saves{Dir: dir, Every: 4, Resume: st},
		after(st.Step, -1), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	return weights(m)
}

func step(t *testing.T, dir string) int {
	t.Helper()
	st, err := ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	return st.Step
}

// Whatever ends a run, it goes on with the bits of one that nothing ended.
func TestContinuedTrainingIsBitEqual(t *testing.T) {
	if torchtest.Device(t).IsCUDA() {
		t.Skip("cuDNN's gradients do not repeat")
	}
	for _, decay := range []float64{0, 0.9} {
		cfg := testTrainConfig(t, 14)
		cfg.EMADecay = decay
		m, err := Train(t.Context(), torchtest.Device(t), cfg, Saves{}, after(0, -1), nil)
		if err != nil {
			t.Fatal(err)
		}
		want := weights(m)
		m.Close()
		live := torch.Live()

		// Killed after step 9: what was there is the save of step 8.
		dir, killed := filepath.Join(t.TempDir(), "new", "training"), filepath.Join(t.TempDir(), "training")
		var saves []int
		m, err = Train(t.Context(), torchtest.Device(t), cfg,
			Saves{Dir: dir, Every: 4, OnSave: func(n int) { saves = append(saves, n) }}, after(0, -1), func(s Step) {
				if s.Step == 9 {
					if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
						t.Error(err)
					}
				}
			})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(weights(m), want) {
			t.Error("saving changes the weights")
		}
		m.Close()
		if len(saves) != 5 || saves[0] != 0 || saves[3] != 12 || saves[4] != 14 {
			t.Errorf("saves at steps %d", saves)
		}
		if n := step(t, killed); n != 8 {
			t.Errorf("killed after step 9 it goes on at %d", n)
		}
		if !bytes.Equal(resumed(t, killed, cfg), want) {
			t.Errorf("decay %v: killed and continued it has other weights", decay)
		}
		// At the end there is nothing left to train.
		if !bytes.Equal(resumed(t, dir, cfg), want) {
			t.Errorf("decay %v: continued at its end it has other weights", decay)
		}

		// An error of the pictures.
		m, err = Train(t.Context(), torchtest.Device(t), cfg, Saves{Dir: dir, Every: 4}, after(0, 6), nil)
		if err == nil || !strings.Contains(err.Error(), "a picture vanished") || m != nil {
			t.Fatalf("error %v", err)
		}
		if n := step(t, dir); n != 6 {
			t.Errorf("an error after step 6 leaves a save of step %d", n)
		}
		if !bytes.Equal(resumed(t, dir, cfg), want) {
			t.Errorf("decay %v: continued after an error it has other weights", decay)
		}

		// An interrupt, which gives the averages away: the save has the weights.
		ctx, cancel := context.WithCancel(t.Context())
		m, err = Train(ctx, torchtest.Device(t), cfg, Saves{Dir: dir, Every: 100}, after(0, -1), func(s Step) {
			if s.Step == 7 {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) || m == nil {
			t.Fatalf("error %v", err)
		}
		m.Close()
		if n := step(t, dir); n != 7 {
			t.Errorf("an interrupt after step 7 leaves a save of step %d", n)
		}
		if !bytes.Equal(resumed(t, dir, cfg), want) {
			t.Errorf("decay %v: continued after an interrupt it has other weights", decay)
		}
		if n := torch.Live(); n != live {
			t.Errorf("%d tensors leaked", n-live)
		}
	}
}

// Weights that came to nothing do not replace a save, and a run without a step leaves none.
func TestWhatIsNotSaved(t *testing.T) {
	cfg := testTrainConfig(t, 30)
	cfg.LR, cfg.WarmupSteps, cfg.LogEvery = 1e30, 0, 3
	dir := filepath.Join(t.TempDir(), "training")
	if _, err := Train(t.Context(), torchtest.Device(t), cfg, Saves{Dir: dir, Every: 1}, after(0, -1),
		nil); err == nil || !strings.Contains(err.Error(), "the loss is NaN") {
		t.Fatalf("error %v", err)
	}
	if st, err := ReadState(dir); err == nil && st.Step > 1 {
		t.Errorf("a save of step %d, whose loss is not finite", st.Step)
	}
	dir = filepath.Join(t.TempDir(), "training")
	if _, err := Train(t.Context(), torchtest.Device(t), cfg, Saves{Dir: dir, Every: 1}, after(0, 0),
		nil); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a run without a step leaves %s (%v)", dir, err)
	}
	cfg.LogEvery = 30
	if _, err := Train(t.Context(), torchtest.Device(t), cfg, Saves{Dir: dir, Every: 100}, after(0, 5),
		nil); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a run that diverged before its first save leaves %s (%v)", dir, err)
	}
}

// A place that cannot be written is found before the first step; later a failed save is told, and training goes on.
func TestFailedSaves(t *testing.T) {
	cfg := testTrainConfig(t, 8)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	steps := 0
	_, err := Train(t.Context(), torchtest.Device(t), cfg, Saves{Dir: filepath.Join(file, "training"), Every: 2},
		after(0, -1), func(Step) { steps++ })
	if err == nil || !strings.Contains(err.Error(), "save VAE: ") || steps > 0 {
		t.Errorf("%d steps, error %v", steps, err)
	}

	parent := filepath.Join(t.TempDir(), "out")
	dir := filepath.Join(parent, "training")
	var told []error
	var saves []int
	m, err := Train(t.Context(), torchtest.Device(t), cfg,
		Saves{Dir: dir, Every: 2, Pauses: []time.Duration{time.Millisecond},
			OnSave: func(n int) { saves = append(saves, n) }, OnError: func(err error) { told = append(told, err) }},
		after(0, -1), func(s Step) {
			switch s.Step { // the folder is gone while steps 4 and 6 are saved
			case 3:
				os.Rename(parent, parent+".away")
			case 6:
				os.Rename(parent+".away", parent)
			}
		})
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	if len(told) != 2 || !strings.Contains(told[0].Error(), "save VAE of step 4: ") ||
		!errors.Is(told[1], syscall.ENOENT) {
		t.Errorf("told %v", told)
	}
	if len(saves) != 3 || saves[2] != 8 || step(t, dir) != 8 {
		t.Errorf("saves of steps %d", saves)
	}
}

// Every file of a save is checked, and the run that goes on is the run that was.
func TestDamagedSaves(t *testing.T) {
	cfg := testTrainConfig(t, 6)
	cfg.EMADecay = 0.5
	dir := filepath.Join(t.TempDir(), "training")
	if _, err := Train(t.Context(), torchtest.Device(t), cfg, Saves{Dir: dir, Every: 2}, after(0, 3),
		nil); err == nil {
		t.Fatal("no error")
	}
	if _, err := ReadState(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no save: %v", err)
	}
	damage := func(name string, change func(b []byte) []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, change(bytes.Clone(b)), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadState(dir); err == nil || errors.Is(err, fs.ErrNotExist) ||
			!strings.Contains(err.Error(), "resume from "+dir) {
			t.Errorf("%s: error %v", name, err)
		}
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		step(t, dir) // whole again
	}
	for _, name := range []string{WeightsName, averageName, optimizerName, ConfigName} {
		damage(name, func(b []byte) []byte { b[len(b)-3] ^= 1; return b })
		damage(name, func(b []byte) []byte { return b[:len(b)-1] })
	}
	damage(stateName, func(b []byte) []byte { return bytes.Replace(b, []byte(`"step": 3`), []byte(`"step": 4`), 1) })
	damage(stateName, func(b []byte) []byte { return bytes.Replace(b, []byte(`0.002`), []byte(`0.003`), 1) })
	damage(stateName, func(b []byte) []byte { return b[:len(b)/2] })

	st, err := ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*TrainConfig){
		"trained with max-steps 6, this run has 7":   func(c *TrainConfig) { c.MaxSteps = 7 },
		"trained with ema-decay 0.5, this run has 0": func(c *TrainConfig) { c.EMADecay = 0 },
		"it holds another model":                     func(c *TrainConfig) { c.Model = c.Model.WithLevels(8, 8) },
	} {
		other := cfg
		change(&other)
		if _, err := Train(t.Context(), torchtest.Device(t), other, Saves{Dir: dir, Resume: st}, after(3, -1),
			nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	cfg.LogEvery++
	if err := st.Fits(cfg); err != nil {
		t.Error(err)
	}
	// The weights of a save are a model.
	m, err := Open(dir, torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
}
