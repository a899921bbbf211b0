package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/ditrun/ditrun/internal/disk"
)

func u8(name, data string) Tensor {
	return Tensor{Info: Info{Name: name, DType: U8, Shape: []int64{int64(len(data))}}, Data: []byte(data)}
}

func encode(t *testing.T, tensors []Tensor, meta map[string]string, opt Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Encode(&b, tensors, meta, opt); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The bytes of the reference writer, as Python's safetensors.torch.save gives
// them for the same tensors (testdata/gen_golden.py).
func TestWriteGolden(t *testing.T) {
	got := encode(t, []Tensor{{Info: Info{Name: "a", DType: F32, Shape: []int64{1}}, Data: []byte("\x00\x00\x80\x3f")}},
		nil, Options{})
	if string(got) != smallest {
		t.Errorf("smallest file:\n%q, want\n%q", got, smallest)
	}
	want, err := os.ReadFile("testdata/golden.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	seq := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i)
		}
		return b
	}
	got = encode(t, []Tensor{
		{Info: Info{Name: "z", DType: U8, Shape: []int64{3}}, Data: seq(3)},
		{Info: Info{Name: "b.weight", DType: F32, Shape: []int64{2, 1}}, Data: seq(8)},
		{Info: Info{Name: "a.weight", DType: F32}, Data: seq(4)},
		{Info: Info{Name: "half", DType: F16, Shape: []int64{2, 0}}, Data: nil},
		{Info: Info{Name: "bf", DType: BF16, Shape: []int64{1}}, Data: seq(2)},
		{Info: Info{Name: "long <&> \u00e9", DType: I64, Shape: []int64{1, 1}}, Data: seq(8)},
		{Info: Info{Name: "double", DType: F64, Shape: []int64{1}}, Data: seq(8)},
		{Info: Info{Name: "int", DType: I32, Shape: []int64{1}}, Data: seq(4)},
		{Info: Info{Name: "bool", DType: Bool, Shape: []int64{1}}, Data: seq(1)},
	}, map[string]string{"format": "pt"}, Options{})
	if !bytes.Equal(got, want) {
		t.Errorf("golden file:\n%q, want\n%q", got, want)
	}
}

func TestWriteOptions(t *testing.T) {
	ts := []Tensor{u8("z", "zzz"), {Info: Info{Name: "a", DType: F32}, Data: []byte("1234")}, u8("m", "mm")}
	f, err := parse(encode(t, ts, map[string]string{"b": "2", "a": "1"}, Options{KeepOrder: true, Align: 4096}))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, info := range f.Tensors() {
		names = append(names, info.Name)
	}
	if got := strings.Join(names, " "); got != "z a m" {
		t.Errorf("order %q, want z a m", got)
	}
	if z, _ := f.Lookup("z"); z.Offset != 4096 {
		t.Errorf("data starts at %d, want 4096", z.Offset)
	}
	a := encode(t, ts, map[string]string{"b": "2", "a": "1"}, Options{})
	b := encode(t, []Tensor{ts[2], ts[0], ts[1]}, map[string]string{"a": "1", "b": "2"}, Options{})
	if !bytes.Equal(a, b) {
		t.Error("the default layout depends on the order given")
	}
}

func TestWriteRefuses(t *testing.T) {
	bad := map[string]string{}
	for i := range 100 {
		bad[fmt.Sprintf("k%02d", i)] = "\xff"
	}
	for _, c := range []struct {
		name    string
		tensors []Tensor
		meta    map[string]string
		opt     Options
		want    string
	}{
		{"size", []Tensor{{Info: Info{Name: "a", DType: F32, Shape: []int64{2, 3}}, Data: make([]byte, 12)}}, nil,
			Options{}, `tensor "a": 12 bytes for shape [2 3] F32, want 24`},
		{"dtype", []Tensor{{Info: Info{Name: "a", DType: "float"}, Data: nil}}, nil, Options{},
			`tensor "a": unknown dtype "float"`},
		{"negative", []Tensor{{Info: Info{Name: "a", DType: U8, Shape: []int64{-1}}, Data: nil}}, nil, Options{},
			"negative dimension"},
		{"duplicate", []Tensor{u8("a", ""), u8("a", "")}, nil, Options{}, `duplicate tensor name "a"`},
		{"reserved", []Tensor{u8("__metadata__", "")}, nil, Options{}, "reserved"},
		{"name", []Tensor{u8("\xff", "")}, nil, Options{}, "not valid UTF-8"},
		{"metadata", nil, map[string]string{"k": "\xff"}, Options{}, "not valid UTF-8"},
		{"much metadata", nil, bad, Options{}, `metadata "k00" is not valid UTF-8`},
		{"align", nil, nil, Options{Align: 12}, "alignment 12 is not a multiple of 8"},
		{"rank", []Tensor{{Info: Info{Name: "a", DType: U8, Shape: make([]int64, 65)}, Data: nil}}, nil, Options{},
			"65 dimensions, at most 64"},
	} {
		var b bytes.Buffer
		err := Encode(&b, c.tensors, c.meta, c.opt)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
		if b.Len() > 0 {
			t.Errorf("%s: %d bytes written before the error", c.name, b.Len())
		}
	}
}

// brokenWriter fails after n bytes, as a full disk does.
type brokenWriter struct{ n int }

func (w *brokenWriter) Write(p []byte) (int, error) {
	if len(p) > w.n {
		n := w.n
		w.n = 0
		return n, syscall.ENOSPC
	}
	w.n -= len(p)
	return len(p), nil
}

func TestEncodeReportsEveryWriteError(t *testing.T) {
	ts := []Tensor{u8("a", "aaaa"), u8("b", "bbbb")}
	whole := len(encode(t, ts, nil, Options{}))
	for n := range whole {
		if err := Encode(&brokenWriter{n}, ts, nil, Options{}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("writer failing after %d bytes: %v", n, err)
		}
	}
	if err := Encode(&brokenWriter{whole}, ts, nil, Options{}); err != nil {
		t.Error(err)
	}
}

// The data goes to the writer as it lies: no copy of a tensor is made.
func TestEncodeDoesNotCopy(t *testing.T) {
	ts := []Tensor{u8("a", strings.Repeat("x", 1<<20))}
	allocated := allocatedBy(func() {
		if err := Encode(io.Discard, ts, nil, Options{}); err != nil {
			t.Error(err)
		}
	})
	if allocated > 1<<14 {
		t.Errorf("%d bytes allocated to write a tensor of 1 MiB", allocated)
	}
}

// listing names the files of a directory.
func listing(t *testing.T, dir string) string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, e := range es {
		s = append(s, e.Name())
	}
	return strings.Join(s, " ")
}

func TestWriteRoundTrip(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m.safetensors")
	meta := map[string]string{"format": "pt", "html": "<&>\u2028"}
	for range 2 { // the second time over an existing file
		if err := Write(path, []Tensor{u8("a", "abc"), u8("b", "")}, meta); err != nil {
			t.Fatal(err)
		}
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if p, err := f.Read("a"); err != nil || string(p) != "abc" {
		t.Errorf("a: %q, %v", p, err)
	}
	if m := f.Metadata(); len(m) != 2 || m["html"] != meta["html"] {
		t.Errorf("metadata %q", m)
	}
	if got := listing(t, dir); got != "m.safetensors" {
		t.Errorf("directory holds %q", got)
	}
}

func TestWriteFileLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	check := func(when string) {
		t.Helper()
		if got := listing(t, dir); got != "f" {
			t.Errorf("%s: directory holds %q", when, got)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
			t.Errorf("%s: file holds %q, %v", when, b, err)
		}
	}
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("no more data")
	err := disk.WriteFile(path, func(w io.Writer) error {
		w.Write(make([]byte, 1<<20))
		if !strings.HasPrefix(listing(t, dir), ".f.") {
			t.Errorf("while writing the directory holds %q", listing(t, dir))
		}
		return failed
	})
	if !errors.Is(err, failed) || err.Error() != "write "+path+": no more data" {
		t.Errorf("error %v", err)
	}
	check("failed write")

	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		disk.WriteFile(path, func(io.Writer) error { panic("boom") })
	}()
	check("panic")

	if err := Write(path, []Tensor{u8("a", "x"), u8("a", "y")}, nil); err == nil {
		t.Error("bad tensors: no error")
	}
	check("bad tensors")
}

// A full disk must give an error, the old file and no temporary one.
func TestWriteFileFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	skipped := make(chan string, 1)
	go func() {
		defer close(skipped)
		// The mount lives in a namespace of this thread alone; the thread is
		// never unlocked, so it and the mount end with the goroutine.
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
			skipped <- "unshare: " + err.Error()
			return
		}
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			skipped <- "mount: " + err.Error()
			return
		}
		if err := syscall.Mount("none", dir, "tmpfs", 0, "size=256k"); err != nil {
			skipped <- "mount: " + err.Error()
			return
		}
		path := filepath.Join(dir, "m.safetensors")
		if err := Write(path, []Tensor{u8("a", "old")}, nil); err != nil {
			t.Error(err)
			return
		}
		err := Write(path, []Tensor{u8("a", strings.Repeat("x", 1<<20))}, nil)
		if !errors.Is(err, syscall.ENOSPC) || err.Error() != "write "+path+`: tensor "a": no space left on device` {
			t.Errorf("full disk: error %v", err)
		}
		if got := listing(t, dir); got != "m.safetensors" {
			t.Errorf("directory holds %q", got)
		}
		f, err := Open(path)
		if err != nil {
			t.Error(err)
			return
		}
		if p, err := f.Read("a"); err != nil || string(p) != "old" {
			t.Errorf("old file: %q, %v", p, err)
		}
		f.Close()
	}()
	if why, ok := <-skipped; ok {
		t.Skip(why)
	}
}
