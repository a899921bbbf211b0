package machine

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRead(t *testing.T) {
	if c := ReadCPU(); c.Cores < 1 || c.Model == "" {
		t.Errorf("processor: %+v", c)
	}
	if got := LoadedLibrary("no-such-library.so"); got != "" {
		t.Errorf("found %s", got)
	}
	if runtime.GOOS != "linux" {
		t.Skip("memory is known on Linux only")
	}
	m := ReadMemory()
	if m.Total < 1<<26 || m.Available <= 0 || m.Available > m.Total {
		t.Errorf("memory: %+v", m)
	}
	if r := Resident(); r < 1<<20 || r > m.Total {
		t.Errorf("resident: %d", r)
	}
}

// The statistics of a control group have names that begin alike.
func TestStatistic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory.stat")
	text := "inactive_file_x 1\ninactive_anon 2\ninactive_file 4096\n"
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{"inactive_file": 4096, "active_file": 0} {
		if got := statistic(path, name); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
}

// TestPeakResident: what was used and given back counts until the peak is reset.
func TestPeakResident(t *testing.T) {
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Skipf("this system does not let a process reset its peak: %v", err)
	}
	const size = 256 << 20
	before := PeakResident()
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < size; i += 4096 {
		b[i] = 1
	}
	if err := unix.Munmap(b); err != nil {
		t.Fatal(err)
	}
	peak := PeakResident()
	if before < 1<<20 || peak < size {
		t.Errorf("the peak is %d, before %d bytes more it was %d", peak, size, before)
	}
	ResetPeakResident()
	if got := PeakResident(); got > peak-size/2 {
		t.Errorf("after a reset the peak is %d, before it was %d", got, peak)
	}
}
