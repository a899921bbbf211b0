package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
	"github.com/ditrun/ditrun/torch"
)

// inEnvironment runs doctor in a process of its own, with these variables and no others of environment, and returns
// what is printed and the same as JSON.
func inEnvironment(t *testing.T, variables ...string) (text string, d diagnosis) {
	t.Helper()
	needTorch(t)
	doctor := func(args ...string) []byte {
		cmd := exec.CommandContext(t.Context(), os.Args[0], append([]string{"doctor", "--no-test", "--device", "cpu"},
			args...)...)
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
			name, _, _ := strings.Cut(v, "=")
			return slices.Contains(environment, name)
		})
		cmd.Env = append(cmd.Env, append(variables, asDitrun+"=1")...)
		out, err := cmd.Output() // a full disk is code 1
		if err != nil && cmd.ProcessState.ExitCode() != exitFailed {
			t.Fatal(err)
		}
		return out
	}
	if err := json.Unmarshal(doctor("--json"), &d); err != nil {
		t.Fatal(err)
	}
	return string(doctor()), d
}

// TestEnvironment: the command sets what nobody has set, and doctor shows it.
func TestEnvironment(t *testing.T) {
	const grows = "expandable_segments:True"
	for _, c := range []struct {
		given []string
		name  string
		want  string
	}{
		{nil, "PYTORCH_ALLOC_CONF", grows},
		{nil, "GOMP_SPINCOUNT", "4000"},
		{nil, "CUBLAS_WORKSPACE_CONFIG", ""},
		{[]string{"OMP_WAIT_POLICY=passive"}, "GOMP_SPINCOUNT", ""},
		{[]string{"PYTORCH_ALLOC_CONF=backend:native"}, "PYTORCH_ALLOC_CONF", "backend:native"},
		{[]string{"PYTORCH_ALLOC_CONF="}, "PYTORCH_ALLOC_CONF", ""},
		{[]string{"PYTORCH_CUDA_ALLOC_CONF=backend:native"}, "PYTORCH_ALLOC_CONF", ""},
		{[]string{"PYTORCH_CUDA_ALLOC_CONF=backend:native"}, "PYTORCH_CUDA_ALLOC_CONF", "backend:native"},
	} {
		text, d := inEnvironment(t, c.given...)
		if got := d.Environment[c.name]; got != c.want {
			t.Errorf("%q: %s is %q, want %q", c.given, c.name, got, c.want)
		}
		if line := " " + c.name + "=" + c.want + "\n"; strings.Contains(text, line) != (c.want != "" ||
			slices.Contains(c.given, c.name+"=")) {
			t.Errorf("%q: doctor prints\n%s", c.given, text)
		}
	}
}

// The kernels of attention are named; on the CPU libtorch's flash attention and, in float32, loops of our own.
func TestDoctorNamesAttention(t *testing.T) {
	text, d := inEnvironment(t)
	if d.Attention["fp32"] != "own loops" || d.Attention["bf16"] != "flash" ||
		!strings.Contains(text, "\nattention   own loops in fp32 and tf32, flash in bf16\n") {
		t.Errorf("%v\n%s", d.Attention, text)
	}
}

// TestDeterminism: cuBLAS gets the workspace that it needs for equal bits, unless the user gave another.
func TestDeterminism(t *testing.T) {
	const name = "CUBLAS_WORKSPACE_CONFIG"
	t.Setenv(name, ":16:8")
	prepareDeterminism()
	if got := os.Getenv(name); got != ":16:8" {
		t.Errorf("the user's became %q", got)
	}
	os.Unsetenv(name) // Setenv restores it
	prepareDeterminism()
	if got := os.Getenv(name); got != ":4096:8" {
		t.Errorf("%q, want :4096:8", got)
	}
}

// TestMemoryOfLogs: beside a GPU, whatever its peak is, the host's memory is not taken for it.
func TestMemoryOfLogs(t *testing.T) {
	if bytes, host := memory(torch.CUDA(0), 5e9); bytes != 5e9 || host < 1e6 {
		t.Errorf("on a GPU: %d, %d", bytes, host)
	}
	if bytes, host := memory(torch.CUDA(0), 0); bytes != 0 || host < 1e6 {
		t.Errorf("on a GPU whose peak is not known: %d, %d", bytes, host)
	}
	if bytes, host := memory(torch.CPU, 0); bytes < 1e6 || bytes > machine.ReadMemory().Total || host != 0 {
		t.Errorf("on the CPU: %d, %d", bytes, host)
	}
}
