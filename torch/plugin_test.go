package torch_test

import (
	"embed"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/internal/testtool"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

//go:embed testdata/plugin.c dt.h gen_ops.h shim/plugin.h shim/kernels/block.h
var pluginSources embed.FS

// standIn compiles the stand-in for libditcuda.so and returns the path of it and of its log. On a GPU the test is
// skipped, since libditcuda.so itself is open; without a C compiler it ends as by testtool.Missing.
func standIn(t *testing.T, flags ...string) (library, log string) {
	t.Helper()
	if torchtest.Device(t).IsCUDA() {
		t.Skip("the stand-in for libditcuda.so is for the CPU")
	}
	cc, err := exec.LookPath("cc")
	if err != nil {
		testtool.Missing(t, "no C compiler for the stand-in for libditcuda.so: ", err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, pluginSources); err != nil {
		t.Fatal(err)
	}
	library, log = filepath.Join(dir, "libditcuda.so"), filepath.Join(dir, "log")
	version := strings.TrimPrefix(torch.BuildInfo(), "libtorch ")
	args := append([]string{"-shared", "-fPIC", "-I" + dir, "-I" + filepath.Join(dir, "shim"), "-o", library,
		filepath.Join(dir, "testdata/plugin.c"), `-DLOG="` + log + `"`}, flags...)
	if !strings.Contains(strings.Join(flags, " "), "-DLIBTORCH") {
		args = append(args, `-DLIBTORCH="`+version+`"`)
	}
	if out, err := exec.Command(cc, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { torch.OpenPlugin("none") })
	return library, log
}

// A libditcuda.so that does not fit is not used, and the reason is kept.
func TestPluginThatDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		flags []string
		want  []string
	}{
		"another version":  {[]string{"-DVERSION=99"}, []string{"of version 99, this shim wants version "}},
		"another libtorch": {[]string{`-DLIBTORCH="1.2.3"`}, []string{"for libtorch 1.2.3, this shim for "}},
		"half of it":       {[]string{"-DNO_FILL"}, []string{"has no function dt_plugin_fill"}},
		"a function that nobody has": {[]string{"-Dasprintf=nobody_has"},
			[]string{"undefined symbol: nobody_has"}},
	} {
		library, _ := standIn(t, c.flags...)
		err := torch.OpenPlugin(library)
		if err == nil {
			t.Errorf("%s: it is used", name)
			continue
		}
		for _, part := range append(c.want, library) {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v: want %q in it", name, err, part)
			}
		}
		torchtest.Run(t, func(s *torch.Scope) error {
			wantError(t, replayError(t, s, func() { s.CaptureOnGPU(nil) }), name, "Capture",
				"graphs need libditcuda.so: "+err.Error())
			return nil
		})
	}
	if err := torch.OpenPlugin("/nowhere/libditcuda.so"); err == nil ||
		!strings.Contains(err.Error(), "/nowhere/libditcuda.so is not there") {
		t.Errorf("no library: %v", err)
	}
}

// On the CPU no graph is needed, and without a GPU libditcuda.so is not looked for.
func TestPluginStatus(t *testing.T) {
	graphs, kernels := torch.PluginStatus(torch.CPU)
	if n, _ := torch.CUDAStatus(); n == 0 && (graphs == nil || !strings.Contains(graphs.Error(), "CUDA")) {
		t.Errorf("%v, want the reason that CUDA cannot be used", graphs)
	}
	if kernels == nil || !strings.Contains(kernels.Error(), "not for cpu") {
		t.Errorf("kernels on the CPU: %v", kernels)
	}
}

// Each GPU is asked whether it can start the kernels.
func TestKernelsForSomeGPUs(t *testing.T) {
	for _, c := range []struct {
		flag string
		dev  int
		want string // "": they can be started
	}{
		{"-DKERNELS", 0, ""}, {"-DKERNELS", 1, "cuda:1 is too old"}, {"-DNONE", 0, "it was built without nvcc"},
	} {
		library, _ := standIn(t, c.flag)
		if err := torch.OpenPlugin(library); err != nil {
			t.Fatal(err)
		}
		_, why := torch.PluginStatus(torch.CUDA(c.dev))
		if why == nil && c.want != "" || why != nil && why.Error() != c.want {
			t.Errorf("%s, cuda:%d: %v, want %q", c.flag, c.dev, why, c.want)
		}
	}
}

// A kernel that fails where it is tried first is not used, and a warning says so once.
func TestWarningOfAKernel(t *testing.T) {
	library, _ := standIn(t, "-DBROKEN")
	if err := torch.OpenPlugin(library); err != nil {
		t.Fatal(err)
	}
	add := func() (sum float32) {
		torchtest.Run(t, func(s *torch.Scope) error {
			x := s.Ones(torch.Float32, 1, 2, 4)
			sum = float32(s.Sum(s.GatedAdd(x, s.Ones(torch.Float32, 1, 4), x)).Item())
			return nil
		})
		return sum
	}
	torch.SetFused(false)
	add()
	if texts := torch.TakeWarnings(); len(texts) != 0 || torch.Fused() {
		t.Errorf("without fused operations: %q", texts)
	}
	torch.SetFused(true)
	for range 2 {
		if sum := add(); sum != 16 {
			t.Errorf("the sum is %v, want 16", sum)
		}
	}
	want := "kernel gated_add is wrong on cpu: CUDA error 700 "
	if texts := torch.TakeWarnings(); len(texts) != 1 || !strings.HasPrefix(texts[0], want) || !torch.Fused() {
		t.Errorf("warnings %q, want one that begins with %q", texts, want)
	}
	if texts := torch.TakeWarnings(); texts != nil {
		t.Errorf("again: %q", texts)
	}
}

// What was dropped is freed only when the capture has ended: not where its own scope closes.
func TestCaptureOnGPUReclaimsNothing(t *testing.T) {
	library, log := standIn(t)
	if err := torch.OpenPlugin(library); err != nil {
		t.Fatal(err)
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		var before []byte // of the log
		count := traffic(func() {
			g := s.CaptureOnGPU(func(s *torch.Scope) []*torch.Tensor {
				torch.QueueFree(func() {
					var err error
					if before, err = os.ReadFile(log); err != nil {
						t.Error(err)
					}
				})
				return nil
			})
			defer g.Close()
		})
		if want := (torch.Traffic{Waits: 1}); count != want {
			t.Errorf("the capture: %+v, want %+v", count, want)
		}
		s.Sub(func(*torch.Scope) *torch.Tensor { return nil })
		if !strings.Contains(string(before), "graph_end") {
			t.Errorf("freed after %q, want after graph_end", before)
		}
		return nil
	})
}

// What Go makes of a capture on a GPU: the function is called once, within a capture that ends in every case.
func TestCaptureOnGPU(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		flags   []string
		f       func(s *torch.Scope, x *torch.Tensor)
		op      string // of the *Error; "" where all goes well
		want    string
		wantLog string
	}{
		"all is well": {wantLog: "graph_begin graph_end graph_replay graph_replay graph_free"},
		"the function fails": {f: func(s *torch.Scope, x *torch.Tensor) { s.MatMul(x, x) }, op: "MatMul",
			want: "shapes", wantLog: "graph_begin graph_free of a capture"},
		"it reads back": {f: func(s *torch.Scope, x *torch.Tensor) { x.Bytes() }, op: "Bytes", want: "reads back",
			wantLog: "graph_begin graph_free of a capture"},
		"it panics": {f: func(s *torch.Scope, x *torch.Tensor) { panic(boom) },
			wantLog: "graph_begin graph_free of a capture"},
		"it does not begin": {flags: []string{`-DFAILS="graph_begin"`}, op: "Capture", want: "graph_begin",
			wantLog: "graph_begin"},
		"it does not end": {flags: []string{`-DFAILS="graph_end"`}, op: "Capture", want: "graph_end",
			wantLog: "graph_begin graph_end graph_free"},
		"a replay fails": {flags: []string{`-DFAILS="graph_replay"`}, op: "Replay", want: "graph_replay",
			wantLog: "graph_begin graph_end graph_replay graph_free"},
	} {
		before := torch.Live()
		library, log := standIn(t, c.flags...)
		if err := torch.OpenPlugin(library); err != nil {
			t.Fatal(err)
		}
		calls := 0
		torchtest.Run(t, func(s *torch.Scope) error {
			x := torch.Persist(s.Ones(torch.Float32, 2, 3))
			defer x.Close()
			defer func() {
				if r := recover(); r != nil && r != boom {
					panic(r)
				}
			}()
			e := replayError(t, s, func() {
				g := s.CaptureOnGPU(func(s *torch.Scope) []*torch.Tensor {
					calls++
					if c.f != nil {
						c.f(s, x)
					}
					return []*torch.Tensor{s.Exp(x), nil}
				})
				defer g.Close()
				g.Replay()
				first := g.Results()
				g.Replay()
				if got := g.Results(); got[0] != first[0] || got[1] != nil || got[0].NumElements() != 6 {
					t.Errorf("%s: results %v", name, got)
				}
			})
			if c.op != "" {
				wantError(t, e, name, c.op, c.want)
			} else if e != nil {
				t.Errorf("%s: %v", name, e)
			}
			x.CopyFromBytes(x.Bytes()) // possible again
			return nil
		})
		got, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Split(strings.TrimSpace(string(got)), "\n"), " "); got != c.wantLog {
			t.Errorf("%s: calls %s, want %s", name, got, c.wantLog)
		}
		if want := strings.Count(c.wantLog, "graph_free"); calls > 1 || calls < want {
			t.Errorf("%s: the function was called %d times", name, calls)
		}
		wantLive(t, before, name)
	}
}
