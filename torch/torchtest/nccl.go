package torchtest

import (
	"cmp"
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ditrun/ditrun/internal/testtool"
	"github.com/ditrun/ditrun/torch"
)

// BackendVar in the environment is what [Backend] returns.
const BackendVar = "DITRUN_TEST_BACKEND"

// Backend returns what dist.Open is to be called with in a process of several: NCCL on a GPU, else Gloo.
func Backend(t testing.TB) string {
	t.Helper()
	if dev := Device(t); dev.IsCUDA() {
		return "nccl:" + dev.String()
	}
	return cmp.Or(os.Getenv(BackendVar), "gloo")
}

// Ranks returns what to put into the environment of each of n processes that compute together: on GPUs each gets
// its own. Where there are fewer GPUs the test is skipped.
func Ranks(t testing.TB, n int) func(rank int) string {
	t.Helper()
	dev := Device(t)
	if gpus, _ := torch.CUDAStatus(); dev.IsCUDA() && n > gpus {
		t.Skipf("%d processes want a GPU each, there are %d", n, gpus)
	}
	return func(rank int) string {
		name := dev.String()
		if dev.IsCUDA() {
			name = torch.CUDA(rank).String()
		}
		return "DITRUN_TEST_DEVICE=" + name
	}
}

//go:embed testdata/nccl.c
var fakeNCCL []byte

// FakeNCCL compiles a stand-in for NCCL that works on tensors of the CPU, between processes of this machine. A
// process that has the folder it returns in LD_LIBRARY_PATH takes it for NCCL; testdata/nccl.c says what else it
// can do. On a GPU, where NCCL itself is loaded, the test is skipped; without a C compiler it ends as by
// testtool.Missing.
func FakeNCCL(t testing.TB) string {
	t.Helper()
	if dev := Device(t); dev != torch.CPU {
		t.Skipf("the stand-in for NCCL is for the CPU, tests run on %s", dev)
	}
	cc, err := exec.LookPath("cc")
	if err != nil {
		testtool.Missing(t, "no C compiler for the stand-in for NCCL: ", err)
	}
	dir := t.TempDir()
	source, library := filepath.Join(dir, "nccl.c"), filepath.Join(dir, "libnccl.so.2")
	if err := os.WriteFile(source, fakeNCCL, 0o666); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(cc, "-O1", "-shared", "-fPIC", "-Wl,-soname,libnccl.so.2", "-o", library,
		source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}
