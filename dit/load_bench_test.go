package dit

import (
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
)

// zeros is a source of tensors without content.
type zeros []checkpoint.Info

func (z zeros) Tensors() []checkpoint.Info             { return z }
func (zeros) Lookup(string) (checkpoint.Info, bool)    { panic("not asked for") }
func (zeros) ReadAt(p []byte, _ string, _ int64) error { clear(p); return nil }
func (zeros) Verify() error                            { return nil }

// BenchmarkLoadXL2 loads DiT-XL/2 (2.7 GB) from the page cache. x-read-copy is the time over that of reading the
// file in order plus copying it once into fresh memory, the smallest of three interleaved rounds each;
// first-x-read-copy is that of the first load, whose memory is new to the process. anon/model is the peak of
// anonymous memory that loading adds, over the size of the model.
func BenchmarkLoadXL2(b *testing.B) {
	path := filepath.Join(b.TempDir(), "xl2.safetensors")
	meta, err := Info{Config: XL2, ImageSize: 256, ScalingFactor: 0.18215}.metadata()
	if err != nil {
		b.Fatal(err)
	}
	var infos zeros
	for _, p := range XL2.layout() {
		n := int64(4)
		for _, d := range p.shape {
			n *= d
		}
		infos = append(infos, checkpoint.Info{Name: p.name, DType: checkpoint.F32, Shape: p.shape, Size: n})
	}
	if err := checkpoint.Write(path, checkpoint.From(infos), meta); err != nil {
		b.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	plain, load := math.Inf(1), math.Inf(1)
	first, peak := 0.0, 0.0
	for b.Loop() {
		for range 3 {
			plain = min(plain, readAndCopy(b, path, st.Size()))
			debug.FreeOSMemory()
			before := anonymous(b)
			stop := make(chan struct{})
			most := make(chan int64)
			go func() {
				m := int64(0)
				for {
					select {
					case <-stop:
						most <- m
						return
					case <-time.After(5 * time.Millisecond):
						m = max(m, anonymous(b))
					}
				}
			}()
			err := torch.Run(torch.CPU, func(s *torch.Scope) error {
				began := time.Now()
				m, _, err := Open(s, path)
				took := time.Since(began).Seconds()
				load = min(load, took)
				if first == 0 {
					first = took
				}
				if err != nil {
					return err
				}
				nn.Close(m)
				return nil
			})
			close(stop)
			peak = max(peak, float64(<-most-before)/float64(st.Size()))
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(load/plain, "x-read-copy")
	b.ReportMetric(first/plain, "first-x-read-copy")
	b.ReportMetric(load, "s/load")
	b.ReportMetric(peak, "anon/model")
}

// readAndCopy reads a file in order by a small buffer, and copies what was read into fresh memory.
func readAndCopy(b *testing.B, path string, size int64) float64 {
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	began := time.Now()
	into, err := syscall.Mmap(-1, 0, int(size), syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		b.Fatal(err)
	}
	defer syscall.Munmap(into)
	at := 0
	for {
		n, err := f.Read(buf)
		at += copy(into[at:], buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began).Seconds()
}

// anonymous is the anonymous memory of this process in bytes.
func anonymous(b testing.TB) int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip("no /proc here")
	}
	var kib int64
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	fmt.Sscan(rest, &kib)
	return kib << 10
}

// BenchmarkInitXL2 draws the initial weights of DiT-XL/2; init-s is without the time that making the model takes.
func BenchmarkInitXL2(b *testing.B) {
	best := math.Inf(1)
	for b.Loop() {
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			gen, err := torch.NewGenerator(torch.CPU, 0)
			if err != nil {
				return err
			}
			m, err := New(s, XL2)
			if err != nil {
				return err
			}
			defer nn.Close(m)
			began := time.Now()
			m.Init(s, gen)
			best = min(best, time.Since(began).Seconds())
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(best, "init-s")
}
