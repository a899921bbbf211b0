package runs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ditrun/ditrun/internal/disk"
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
	if _, err := Resume(dir, 1, Options{}); !errors.Is(err, fs.ErrNotExist) ||
		!strings.Contains(err.Error(), "no run.json, so not a run folder") {
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
	if _, err := Resume(r.Dir(), 1, o); err == nil ||
		!strings.Contains(err.Error(), "the run is of DiT-XL/2, want DiT-S/2") {
		t.Errorf("other model: %v", err)
	}
}

// How products are computed is kept for the process that goes on.
func TestProducts(t *testing.T) {
	o := options(t.TempDir())
	r := create(t, o)
	lines := []string{"bias bfloat16 tn 1x2x3 align 16 on A GPU, cuBLASLt 130100 = 00ff"}
	if err := r.SetProducts(lines); err != nil {
		t.Fatal(err)
	}
	r.Close()
	again, err := Resume(r.Dir(), 0, o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := again.Info(); !slices.Equal(got.Products, lines) || got.RunID != r.Info().RunID {
		t.Errorf("%+v", got)
	}
	os.Remove(filepath.Join(r.Dir(), "run.json"))
	if err := again.SetProducts(lines); err != nil || Is(r.Dir()) {
		t.Errorf("the same lines were written again: %v", err)
	}
}

// Records only decorate a run: what is damaged of them is set aside, said, and made again.
func TestResumeWithDamagedRecords(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(dir string) error
		notes  []string
		aside  string // a file that keeps what was damaged
		steps  []int
	}{
		"a line of the log": {func(dir string) error {
			return change(filepath.Join(dir, "log.jsonl"), `{"step":20,`, `{"step:20,`)
		}, []string{"log.jsonl: 1 line cannot be read: set aside in log.jsonl.damaged"}, "log.jsonl.damaged",
			[]int{10, 30}},
		"a torn last line": {func(dir string) error {
			return os.Truncate(filepath.Join(dir, "log.jsonl"), int64(len(read(t, dir, "log.jsonl"))-5))
		}, nil, "", []int{10, 20}},
		"no log": {func(dir string) error { return os.Remove(filepath.Join(dir, "log.jsonl")) }, nil, "", nil},
		"a folder for a log": {func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "log.jsonl")),
				os.Mkdir(filepath.Join(dir, "log.jsonl"), 0o777))
		}, []string{"log.jsonl: is a directory: the log begins anew", "write ", "log.jsonl: is a directory"}, "", nil},
		"run.json": {func(dir string) error {
			return change(filepath.Join(dir, "run.json"), `"model": "`, `"model": `)
		}, []string{"run.json: invalid character", ": the run goes on under a new id, "}, "run.json.damaged",
			[]int{10, 20, 30}},
		"an id": {func(dir string) error {
			return change(filepath.Join(dir, "run.json"), `"run_id"`, `"run_jd"`)
		}, []string{"run.json: no run_id: the run goes on under a new id, "}, "run.json.damaged", []int{10, 20, 30}},
		"no run.json": {func(dir string) error { return os.Remove(filepath.Join(dir, "run.json")) },
			[]string{" has checkpoints and no run.json: the run goes on under a new id, "}, "", []int{10, 20, 30}},
	} {
		o := options(t.TempDir())
		r := create(t, o)
		for n := 10; n <= 30; n += 10 {
			r.Log(step(n, 1/float64(n)))
		}
		os.Mkdir(filepath.Join(r.Checkpoints(), "0000030"), 0o777)
		r.Close()
		if err := c.damage(r.Dir()); err != nil {
			t.Fatal(err)
		}
		again, err := Resume(r.Dir(), 30, o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		notes := strings.Join(again.Notes(), "\n")
		for _, want := range c.notes {
			if !strings.Contains(notes, want) {
				t.Errorf("%s: notes %q, want %q in them", name, notes, want)
			}
		}
		if len(c.notes) == 0 && notes != "" {
			t.Errorf("%s: notes %q, want none", name, notes)
		}
		if c.aside != "" && read(t, r.Dir(), c.aside) == "" {
			t.Errorf("%s: %s is empty", name, c.aside)
		}
		if info, err := ReadInfo(r.Dir()); err != nil || info.Model != "DiT-XL/2" || info.ConfigHash != "abc" ||
			len(info.Resumed) != 1 {
			t.Errorf("%s: run.json: %+v, %v", name, info, err)
		}
		var got []int
		for _, s := range again.Past() {
			got = append(got, s.Step)
		}
		if !slices.Equal(got, c.steps) {
			t.Errorf("%s: records of steps %v, want %v", name, got, c.steps)
		}
		if name == "a folder for a log" {
			if err := again.Log(step(40, 1)); err == nil {
				t.Errorf("%s: it was written to", name)
			}
			os.Remove(filepath.Join(r.Dir(), "log.jsonl"))
		}
		if err := again.Log(step(50, 1)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := ReadLog(filepath.Join(r.Dir(), "log.jsonl")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name == "a folder for a log" && !strings.HasPrefix(read(t, r.Dir(), "log.jsonl"), `{"step":40,`) {
			t.Errorf("%s: the record that waited is missing", name)
		}
		again.Close()
		if dir, err := Latest(o.ResultsDir, "abc", nil); err != nil || dir != r.Dir() {
			t.Errorf("%s: latest is %q, %v", name, dir, err)
		}
	}
}

func change(path, old, new string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(b), old) {
		return fmt.Errorf("%s does not hold %q", path, old)
	}
	return os.WriteFile(path, []byte(strings.Replace(string(b), old, new, 1)), 0o666)
}

// A damaged run.json does not hide its run from Latest.
func TestLatestOfDamagedInfo(t *testing.T) {
	o := options(t.TempDir())
	r := create(t, o)
	r.Close()
	if err := change(filepath.Join(r.Dir(), "run.json"), `"model": "`, `"model": `); err != nil {
		t.Fatal(err)
	}
	if dir, err := Latest(o.ResultsDir, "abc", nil); err != nil || dir != r.Dir() {
		t.Errorf("latest is %q, %v", dir, err)
	}
}

// A run folder that is moved is followed; one that is removed is made again, beside a run that took its place.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	o := options("")
	o.Dir = filepath.Join(dir, "run")
	r := create(t, o)
	r.Log(step(10, 1))
	follow := func(want string) {
		t.Helper()
		news, err := r.Follow()
		if err != nil || news != want {
			t.Errorf("%q, %v, want %q", news, err, want)
		}
	}
	steps := func(n int) {
		t.Helper()
		r.Log(step(n, 1))
		if steps, err := ReadLog(filepath.Join(r.Dir(), "log.jsonl")); err != nil || len(steps) != n/10 {
			t.Errorf("%d records in %s (%v), want %d", len(steps), r.Dir(), err, n/10)
		}
		if info, err := ReadInfo(r.Dir()); err != nil || info.RunID != r.Info().RunID {
			t.Errorf("run.json in %s: %v", r.Dir(), err)
		}
		if _, err := disk.TryLock(filepath.Join(r.Dir(), lockName)); !errors.Is(err, disk.ErrLocked) {
			t.Errorf("%s is not locked: %v", r.Dir(), err)
		}
	}
	follow("")
	moved := filepath.Join(dir, "moved")
	os.Rename(o.Dir, moved)
	follow(fmt.Sprintf("the run folder %s was moved to %s: the run goes on there", o.Dir, moved))
	steps(20)
	os.RemoveAll(moved)
	follow(fmt.Sprintf("the run folder %s is gone, with what was in it: the run goes on in %s", moved, moved))
	steps(30)
	follow("")
	os.RemoveAll(moved)
	o.Dir = moved
	other := create(t, o)
	beside := moved + "-" + r.Info().RunID[:8]
	follow(fmt.Sprintf("the run folder %s is gone, with what was in it: the run goes on in %s", moved, beside))
	steps(40)
	if info, err := ReadInfo(moved); err != nil || info.RunID != other.Info().RunID {
		t.Errorf("the other run: %+v, %v", info, err)
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
	if dir, err := Latest(filepath.Join(results, "none"), "abc", nil); dir != "" || err != nil {
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
	if dir, err := Latest(results, "abc", nil); err != nil || dir != runs[1].Dir() {
		t.Errorf("latest is %q (%v), want %s", dir, err, runs[1].Dir())
	}
	runs[3].Close()
	if dir, err := Latest(results, "abc", nil); err != nil || dir != runs[3].Dir() {
		t.Errorf("latest is %q (%v), want %s", dir, err, runs[3].Dir())
	}
	if dir, err := Latest(results, "none", nil); err != nil || dir != "" {
		t.Errorf("latest is %q (%v), want none", dir, err)
	}
}
