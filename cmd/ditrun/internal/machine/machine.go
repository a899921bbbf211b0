// Package machine finds out what the command runs on. It never fails: what
// cannot be found is zero or empty, and shown as unknown. Memory and the
// processor's name come from /proc and so are known on Linux only.
package machine

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/cpu"
)

// CPU describes the processor.
type CPU struct {
	Model string `json:"model"`
	// Cores is how many the process may use, which can be fewer than there are.
	Cores int `json:"cores"`
	// Features are the vector instructions that make libtorch fast.
	Features []string `json:"features"`
}

// ReadCPU describes this machine's processor.
func ReadCPU() CPU {
	c := CPU{Model: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), Features: []string{}}
	if c.Model == "" {
		c.Model = runtime.GOARCH
	}
	for _, f := range []struct {
		name string
		has  bool
	}{
		{"AVX2", cpu.X86.HasAVX2},
		{"FMA", cpu.X86.HasFMA},
		{"AVX512", cpu.X86.HasAVX512},
		{"AVX512-VNNI", cpu.X86.HasAVX512VNNI},
		{"AVX512-BF16", cpu.X86.HasAVX512BF16},
		{"AMX-BF16", cpu.X86.HasAMXBF16},
		{"NEON", cpu.ARM64.HasASIMD},
		{"SVE", cpu.ARM64.HasSVE},
	} {
		if f.has {
			c.Features = append(c.Features, f.name)
		}
	}
	return c
}

// Memory is the main memory in bytes, within the limit set for the process's
// container if there is one.
type Memory struct {
	Total     int64 `json:"total_bytes"`
	Available int64 `json:"available_bytes"`
}

// ReadMemory reads the memory's size.
func ReadMemory() Memory {
	m := Memory{kilobytes("/proc/meminfo", "MemTotal"), kilobytes("/proc/meminfo", "MemAvailable")}
	limit, used := number("/sys/fs/cgroup/memory.max"), number("/sys/fs/cgroup/memory.current")
	cache := statistic("/sys/fs/cgroup/memory.stat", "inactive_file")
	if limit == 0 { // the older form of control groups
		limit, used = number("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
			number("/sys/fs/cgroup/memory/memory.usage_in_bytes")
		cache = statistic("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file")
	}
	used -= cache // of files, which gives way: so MemAvailable counts too
	if limit > 0 && limit < m.Total {
		m.Total, m.Available = limit, min(m.Available, max(limit-used, 0))
	}
	return m
}

// Resident returns the memory that the process occupies, in bytes.
func Resident() int64 { return kilobytes("/proc/self/status", "VmRSS") }

// PeakResident returns the most memory that the process occupied since [ResetPeakResident], or since it began.
func PeakResident() int64 { return kilobytes("/proc/self/status", "VmHWM") }

// ResetPeakResident begins the time that [PeakResident] is about. It has no effect where the system does not let a
// process do so.
func ResetPeakResident() {
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

// NVIDIADriver returns the version of the NVIDIA driver, or "".
func NVIDIADriver() string {
	data, err := os.ReadFile("/proc/driver/nvidia/version")
	if err != nil {
		return ""
	}
	for _, word := range strings.Fields(string(data)) {
		if strings.Count(word, ".") >= 1 && word[0] >= '0' && word[0] <= '9' {
			return word
		}
	}
	return "of unknown version"
}

// LoadedLibrary returns the path of the shared library with this file name
// that is mapped into the process, or "".
func LoadedLibrary(name string) string {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// A path may hold spaces; it starts at the first slash.
		if i := strings.IndexByte(lines.Text(), '/'); i >= 0 && filepath.Base(lines.Text()[i:]) == name {
			return lines.Text()[i:]
		}
	}
	return ""
}

// field returns the value of the first line "name : value" of a file.
func field(path, name string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(data) {
		if key, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func kilobytes(path, name string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(field(path, name), " kB"), 10, 64)
	return n * 1024
}

// statistic returns the number of the first line "name number" of a file.
func statistic(path, name string) int64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(data) {
		if value, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			n, _ := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			return n
		}
	}
	return 0
}

func number(path string) int64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return n
}
