package machine

import (
	"runtime"
	"testing"
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
