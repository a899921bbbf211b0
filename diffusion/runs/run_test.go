package runs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func options(results string) Options {
	return Options{
		ResultsDir: results,
		Model:      "DiT-XL/2",
		Config: struct {
			Model string  `yaml:"model"`
			LR    float64 `yaml:"lr"`
		}{"DiT-XL/2", 1e-4},
		ConfigHash: "abc",
		Command:    []string{"ditrun", "train", "--data", "a b"},
		Libtorch:   "2.11.0",
		Device:     "cpu",
		Now:        func() time.Time { return noon },
	}
}

func create(t *testing.T, o Options) *Run {
	t.Helper()
	r, err := Create(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func step(n int, loss float64) Step {
	return Step{
		Step: n, Epoch: n / 100, Loss: Number(loss), MSE: Number(loss - 0.001), VB: 0.001, GradNorm: 1.25, LR: 1e-4,
		StepsPerSecond: 0.84, ImagesPerSecond: 215.04, TFLOPS: 0.0912, DataWaitShare: 0.012, MemoryBytes: 1300e6,
		Seconds: Number(n),
	}
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestNumbering(t *testing.T) {
	results := filepath.Join(t.TempDir(), "deep", "results")
	var got []string
	for i, model := range []string{"DiT-XL/2", "DiT-S/8", "DiT-XL/2"} {
		o := options(results)
		o.Model = model
		r := create(t, o)
		got = append(got, filepath.Base(r.Dir()))
		if i == 1 {
			// Neither a removed folder nor a foreign one disturbs the count.
			r.Close()
			os.RemoveAll(filepath.Join(results, got[0]))
			os.Mkdir(filepath.Join(results, "notes"), 0o777)
			os.Mkdir(filepath.Join(results, "006-DiT-B-4"), 0o777)
		}
	}
	if want := "000-DiT-XL-2 001-DiT-S-8 007-DiT-XL-2"; strings.Join(got, " ") != want {
		t.Errorf("folders %v, want %s", got, want)
	}
}

func TestNumberingTogether(t *testing.T) {
	results := t.TempDir()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			model := []string{"DiT-S/2", "DiT-B/2"}[i%2]
			if _, err := number(results, model); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	entries, _ := os.ReadDir(results)
	seen := map[string]bool{}
	for _, e := range entries {
		seen[e.Name()[:3]] = true
	}
	if len(seen) != 16 {
		t.Errorf("%d numbers for 16 runs: %v", len(seen), entries)
	}
}

func TestResumeErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Resume(dir, 1, Options{}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no run.json, so not a run folder") {
		t.Errorf("empty folder: %v", err)
	}
	os.WriteFile(filepath.Join(dir, "run.json"), []byte("{}"), 0o666)
	if _, err := Resume(dir, 1, Options{}); err == nil || !strings.Contains(err.Error(), "no run_id") {
		t.Errorf("foreign run.json: %v", err)
	}
	r := create(t, options(t.TempDir()))
	r.Log(step(1, 1))
	r.Close()
	o := options("")
	o.Model = "DiT-S/2"
	if _, err := Resume(r.Dir(), 1, o); err == nil || !strings.Contains(err.Error(), "the run is of DiT-XL/2, want DiT-S/2") {
		t.Errorf("other model: %v", err)
	}
	path := filepath.Join(r.Dir(), "log.jsonl")
	broken := "not json\n" + read(t, path)
	os.WriteFile(path, []byte(broken), 0o666)
	if _, err := Resume(r.Dir(), 1, options("")); err == nil || !strings.Contains(err.Error(), "log.jsonl: line 1: ") {
		t.Errorf("broken log: %v", err)
	}
	if read(t, path) != broken {
		t.Error("a log that could not be read was rewritten")
	}
}

func TestCreateInNamedFolder(t *testing.T) {
	o := options("")
	o.Dir = filepath.Join(t.TempDir(), "mine")
	r := create(t, o)
	if r.Dir() != o.Dir {
		t.Errorf("folder %s", r.Dir())
	}
	r.Close()
	if _, err := Create(o); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a folder with a run was taken: %v", err)
	}
}

func TestLatest(t *testing.T) {
	results := t.TempDir()
	if dir, err := Latest(filepath.Join(results, "none"), "abc"); dir != "" || err != nil {
		t.Errorf("no results folder: %q, %v", dir, err)
	}
	var runs []*Run
	for _, hash := range []string{"abc", "abc", "other", "abc"} {
		o := options(results)
		o.ConfigHash = hash
		runs = append(runs, create(t, o))
	}
	for _, r := range runs[:3] {
		r.Close()
	}
	// The last is open, the third another configuration.
	if dir, err := Latest(results, "abc"); err != nil || dir != runs[1].Dir() {
		t.Errorf("latest is %q (%v), want %s", dir, err, runs[1].Dir())
	}
	runs[3].Close()
	if dir, err := Latest(results, "abc"); err != nil || dir != runs[3].Dir() {
		t.Errorf("latest is %q (%v), want %s", dir, err, runs[3].Dir())
	}
	if dir, err := Latest(results, "none"); err != nil || dir != "" {
		t.Errorf("latest is %q (%v), want none", dir, err)
	}
}
