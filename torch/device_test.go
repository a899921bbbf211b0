package torch_test

import (
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// The program runs where the NVIDIA libraries are missing, and can say why CUDA is off.
func TestLoadsWithoutNvidiaLibs(t *testing.T) {
	if err := torch.Available(); err != nil {
		t.Fatal(err)
	}
	n, why := torch.CUDAStatus()
	if n > 0 {
		t.Skipf("this machine has %d usable GPU(s)", n)
	}
	if why == nil || len(why.Error()) < 10 || strings.Contains(why.Error(), "\n") {
		t.Fatalf("the reason why CUDA is off is %v", why)
	}
	if _, err := torch.ParseDevice("cuda"); err == nil || !strings.Contains(err.Error(), why.Error()) {
		t.Errorf("ParseDevice does not give the reason: %v", err)
	}
	if dev, err := torch.ParseDevice("auto"); dev != torch.CPU || err != nil {
		t.Errorf("auto is %v (%v), want the CPU", dev, err)
	}
	err := torch.Run(torch.CUDA(0), func(s *torch.Scope) error { s.Ones(torch.Float32, 1); return nil })
	if err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a tensor on a GPU that is not there: %v", err)
	}
	if _, err := torch.NewGenerator(torch.CUDA(0), 1); err == nil {
		t.Error("a generator on a GPU that is not there")
	}
	if err := torch.Run(torch.CPU, func(s *torch.Scope) error { return chain(s, 1) }); err != nil {
		t.Error(err)
	}
}

func TestParseDevice(t *testing.T) {
	if dev, err := torch.ParseDevice("cpu"); err != nil || dev != torch.CPU || dev.IsCUDA() || dev.String() != "cpu" {
		t.Errorf("cpu: %v, %v", dev, err)
	}
	if s := torch.CUDA(3).String(); s != "cuda:3" {
		t.Errorf("CUDA(3) is %q", s)
	}
	for _, name := range []string{"", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda:1000"} {
		if _, err := torch.ParseDevice(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("device %q: error %v", name, err)
		}
	}
}

func TestLibraryFacts(t *testing.T) {
	dev := torchtest.Device(t)
	if s := torch.BuildInfo(); !strings.HasPrefix(s, "libtorch 2.") {
		t.Errorf("BuildInfo is %q", s)
	}
	if s := torch.Library(); !strings.HasSuffix(s, "libditshim.so") {
		t.Errorf("Library is %q", s)
	}
	for _, d := range []torch.DType{torch.Float32, torch.Float64, torch.Float16, torch.BFloat16, torch.Int64,
		torch.Int32, torch.Uint8, torch.Bool} {
		err := torch.Run(dev, func(s *torch.Scope) error {
			if x := s.Zeros(d, 3); x.DType() != d || len(x.Bytes()) != 3*d.Size() {
				t.Errorf("zeros of %v are %v of %d bytes", d, x, len(x.Bytes()))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	// A thread count set once holds on threads that have not computed before.
	before := torch.NumThreads()
	defer torch.SetNumThreads(before)
	torch.SetNumThreads(1)
	torchtest.Run(t, func(s *torch.Scope) error {
		done := make(chan int)
		go func() {
			torch.Run(dev, func(*torch.Scope) error { done <- torch.NumThreads(); return nil })
		}()
		if n := <-done; n != 1 {
			t.Errorf("another thread uses %d threads, want 1", n)
		}
		s.Synchronize()
		return nil
	})
}

// On the CPU it is not known; on a GPU it grows with what is held and falls by a reset alone.
func TestPeakMemory(t *testing.T) {
	dev := torchtest.Device(t)
	if got := torch.CPU.TotalMemory(); got != 0 {
		t.Errorf("%d bytes of the CPU", got)
	}
	if got := torch.CPU.PeakMemory(); got != 0 {
		t.Errorf("of the CPU: %d", got)
	}
	if err := torch.CUDA(1000).Synchronize(); err == nil {
		t.Error("a GPU that is not there was waited for")
	}
	if !dev.IsCUDA() {
		t.Skip("the rest needs a GPU")
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		before := dev.PeakMemory()
		s.Sub(func(s *torch.Scope) *torch.Tensor { s.Zeros(torch.Uint8, int(before)+1<<20); return nil })
		if peak := dev.PeakMemory(); peak < before+1<<20 || peak > 2*before+64<<20 {
			t.Errorf("%d bytes, then %d with %d more", before, peak, before+1<<20)
		}
		if dev.ResetPeakMemory(); dev.PeakMemory() > before {
			t.Errorf("%d bytes after a reset, %d before", dev.PeakMemory(), before)
		}
		return nil
	})
}
