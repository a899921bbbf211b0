package report

import (
	"encoding/json"
	"image"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ditrun/ditrun/diffusion/runs"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func options(results string) runs.Options {
	return runs.Options{
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

func create(t *testing.T, o runs.Options) *Run {
	t.Helper()
	r, err := Create(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func step(n int, loss float64) runs.Step {
	return runs.Step{
		Step: n, Epoch: n / 100, Loss: runs.Number(loss), MSE: runs.Number(loss - 0.001), VB: 0.001, GradNorm: 1.25,
		LR:             1e-4,
		StepsPerSecond: 0.84, ImagesPerSecond: 215.04, TFLOPS: 0.0912, DataWaitShare: 0.012, MemoryBytes: 1300e6,
		Seconds: runs.Number(n),
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

func TestFiles(t *testing.T) {
	var console []string
	r, err := Create(options(t.TempDir()), func(line string) { console = append(console, line) })
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.Printf("Dataset contains %s images (%s)", "60,000", "latents")
	if err := r.Log(step(100, 0.12344)); err != nil {
		t.Fatal(err)
	}
	if got, want := read(t, r.Dir(), "config.yaml"), "model: DiT-XL/2\nlr: 0.0001\n"; got != want {
		t.Errorf("config.yaml:\n%swant\n%s", got, want)
	}
	want := "[2026-11-23 12:00:00] Dataset contains 60,000 images (latents)\n" +
		"[2026-11-23 12:00:00] (step=0000100) Train Loss: 0.1234, Train Steps/Sec: 0.84, Images/Sec: 215, " +
		"TFLOP/s: 0.09, " +
		"Data Wait: 1.2%, Memory: 1.30 GB, Grad Norm: 1.25, LR: 0.0001\n"
	if got := read(t, r.Dir(), "log.txt"); got != want {
		t.Errorf("log.txt:\n%swant\n%s", got, want)
	}
	// The pattern that scripts for DiT's logs use.
	if !regexp.MustCompile(
		`(?m)^\[[-\d]+ [:\d]+\] \(step=(\d{7})\) Train Loss: ([\d.]+), Train Steps/Sec: ([\d.]+)`).MatchString(want) {
		t.Error("log.txt is not in DiT's form")
	}
	if len(console) != 1 || console[0] != "Dataset contains 60,000 images (latents)" {
		t.Errorf("console: %q", console)
	}
	if got, want := read(t, r.Dir(), "log.jsonl"),
		`{"step":100,"epoch":1,"loss":0.12344,"mse":0.12244,"vb":0.001,"grad_norm":1.25,"lr":0.0001,`+
			`"steps_per_second":0.84,"images_per_second":215.04,"tflops":0.0912,`+
			`"data_wait_share":0.012,"saving_share":0,"logging_share":0,`+
			`"memory_bytes":1300000000,"seconds":100,"time":"2026-11-23T12:00:00Z"}`+"\n"; got != want {
		t.Errorf("log.jsonl:\n%swant\n%s", got, want)
	}
	var info map[string]any
	if err := json.Unmarshal([]byte(read(t, r.Dir(), "run.json")), &info); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"model": "DiT-XL/2", "device": "cpu", "config_hash": "abc",
		"run_id": r.ID()} {
		if info[key] != want {
			t.Errorf("run.json: %s is %v, want %v", key, info[key], want)
		}
	}
	if v := info["versions"].(map[string]any); v["libtorch"] != "2.11.0" || v["go"] == "" {
		t.Errorf("run.json: versions %v", v)
	}
	if len(r.ID()) != 36 {
		t.Errorf("run id %q is not a uuid", r.ID())
	}

	path, err := r.Preview(12000, image.NewNRGBA(image.Rect(0, 0, 4, 4)))
	if err != nil || path != filepath.Join(r.Dir(), "samples", "0012000.png") {
		t.Errorf("preview %s: %v", path, err)
	}
	if err := r.PlotLoss(); err != nil {
		t.Error(err)
	}
	for _, p := range []string{path, r.LossPlot(), r.Checkpoints()} {
		if _, err := os.Stat(p); err != nil {
			t.Error(err)
		}
	}
	entries, _ := os.ReadDir(r.Dir())
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".tmp") {
			t.Errorf("left %s", e.Name())
		}
	}
}

func TestLossThatIsNoNumber(t *testing.T) {
	r := create(t, options(t.TempDir()))
	for i, loss := range []float64{math.NaN(), math.Inf(1), 0.5} {
		if err := r.Log(step(i+1, loss)); err != nil {
			t.Fatal(err)
		}
	}
	steps, err := runs.ReadLog(filepath.Join(r.Dir(), "log.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) != 3 || !math.IsNaN(float64(steps[0].Loss)) || !math.IsNaN(float64(steps[1].Loss)) ||
		steps[2].Loss != 0.5 {
		t.Errorf("read back %v", steps)
	}
	if !strings.Contains(read(t, r.Dir(), "log.txt"), "Train Loss: NaN") {
		t.Error("log.txt does not show the NaN")
	}
}

func TestSkippedStepsInTheLine(t *testing.T) {
	s := step(100, 0.12344)
	if line := Line(s); strings.Contains(line, "Skipped") {
		t.Errorf("nothing was skipped: %s", line)
	}
	s.Skipped = 3
	want := "(step=0000100) Train Loss: 0.1234, Train Steps/Sec: 0.84, Images/Sec: 215, TFLOP/s: 0.09, " +
		"Data Wait: 1.2%, Memory: 1.30 GB, Skipped: 3, Grad Norm: 1.25, LR: 0.0001"
	if got := Line(s); got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
}

// Beside a GPU the host's memory has a figure of its own.
func TestMemoryOfHost(t *testing.T) {
	s := step(100, 0.12344)
	s.MemoryBytes, s.HostMemoryBytes = 39.3e9, 1.52e9
	if got, want := Line(s), ", Memory: 39.3 GB, Host Memory: 1.52 GB, "; !strings.Contains(got, want) {
		t.Errorf("%s, want %q in it", got, want)
	}
	if got := ShortLine(s, 0); !strings.HasSuffix(got, ", 39.3 GB") {
		t.Errorf("on the console: %s", got)
	}
	r := create(t, options(t.TempDir()))
	if err := r.Log(s); err != nil {
		t.Fatal(err)
	}
	if got, want := read(t, r.Dir(), "log.jsonl"),
		`"memory_bytes":39300000000,"host_memory_bytes":1520000000,`; !strings.Contains(got, want) {
		t.Errorf("log.jsonl: %s, want %q in it", got, want)
	}
	values := map[string]float64{}
	for _, v := range scalars(s) {
		values[v.Tag] = v.Value
	}
	if values["train/memory_gb"] != 39.3 || values["train/host_memory_gb"] != 1.52 {
		t.Errorf("curves: %v", values)
	}
	url, _ := serve(t, r.Metrics(), "127.0.0.1:0")
	got := scrape(t, url)
	for _, want := range []string{"ditrun_memory_bytes 3.93e+10", "ditrun_host_memory_bytes 1.52e+09"} {
		if !slices.Contains(got, want) {
			t.Errorf("metrics %q, want %q", got, want)
		}
	}
}

func TestShortLine(t *testing.T) {
	s := step(100, 0.12344)
	want := "(step=0000100) Train Loss: 0.1234, 215 images/s, ETA 2h13m, 1.30 GB"
	if got := ShortLine(s, 133*time.Minute); got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
	if got := ShortLine(s, 0); strings.Contains(got, "ETA") {
		t.Errorf("the end is not known: %s", got)
	}
	s.Step, s.ImagesPerSecond, s.MFU, s.MemoryBytes = 7_000_000, 12345, 0.453, 71.2e9
	want = "(step=7000000) Train Loss: 0.1234, 12,345 images/s, ETA 12d03h, MFU 45%, 71.2 GB"
	if got := ShortLine(s, 291*time.Hour); got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
	// Whatever the figures are: what matters most stays.
	s.Loss, s.Skipped, s.DataWaitShare, s.ImagesPerSecond = 123456.789, 1234, 1, 1234567
	got := ShortLine(s, 364*24*time.Hour)
	if len(got) > 80 || !strings.HasPrefix(got,
		"(step=7000000) Train Loss: 123456.7890, 1,234,567 images/s, ETA 364d00h") {
		t.Errorf("%d columns: %s", len(got), got)
	}
	s.Loss = runs.Number(math.NaN())
	if got := ShortLine(s, time.Hour); len(got) > 80 ||
		!strings.Contains(got, "Loss: NaN, 1,234,567 images/s, ETA 1h00m") {
		t.Errorf("%d columns: %s", len(got), got)
	}
}

func TestResumeTruncates(t *testing.T) {
	o := options(t.TempDir())
	r := create(t, o)
	for n := 100; n <= 500; n += 100 {
		s := step(n, 1/float64(n))
		s.Bins = []runs.Number{runs.Number(math.NaN()), runs.Number(n)}
		if err := r.Log(s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Resume(r.Dir(), 300, o, nil); err == nil ||
		!strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a run that is open was opened: %v", err)
	}
	r.Close()
	// What a kill in the middle of a write leaves.
	path := filepath.Join(r.Dir(), "log.jsonl")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"step":600,"los`)
	f.Close()

	o.ConfigHash = "def"
	o.Device = "cuda:0"
	again, err := Resume(r.Dir(), 300, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.Log(step(400, 0.25)); err != nil {
		t.Fatal(err)
	}
	steps, err := runs.ReadLog(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, s := range steps {
		got = append(got, s.Step)
	}
	if len(got) != 4 || got[2] != 300 || got[3] != 400 || steps[3].Loss != 0.25 {
		t.Errorf("steps %v, want 100 200 300 and the new 400", got)
	}
	if len(again.history) != 4 {
		t.Errorf("the loss curve has %d points, want 4", len(again.history))
	}
	if bins := again.history[2].bins; len(bins) != 2 || !math.IsNaN(float64(bins[0])) || bins[1] != 300 {
		t.Errorf("errors by timestep of step 300 are %v, want none and 300", bins)
	}
	if events, _ := filepath.Glob(filepath.Join(r.Dir(), "events.out.tfevents.*")); len(events) != 2 {
		t.Errorf("event files %q, want one of each start", events)
	}
	if again.ID() != r.ID() {
		t.Error("the run id changed")
	}
	info, err := runs.ReadInfo(r.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Resumed) != 1 || info.Resumed[0].Step != 300 || info.Resumed[0].Device != "cuda:0" ||
		info.ConfigHash != "def" || info.Device != "cpu" {
		t.Errorf("run.json after resuming: %+v", info)
	}
	if !strings.Contains(read(t, r.Dir(), "log.txt"), "Resumed at step 0000300") {
		t.Error("log.txt does not say where the run was resumed")
	}
}

func TestRollback(t *testing.T) {
	r := create(t, options(t.TempDir()))
	for n := 10; n <= 50; n += 10 {
		if err := r.Log(step(n, 1/float64(n))); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Rollback(30); err != nil {
		t.Fatal(err)
	}
	if err := r.Log(step(35, 0.25)); err != nil {
		t.Fatal(err)
	}
	steps, err := runs.ReadLog(filepath.Join(r.Dir(), "log.jsonl"))
	if err != nil || len(steps) != 4 || steps[2].Step != 30 || steps[3].Step != 35 {
		t.Errorf("records %v (%v), want 10 20 30 and the new 35", steps, err)
	}
	if len(r.history) != 4 {
		t.Errorf("the loss curve has %d points, want 4", len(r.history))
	}
	events, _ := filepath.Glob(filepath.Join(r.Dir(), "events.out.tfevents.*"))
	// runs.Step 31 in a SessionLog with status START.
	if len(events) != 1 || !strings.Contains(read(t, events[0]), "\x10\x1f\x3a\x02\x08\x01") {
		t.Errorf("event files %q do not take back step 31 and later", events)
	}
	if !strings.Contains(read(t, r.Dir(), "log.txt"), "Went back to step 0000030") {
		t.Error("log.txt does not say that the run went back")
	}
}
