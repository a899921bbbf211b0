package torchtest

import (
	"path/filepath"
	"testing"

	"github.com/ditrun/ditrun/internal/testtool"
	"github.com/ditrun/ditrun/torch"
)

// Emulate has operations on the CPU compute with the CUDA kernels, which an emulator runs, until the test ends: they
// take the way that they take on a GPU. It is slow, and for models of a few small tokens. `make emulator` builds the
// library. On a GPU the test is skipped.
func Emulate(t testing.TB) {
	t.Helper()
	if Device(t).IsCUDA() {
		t.Skip("the emulator of CUDA kernels is for the CPU")
	}
	path := filepath.Join(filepath.Dir(torch.Library()), "libditemulator.so")
	if err := torch.OpenPlugin(path); err != nil {
		testtool.Missing(t, "no emulator of CUDA kernels, run `make emulator`: ", err)
	}
	t.Cleanup(func() {
		torch.OpenPlugin("none")
		for _, text := range torch.TakeWarnings() {
			t.Error(text)
		}
	})
}
