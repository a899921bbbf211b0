package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func put(t *testing.T, content string, elem ...string) {
	t.Helper()
	path := filepath.Join(elem...)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestWriteFileBadPaths(t *testing.T) {
	dir := t.TempDir()
	ok := func(w io.Writer) error { _, err := w.Write([]byte("x")); return err }
	sub := filepath.Join(dir, "sub")
	if err := os.MkdirAll(filepath.Join(sub, "kept"), 0o777); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"empty": "", "directory": sub + "/", "missing directory": filepath.Join(dir, "no", "f"),
		"existing directory": sub,
	} {
		if err := WriteFile(path, ok); err == nil || !strings.HasPrefix(err.Error(), "write "+path+": ") ||
			strings.Contains(err.Error(), ".tmp") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if got := names(t, dir); got != "sub" {
		t.Errorf("directory holds %q", got)
	}
}

// TestMain lets the test be the process that is killed while it writes.
func TestMain(m *testing.M) {
	if path := os.Getenv("DISK_TEST_WRITE"); path != "" {
		wait := func() { fmt.Println("writing"); time.Sleep(time.Minute) }
		if os.Getenv("DISK_TEST_FOLDER") != "" {
			WriteFolder(path, func(dir string) error { wait(); return nil })
		}
		WriteFile(path, func(w io.Writer) error { wait(); return nil })
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// What a killed process left is swept; what a living one writes is not.
func TestSweep(t *testing.T) {
	for _, kind := range []string{"file", "folder"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "out.x")
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "DISK_TEST_WRITE="+path)
		if kind == "folder" {
			cmd.Env = append(cmd.Env, "DISK_TEST_FOLDER=1")
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("writing"))); err != nil {
			t.Fatal(err)
		}
		put(t, "", dir, ".other.x.123-ABCDEFGH.tmp")
		put(t, "", dir, ".out.x.4711.tmp") // as older versions named them
		put(t, "", dir, ".out.x.tmp-815")
		put(t, "", dir, ".out.x")
		put(t, "", dir, "out.x.1-ABCDEFGH.tmp")
		Sweep(path)
		if got := strings.Fields(names(t, dir)); len(got) != 4 || !strings.HasPrefix(got[2], ".out.x.") ||
			!IsTemporary(got[2]) {
			t.Errorf("%s: while it is written the folder holds %q", kind, got)
		}
		cmd.Process.Kill()
		cmd.Wait()
		Sweep(path)
		if got := names(t, dir); got != ".other.x.123-ABCDEFGH.tmp .out.x out.x.1-ABCDEFGH.tmp" {
			t.Errorf("%s: after a kill the folder holds %q", kind, got)
		}
		SweepFolder(dir)
		if got := names(t, dir); got != ".out.x out.x.1-ABCDEFGH.tmp" {
			t.Errorf("%s: after SweepFolder the folder holds %q", kind, got)
		}
	}
}

func TestWriteFolder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	write := func(content string, fail error) func(string) error {
		return func(dir string) error {
			put(t, content, dir, "f")
			return fail
		}
	}
	content := func() string {
		b, _ := os.ReadFile(filepath.Join(path, "f"))
		return string(b)
	}
	failed := errors.New("no more data")
	if err := WriteFolder(path, write("1", failed)); !errors.Is(err, failed) || names(t, dir) != "" {
		t.Errorf("a failed write: %v, the folder holds %q", err, names(t, dir))
	}
	if err := os.Mkdir(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := WriteFolder(path, write("2", nil)); err != nil || content() != "2" {
		t.Errorf("in place of an empty folder: %v, %q", err, content())
	}
	if err := WriteFolder(path, write("3", nil)); err == nil || err.Error() != "write "+path+
		": the folder is not empty" || content() != "2" {
		t.Errorf("in place of a folder that is not empty: %v, %q", err, content())
	}
	if err := ReplaceFolder(path, write("4", nil)); err != nil || content() != "4" {
		t.Errorf("replaced: %v, %q", err, content())
	}
	if err := ReplaceFolder(path, write("5", failed)); !errors.Is(err, failed) || content() != "4" {
		t.Errorf("a failed replacement: %v, %q", err, content())
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		WriteFolder(filepath.Join(dir, "p"), func(string) error { panic("boom") })
	}()
	if got := names(t, dir); got != "out" {
		t.Errorf("the folder holds %q", got)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm()&0o700 != 0o700 {
		t.Errorf("mode %v (%v)", st.Mode(), err)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	a, err := TryLock(path)
	if err != nil || !a.Held() {
		t.Fatalf("held %v, %v", a.Held(), err)
	}
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("a second holder: %v", err)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Millisecond, errors.New("enough"))
	defer cancel()
	if _, err := WaitLock(ctx, path); err == nil || err.Error() != "enough" {
		t.Errorf("waiting: %v", err)
	}
	a.Unlock()
	a.Unlock()
	b, err := TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	b.Remove()
	if _, err := os.Stat(path); err == nil {
		t.Error("Remove left the file")
	}
	if _, err := TryLock(filepath.Join(path, "none", "l")); err == nil || strings.Count(err.Error(), path) != 1 {
		t.Errorf("in no folder: %v", err)
	}
}

func TestSharedLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	if _, err := TryShare(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	put(t, "x", path)
	a, err := TryShare(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := TryShare(path)
	if err != nil || !a.Held() || !b.Held() {
		t.Fatalf("held %v, %v, %v", a.Held(), b.Held(), err)
	}
	a.Unlock()
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("alone beside one that shares: %v", err)
	}
	b.Unlock()
	c, err := TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Unlock()
	if _, err := TryShare(path); !errors.Is(err, ErrLocked) {
		t.Errorf("sharing with one who is alone: %v", err)
	}
}

// Holders that remove the file when done never hold two at a time.
func TestLockRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	var wg sync.WaitGroup
	var inside sync.Mutex
	for range 8 {
		wg.Go(func() {
			for range 50 {
				l, err := TryLock(path)
				if errors.Is(err, ErrLocked) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if !inside.TryLock() {
					t.Error("two holders")
				} else {
					inside.Unlock()
				}
				l.Remove()
			}
		})
	}
	wg.Wait()
}

func TestRetry(t *testing.T) {
	calls := 0
	pauses := []time.Duration{time.Microsecond, time.Microsecond}
	full := &os.PathError{Op: "write", Path: "f", Err: syscall.ENOSPC}
	if err := Retry(t.Context(), pauses, func() error {
		if calls++; calls < 3 {
			return full
		}
		return nil
	}); err != nil || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}
	calls = 0
	if err := Retry(t.Context(), pauses, func() error { calls++; return full }); !errors.Is(err, full) || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}
	calls = 0
	if err := Retry(t.Context(), pauses, func() error { calls++; return os.ErrPermission }); !errors.Is(err,
		os.ErrPermission) || calls != 1 {
		t.Errorf("an error that stays: %d calls, %v", calls, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	calls = 0
	if err := Retry(ctx, []time.Duration{time.Hour}, func() error { calls++; return full }); !errors.Is(err, full) ||
		calls != 1 {
		t.Errorf("cancelled: %d calls, %v", calls, err)
	}
}

func TestFree(t *testing.T) {
	if free := Free(os.TempDir()); free < 0 {
		t.Errorf("free disk: %d", free)
	}
	if free, above := Free(filepath.Join(os.TempDir(), "no", "such")), Free(os.TempDir()); (free < 0) != (above < 0) {
		t.Errorf("free disk of a folder to be made: %d, of the one above: %d", free, above)
	}
	if free := Free("/proc/self"); free != -1 {
		t.Errorf("free disk of a file system without a size: %d, want -1", free)
	}
}

func TestLines(t *testing.T) {
	read := func(text string, longest int) (lines []string, last error) {
		for l, err := range Lines(strings.NewReader(text), longest) {
			if err != nil {
				return lines, err
			}
			lines = append(lines, fmt.Sprintf("%d:%s", l.Number, l.Text))
		}
		return lines, nil
	}
	for _, c := range []struct{ text, want string }{
		{"", "[]"}, {"a", "[1:a]"}, {"a\n", "[1:a]"}, {"\ufeffa\r\n\r\n\ufeffb", "[1:a 2: 3:\ufeffb]"},
		{"\ufeff", "[1:]"}, {"1234\n", "[1:1234]"}, {"1234\r\n", "[1:1234]"},
	} {
		if got, err := read(c.text, 4); err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%q: %v, %v, want %s", c.text, got, err, c.want)
		}
	}
	const wide = "text in UTF-16: want UTF-8: save it again with that encoding"
	for _, text := range []string{"\xff\xfea\x00", "\xfe\xff\x00a", "a\x00b\x00", "\x00a\x00b", "\xff\xfe"} {
		if got, err := read(text, 8); err == nil || err.Error() != wide || got != nil {
			t.Errorf("%q: %v, %v, want an error", text, got, err)
		}
		if got, err := PlainText([]byte(text)); err == nil || err.Error() != wide {
			t.Errorf("%q: %q, %v, want an error", text, got, err)
		}
	}
	for text, want := range map[string]string{"": "", "a": "a", "\ufeffab": "ab", "\xff": "\xff", "\ufeff": ""} {
		if got, err := PlainText([]byte(text)); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	if got, err := read("a\n1234567\nb", 4); err == nil || err.Error() != "line 2: longer than 4 bytes" ||
		len(got) != 1 {
		t.Errorf("a long line: %v, %v", got, err)
	}
}

// Lines that could not be written come with the next that can, and a log that was removed is made again.
func TestLog(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	put(t, "before\n", path)
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	add := func(text string) {
		t.Helper()
		if err := l.Add(text); err != nil {
			t.Error(err)
		}
	}
	check := func(want string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("log %q (%v), want %q", b, err, want)
		}
	}
	add("1\n")
	check("before\n1\n")
	os.Remove(path)
	if l.Here() {
		t.Error("a removed log is said to be here")
	}
	put(t, "", path, "x") // a folder in its place
	if err := l.Add("2\n"); err == nil {
		t.Error("a folder was written to")
	}
	if err := l.Add("3\n"); err == nil {
		t.Error("a folder was written to")
	}
	os.RemoveAll(path)
	add("4\n")
	check("2\n3\n4\n")
	l.f.Close()
	l.f, err = os.OpenFile("/dev/full", os.O_WRONLY, 0) // another file, so that the log is opened again
	if err != nil {
		t.Skip(err)
	}
	add("5\n")
	check("2\n3\n4\n5\n")
}

func TestRemoveFolder(t *testing.T) {
	dir := t.TempDir()
	put(t, "", dir, "a", "b")
	if err := RemoveFolder(filepath.Join(dir, "a") + "/"); err != nil || names(t, dir) != "" {
		t.Errorf("%v, the folder holds %q", err, names(t, dir))
	}
}
