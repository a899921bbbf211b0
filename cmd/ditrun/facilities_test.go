package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withoutLocks runs ditrun where flock fails as on a file system without locks. The filter of system calls is of one
// thread, which ends with the call.
func withoutLocks(t *testing.T, code syscall.Errno, env []string, args ...string) (o outcome) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), self, append([]string{"--device", "cpu", "--threads", "1"}, args...)...)
	cmd.Env = append(os.Environ(), append(env, asDitrun+"=1")...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := failFlock(code); err != nil {
			done <- err
			return
		}
		done <- cmd.Run()
	}()
	err = <-done
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Skip("no filter of system calls here: ", err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// failFlock makes flock fail on this thread and the processes that it starts.
func failFlock(code syscall.Errno) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_FLOCK},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(code)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

// TestFileSystemWithoutLocks: a process alone goes on, with one warning; several of one job say why they cannot.
func TestFileSystemWithoutLocks(t *testing.T) {
	r := theRoad(t)
	for _, code := range []syscall.Errno{syscall.ENOLCK, syscall.ENOSYS, syscall.EOPNOTSUPP} {
		out := filepath.Join(t.TempDir(), "latents")
		encode := []string{"encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", out, "--captions",
			"class:a photo of a {}"}
		o := withoutLocks(t, code, nil, encode...)
		want := "ditrun: warning: " + out + ": the file system has no locks: start no other process that writes there\n"
		if o.code != 0 || strings.Count(o.stderr, want) != 1 || strings.Count(o.stderr, "ditrun: ") != 1 {
			t.Errorf("%v: code %d, errors\n%s", code, o.code, o.stderr)
		}
		equalFiles(t, r.latents, out, theShard, "manifest.json")
		if o = withoutLocks(t, code, nil, encode...); o.code != 0 || strings.Contains(o.stderr, "locks") {
			t.Errorf("%v, nothing left to do: code %d, errors\n%s", code, o.code, o.stderr)
		}
	}
	out := filepath.Join(t.TempDir(), "latents")
	o := withoutLocks(t, syscall.ENOLCK, []string{"RANK=1", "WORLD_SIZE=2", "LOCAL_RANK=1"}, "encode-latents", "--data",
		r.pictures, "--vae", r.vae, "--out", out)
	o.refused(t, 1, out+": the file system has no locks, by which 2 processes share the work",
		"hint: start one process")
	if got := list(t, out); len(got) > 0 {
		t.Errorf("a refused command leaves %q", got)
	}
	whole, pictures := filepath.Join(t.TempDir(), "x.npz"), filepath.Join(t.TempDir(), "x.npz")
	mustRun(t, r.sample(whole)...)
	o = withoutLocks(t, syscall.ENOLCK, []string{"RANK=1", "WORLD_SIZE=2", "LOCAL_RANK=1"}, r.sample(pictures)...)
	o.refused(t, 1, "the file system has no locks, by which 2 processes share the work", "hint: start one process")
	if got := list(t, filepath.Dir(pictures)); len(got) > 0 {
		t.Errorf("a refused command leaves %q", got)
	}
	if o = withoutLocks(t, syscall.ENOLCK, nil, r.sample(pictures)...); o.code != 0 ||
		!bytes.Equal(read(t, pictures), read(t, whole)) {
		t.Errorf("code %d, errors\n%s, or other pictures", o.code, o.stderr)
	}
	// Archives are listed and unpacked without locks too.
	tree := writeTree(t, 4)
	for _, name := range []string{"pictures.tar", "pictures.tar.gz"} {
		path := packed(t, tree, name)
		o := withoutLocks(t, syscall.ENOLCK, []string{"XDG_CACHE_HOME=" + t.TempDir()}, "classes", "--data", path)
		if o.code != 0 || o.stderr != "" {
			t.Errorf("%s: code %d, errors\n%s", name, o.code, o.stderr)
		}
	}
}

// packed is a tar archive of a folder.
func packed(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if text, err := exec.Command("tar", "-caf", path, "-C", dir, ".").CombinedOutput(); err != nil {
		t.Skipf("no tar here: %v: %s", err, text)
	}
	return path
}

// TestNoFolderForCaches: an archive is listed in memory where there is no cache; what has to be unpacked says what
// it needs.
func TestNoFolderForCaches(t *testing.T) {
	tree := writeTree(t, 4)
	classes := mustRun(t, "classes", "--data", tree).stdout
	plain, compressed := packed(t, tree, "pictures.tar"), packed(t, tree, "pictures.tar.gz")
	file := filepath.Join(t.TempDir(), "file") // in whose place no folder can be made, whoever tries
	write(t, file, nil)
	const writable = "one that can be written"
	for name, c := range map[string]struct{ cache, home, why, advice string }{
		"no HOME":       {"", "", "neither XDG_CACHE_HOME nor HOME is set", "a folder for it\n"},
		"HOME is false": {"", filepath.Join(file, "home"), "not a directory", writable},
		"a file":        {file, "/root", "not a directory", writable},
		"/proc":         {"/proc", "/root", "mkdir /proc/ditrun", writable},
	} {
		t.Setenv("XDG_CACHE_HOME", c.cache)
		t.Setenv("HOME", c.home)
		o := ditrun(t, "classes", "--data", plain)
		if o.code != 0 || o.stdout != classes {
			t.Errorf("%s: code %d, printed %q, errors %q, want %q", name, o.code, o.stdout, o.stderr, classes)
		}
		for _, want := range []string{"ditrun: warning: " + plain +
			": the index of the archives is not kept for the next time: ",
			c.why, "set XDG_CACHE_HOME to a folder for it\n"} {
			if !strings.Contains(o.stderr, want) || strings.Count(o.stderr, "warning: ") != 1 {
				t.Errorf("%s: errors %q, want %q", name, o.stderr, want)
			}
		}
		ditrun(t, "classes", "--data", compressed).refused(t, 1, "unpack "+compressed+
			": no folder to unpack into: ", c.why, "set XDG_CACHE_HOME to "+c.advice)
	}
	// A cache that cannot be written but has what is needed is used.
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	mustRun(t, "classes", "--data", compressed)
	mustRun(t, "classes", "--data", plain)
	for _, dir := range []string{"unpacked", "index"} {
		path := filepath.Join(cache, "ditrun", dir)
		if err := os.Chmod(path, 0o555); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(path, 0o777)
	}
	mustRun(t, "classes", "--data", compressed)
	mustRun(t, "classes", "--data", plain)
}
