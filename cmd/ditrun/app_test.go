package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/internal/testtool"
	"github.com/ditrun/ditrun/torch"
)

// runSpec runs one command made of s with arguments args.
func runSpec(ctx context.Context, s spec, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	s.name = "work"
	app := newApp(&out, &errs)
	app.Commands = append(app.Commands, newCommand(s))
	code = runApp(ctx, app, append([]string{"ditrun"}, args...))
	return code, out.String(), errs.String()
}

func TestErrorsAndCodes(t *testing.T) {
	interrupted, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	hungUp, cancel := context.WithCancelCause(t.Context())
	cancel(errHangup)
	terminated, cancel := context.WithCancelCause(t.Context())
	cancel(errTerminated)
	for _, c := range []struct {
		name   string
		ctx    context.Context
		err    error
		code   int
		stderr string
	}{
		{"ok", t.Context(), nil, 0, ""},
		{"failed", t.Context(), errors.New("load x: no such file"), 1, "ditrun: error: load x: no such file\n"},
		{"hint", t.Context(), fmt.Errorf("train: %w", withHint(errors.New("disk full"), "free %d GB", 3)), 1,
			"ditrun: error: train: disk full\nditrun: hint: free 3 GB\n"},
		{"usage", t.Context(), withHint(usagef("--lr %g: want more than 0", -1.0), "the paper uses 1e-4"), 2,
			"ditrun: error: --lr -1: want more than 0\nditrun: hint: the paper uses 1e-4\n"},
		{"several lines", t.Context(), errors.New("two tensors:\na\nb\n"), 1,
			"ditrun: error: two tensors:\n  a\n  b\n"},
		{"interrupted", interrupted, fmt.Errorf("train: %w", withHint(context.Canceled, "--resume auto continues")),
			130,
			"ditrun: error: interrupted\nditrun: hint: --resume auto continues\n"},
		{"interrupted and done", interrupted, nil, 0, ""},
		{"terminated", terminated, fmt.Errorf("sample: %w", errTerminated), 143, "ditrun: error: interrupted\n"},
		{"hung up", hungUp, errHangup, 129, "ditrun: error: interrupted\n"},
		{"terminated and saved", terminated, errSaved, 0, ""},
		{"terminated and failed", terminated, errors.New("save: disk full"), 1, "ditrun: error: save: disk full\n"},
		{"interrupted and failed", interrupted, errors.New("save: disk full"), 1, "ditrun: error: save: disk full\n"},
	} {
		code, stdout, stderr := runSpec(c.ctx, spec{run: func(*env) error { return c.err }}, "work")
		if code != c.code || stderr != c.stderr || stdout != "" {
			t.Errorf("%s: code %d, output %q, errors %q, want %d, %q", c.name, code, stdout, stderr, c.code, c.stderr)
		}
	}
}

func TestPanicShowsNoStack(t *testing.T) {
	s := spec{run: func(*env) error { panic("index out of range") }}
	code, _, stderr := runSpec(t.Context(), s, "work")
	want := "ditrun: error: internal: index out of range\n" +
		"ditrun: hint: this is a bug; run again with DITRUN_DEBUG=1 to see where, and report it\n"
	if code != 1 || stderr != want {
		t.Errorf("code %d, errors %q, want 1, %q", code, stderr, want)
	}
	t.Setenv("DITRUN_DEBUG", "1")
	code, _, stderr = runSpec(t.Context(), s, "work")
	if code != 1 || !strings.Contains(stderr, "app_test.go") ||
		!strings.HasSuffix(stderr, "ditrun: error: internal: index out of range\n") {
		t.Errorf("with DITRUN_DEBUG=1: code %d, errors %q", code, stderr)
	}
}

func TestSignalCancels(t *testing.T) {
	ctx := withSignals(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { syscall.Kill(os.Getpid(), syscall.SIGTERM) })
	code, _, stderr := runSpec(ctx, spec{run: func(e *env) error {
		select {
		case <-e.ctx.Done():
			return e.ctx.Err()
		case <-time.After(10 * time.Second):
			return errors.New("no signal came")
		}
	}}, "work")
	if code != 143 || stderr != "ditrun: error: interrupted\n" {
		t.Errorf("code %d, errors %q", code, stderr)
	}
}

func TestOutputStreams(t *testing.T) {
	s := spec{run: func(e *env) error {
		hidden := e.progressBetweenLines("scan", "files", 3) // there is no silence
		hidden.Add(3)
		hidden.Finish()
		bar := e.progress("count", "things", 3)
		bar.Add(1)
		e.printf("%d found", 3)
		e.warn("one is odd")
		bar.Add(2)
		bar.Finish()
		return e.result(map[string]int{"found": 3})
	}}
	bar := "count: 3 things in 0.0s\n"
	for _, c := range []struct{ args, stdout, stderr string }{
		{"work", "3 found\n", "ditrun: warning: one is odd\n" + bar},
		{"--json work", "{\n  \"found\": 3\n}\n", "3 found\nditrun: warning: one is odd\n" + bar},
		{"work --quiet", "", "ditrun: warning: one is odd\n"},
		{"--quiet work --json", "{\n  \"found\": 3\n}\n", "ditrun: warning: one is odd\n"},
		{"--json work --json=false", "3 found\n", "ditrun: warning: one is odd\n" + bar},
	} {
		code, stdout, stderr := runSpec(t.Context(), s, strings.Fields(c.args)...)
		if code != 0 || stdout != c.stdout || stderr != c.stderr {
			t.Errorf("%s: code %d, output %q, errors %q, want 0, %q, %q", c.args, code, stdout, stderr, c.stdout,
				c.stderr)
		}
	}
}

func TestGlobalFlags(t *testing.T) {
	for args, want := range map[string]string{
		"work":                                "auto 0",
		"--device cpu --threads 3 work":       "cpu 3",
		"work --device cuda:1 --threads 2":    "cuda:1 2",
		"--device cpu work --device cuda":     "cuda 0",
		"--threads 4 work --device=cpu":       "cpu 4",
		"--device cuda --threads=1 work":      "cuda 1",
		"-device cpu work -threads 2":         "cpu 2",
		"--threads 4 --device cpu work -json": "cpu 4",
	} {
		got := ""
		code, _, stderr := runSpec(t.Context(), spec{run: func(e *env) error {
			got = fmt.Sprint(e.device, " ", e.threads)
			return nil
		}}, strings.Fields(args)...)
		if code != 0 || got != want {
			t.Errorf("%s: %q, code %d, errors %q, want %q", args, got, code, stderr, want)
		}
	}
}

func TestChecks(t *testing.T) {
	var o struct {
		data, out, flip string
		steps           int
	}
	s := spec{
		flags: []cli.Flag{
			&cli.StringFlag{Name: "data", Destination: &o.data}, &cli.StringFlag{Name: "out", Destination: &o.out},
			&cli.IntFlag{Name: "steps", Destination: &o.steps, Value: 5},
			&cli.StringFlag{Name: "flip", Destination: &o.flip, Value: "both"},
		},
		check: func(func(string) bool) error {
			return errors.Join(require("work", required{"data", o.data}, required{"out", o.out}),
				atLeast(1, "steps", o.steps), oneOf("flip", o.flip, "both", "none"))
		},
		run: func(*env) error { return nil },
	}
	for args, want := range map[string]string{
		"": "ditrun: error: work: --data and --out are required\nditrun: hint: `ditrun " +
			"work --help` shows an example\n",
		"--out x": "ditrun: error: work: --data is required\nditrun: hint: `ditrun work " +
			"--help` shows an example\n",
		"--data= --out x": "ditrun: error: work: --data is required\nditrun: hint: `ditrun work " +
			"--help` shows an example\n",
		"--data x --out y --steps 0":    "ditrun: error: --steps 0: want at least 1\n",
		"--data x --out y --flip twice": "ditrun: error: --flip \"twice\": want both, none\n",
		"--data x --out y":              "",
	} {
		code, _, stderr := runSpec(t.Context(), s, append([]string{"work"}, strings.Fields(args)...)...)
		wantCode := 2
		if want == "" {
			wantCode = 0
		}
		if code != wantCode || stderr != want {
			t.Errorf("%q: code %d, errors %q, want %d, %q", args, code, stderr, wantCode, want)
		}
	}
}

func TestCompletion(t *testing.T) {
	// The cli package looks at os.Args to find the word being completed.
	defer func(saved []string) { os.Args = saved }(os.Args)
	for args, want := range map[string]string{
		"ditrun":                "version\ncompletion\nhelp\n",
		"ditrun doctor --no":    "--no-test\n--no-fused\n",
		"ditrun doctor --dev":   "--device\n",
		"ditrun --device x --q": "--quiet\n",
	} {
		os.Args = append(strings.Fields(args), "--generate-bash-completion")
		var out, errs bytes.Buffer
		run(t.Context(), os.Args, &out, &errs)
		if got := out.String(); !strings.HasSuffix(got, want) || errs.Len() > 0 {
			t.Errorf("%s: completion lists %q, errors %q, want %q", args, got, errs.String(), want)
		}
	}
}

func TestPlural(t *testing.T) {
	if got := plural(1, "class") + ", " + plural(10, "class") + ", " +
		plural(1000, "picture"); got != "1 class, 10 classes, 1,000 pictures" {
		t.Error(got)
	}
}

func TestDoctor(t *testing.T) {
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"ditrun", "doctor", "--json", "--device", "cpu"}, &out, &errs)
	var d diagnosis
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	if d.CPU.Cores < 1 || len(d.Disks) == 0 || d.Versions.Go == "" {
		t.Errorf("found %+v", d)
	}
	if torch.Available() != nil {
		if code != 1 || d.OK || len(d.Problems) == 0 || !strings.Contains(errs.String(), "ditrun: hint: `make build`") {
			t.Errorf("without libtorch: code %d, %+v, errors %q", code, d, errs.String())
		}
		testtool.Missing(t, "libtorch is not there: ", torch.Available())
	}
	if (d.NCCL.Version == "") == (d.NCCL.WhyNot == "") {
		t.Errorf("NCCL is of version %q, or not there: %q", d.NCCL.Version, d.NCCL.WhyNot)
	}
	if code != 0 || !d.OK || len(d.SelfTest) != 3 {
		t.Errorf("code %d, %+v, errors %q", code, d, errs.String())
	}
	for _, r := range d.SelfTest {
		if !r.OK || r.Text == "" {
			t.Errorf("self-test %+v", r)
		}
	}
}

func TestDoctorTellsTheWayOut(t *testing.T) {
	var out, errs bytes.Buffer
	d := diagnosis{}
	d.Libtorch.Error = "libditshim.so not found"
	d.CUDA.WhyNot = "libtorch is not loaded"
	d.print(&env{stdout: &out, stderr: &errs})
	if !strings.Contains(out.String(), "libtorch    MISSING: libditshim.so not found\n") {
		t.Errorf("printed\n%s", out.String())
	}
}

// Where there is a GPU, doctor says whether libditcuda.so helps it.
func TestDoctorTellsOfThePlugin(t *testing.T) {
	for want, set := range map[string]func(d *diagnosis){
		"plugin      libditcuda.so, with kernels\n": func(d *diagnosis) { d.Plugin.Kernels = true },
		"plugin      libditcuda.so, without kernels: it was built without nvcc\n" +
			"            without kernels some operations are slower\n": func(d *diagnosis) {
			d.Plugin.NoKernels = "it was built without nvcc"
		},
		"plugin      no: /lib/libditcuda.so is not there\n" +
			"            without CUDA graphs and kernels, small batches are slow\n": func(d *diagnosis) {
			d.Plugin.WhyNot = "/lib/libditcuda.so is not there"
		},
		"cuda        0 devices\n            no NVIDIA driver\nnccl": func(d *diagnosis) { d.CUDA.Devices = 0 },
	} {
		var out bytes.Buffer
		d := diagnosis{}
		d.CUDA.Devices = 1
		set(&d)
		d.print(&env{stdout: &out})
		if !strings.Contains(out.String(), want) {
			t.Errorf("printed\n%s\nwant %q in it", out.String(), want)
		}
	}
}

func configSpec(run func(*env) error) spec {
	return spec{
		flags: []cli.Flag{
			&cli.StringFlag{Name: "config"},
			&cli.StringFlag{Name: "model", Value: "DiT-XL/2"},
			&cli.Float64Flag{Name: "lr", Value: 1e-4},
			&cli.IntFlag{Name: "max-steps"},
			&cli.BoolFlag{Name: "deterministic"},
			&cli.IntSliceFlag{Name: "class-labels"},
			&cli.StringFlag{Name: "results-dir", Value: "results"},
		},
		run: run,
	}
}

func TestConfigRoundTrip(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	hashes := map[string]string{}
	write := func(name string) func(e *env) error {
		return func(e *env) error {
			node, err := configNode(e.flags)
			if err != nil {
				return err
			}
			hashes[name], err = configHash(e.flags, "results-dir", "device", "threads")
			if err != nil {
				return err
			}
			return os.WriteFile(path, []byte(yamlString(t, node)), 0o666)
		}
	}
	if code, _, stderr := runSpec(t.Context(), configSpec(write("a")), "--threads", "2", "work", "--lr", "0.002",
		"--max-steps=7", "--deterministic", "--class-labels", "3,1"); code != 0 {
		t.Fatal(stderr)
	}
	want := "model: DiT-XL/2\nlr: 0.002\nmax-steps: 7\ndeterministic: true\nclass-labels:\n    - 3\n    - " +
		"1\nresults-dir: results\ndevice: auto\nthreads: 2\nno-fused: false\n"
	data, _ := os.ReadFile(path)
	if string(data) != want {
		t.Errorf("config.yaml:\n%swant\n%s", data, want)
	}
	// Given back, with one value overruled, it is the same but for that value.
	if code, _, stderr := runSpec(t.Context(), configSpec(write("b")), "work", "--config", path, "--results-dir",
		"elsewhere"); code != 0 {
		t.Fatal(stderr)
	}
	data, _ = os.ReadFile(path)
	if got := string(data); got != strings.Replace(want, "results-dir: results", "results-dir: elsewhere", 1) {
		t.Errorf("after the round trip:\n%s", got)
	}
	if hashes["a"] != hashes["b"] || len(hashes["a"]) != 16 {
		t.Errorf("hashes %v differ, though only the results folder does", hashes)
	}
	if code, _, stderr := runSpec(t.Context(), configSpec(write("c")), "work", "--config", path, "--lr",
		"1e-3"); code != 0 {
		t.Fatal(stderr)
	}
	if hashes["a"] == hashes["c"] {
		t.Error("another learning rate has the same hash")
	}
}

// A path keeps its bytes. Editors may put a mark before the file, or write UTF-16.
func TestConfigOfBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	data := "pictures, caf\xe9"
	command := func(run func(*env) error) spec {
		return spec{flags: []cli.Flag{&cli.StringFlag{Name: "config"}, &cli.StringFlag{Name: "data"}}, run: run}
	}
	write := func(e *env) error {
		node, err := configNode(e.flags)
		if err != nil {
			return err
		}
		return os.WriteFile(path, []byte(yamlString(t, node)), 0o666)
	}
	if code, _, stderr := runSpec(t.Context(), command(write), "work", "--data", data); code != 0 {
		t.Fatal(stderr)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wide := []byte{0xff, 0xfe}
	for _, b := range text {
		wide = append(wide, b, 0)
	}
	for name, text := range map[string][]byte{"as written": text, "marked": append([]byte("\ufeff"), text...),
		"UTF-16": wide} {
		if err := os.WriteFile(path, text, 0o666); err != nil {
			t.Fatal(err)
		}
		check := func(e *env) error {
			if got := e.flags.String("data"); got != data {
				t.Errorf("%s: %q, want %q", name, got, data)
			}
			return nil
		}
		if code, _, stderr := runSpec(t.Context(), command(check), "work", "--config", path); code != 0 {
			t.Errorf("%s: %s", name, stderr)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	for text, want := range map[string]string{
		"lr: 1e-3\nmodle: DiT-S/2\n": "line 2: unknown key \"modle\"\nditrun: hint: did you mean model?\n",
		"config: other.yaml\n":       "line 1: unknown key \"config\"\n",
		"lr: fast\n":                 "line 1: lr \"fast\": want a number\n",
		"lr: {a: 1}\n":               "line 1: lr: want a plain value or a list of them\n",
		"lr:\n":                      "line 1: lr: no value\n",
		"lr: 1\nlr: 2\n":             "line 2: \"lr\" stands there twice\n",
		"- lr\n":                     "want a mapping from flag names to values\n",
		"lr: [\n":                    "yaml: ",
	} {
		os.WriteFile(path, []byte(text), 0o666)
		code, _, stderr := runSpec(t.Context(), configSpec(func(*env) error { return nil }), "work", "--config", path)
		if code != 1 || !strings.HasPrefix(stderr, "ditrun: error: config "+path+": ") ||
			!strings.Contains(stderr, want) {
			t.Errorf("%q: code %d, errors %q, want %q", text, code, stderr, want)
		}
	}
	os.Remove(path)
	code, _, stderr := runSpec(t.Context(), configSpec(func(*env) error { return nil }), "work", "--config", path)
	if code != 1 || stderr != "ditrun: error: config "+path+
		": no such file\nditrun: hint: presets are imagenet-256, imagenet-512, pictures-50, pictures-500, "+
		"pictures-5000, pictures-50000, small-gpu\n" {
		t.Errorf("missing file: code %d, errors %q", code, stderr)
	}
	os.WriteFile(path, nil, 0o666)
	if code, _, stderr := runSpec(t.Context(), configSpec(func(*env) error { return nil }), "work", "--config",
		path); code != 0 {
		t.Errorf("empty file: %s", stderr)
	}
}

// TestBarsWithin: a bar of a part of the work, or a wait, gives way to the bar of the whole when it is done; what is
// left at the end of the work is taken away.
func TestBarsWithin(t *testing.T) {
	var whole, wait *progress.Bar
	code, _, stderr := runSpec(t.Context(), spec{run: func(e *env) error {
		whole = e.progress("train", "steps", 3)
		done := e.waiting("writing")
		if wait = e.bar; wait == whole {
			t.Error("the wait has no bar")
		}
		e.printf("a line")
		done()
		done()
		if e.bar != whole {
			t.Error("the bar of the whole did not come back")
		}
		whole.Add(3)
		whole.Finish()
		e.waiting("more")
		e.progress("count", "things", 2) // in place of the wait; it never ends
		return nil
	}}, "work")
	if code != 0 || stderr != "train: 3 steps in 0.0s\n" {
		t.Errorf("code %d, errors %q", code, stderr)
	}
}
