package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ditrun/ditrun/diffusion/sampling/gallery"
	"github.com/ditrun/ditrun/internal/disk"
)

// many is a sampling command line of enough batches to be stopped between two of them.
func (r road) many(out string, more ...string) []string {
	return r.sample(out, append([]string{"--num-sampling-steps", "25", "--num-samples", "100", "--batch-size", "5"},
		more...)...)
}

// thePartial waits until a sampling command has finished so many batches, and returns where they are.
func thePartial(t *testing.T, out string, least int) string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, p := range gallery.Partials(out) {
			if p.Done >= least {
				return p.Dir
			}
		}
	}
	t.Fatalf("%s: no pictures came", out)
	return ""
}

// The files of a partial.
const (
	partialFile  = "state.json"
	partialLock  = "lock"
	partialItems = "pictures"
)

// written returns the bytes of an output, of a folder those of all its files.
func written(t *testing.T, out string) []byte {
	t.Helper()
	if st, err := os.Stat(out); err == nil && !st.IsDir() {
		return read(t, out)
	}
	var b bytes.Buffer
	for _, name := range list(t, out) {
		b.WriteString(name + "\n")
		b.Write(read(t, filepath.Join(out, name)))
	}
	return b.Bytes()
}

// TestStoppedSampleContinues: whatever stops a command, the same one draws what is missing, and the output has the
// bytes of one that nothing stopped.
func TestStoppedSampleContinues(t *testing.T) {
	r := theRoad(t)
	for _, name := range []string{"x.npz", "folder"} {
		dir := t.TempDir()
		whole, out := filepath.Join(dir, "whole", name), filepath.Join(dir, "stopped", name)
		for _, path := range []string{whole, out} {
			if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
				t.Fatal(err)
			}
		}
		mustRun(t, r.many(whole)...)
		done := 0
		for i, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM} {
			p := startFree(t, r.many(out)...)
			partial := thePartial(t, out, done+5)
			p.signal(sig)
			o := p.wait()
			if exists(out) {
				t.Fatalf("%s: %v came too late", name, sig)
			}
			if sig != syscall.SIGKILL {
				o.stoppedBy(t, sig, " of 100 pictures; the same command continues")
			}
			if i > 0 && !strings.Contains(o.stdout, "there already: ") {
				t.Errorf("%s: printed\n%s", name, o.stdout)
			}
			if partial != gallery.Partials(out)[0].Dir {
				t.Fatalf("%s: %v", name, gallery.Partials(out))
			}
			if done = gallery.Partials(out)[0].Done; done == 0 || done%5 != 0 {
				t.Fatalf("%s: %v keeps %d pictures", name, sig, done)
			}
		}
		lock, err := disk.TryLock(filepath.Join(gallery.Partials(out)[0].Dir, partialLock))
		if err != nil {
			t.Fatal(err)
		}
		if lock.Held() {
			ditrun(t, r.many(out)...).refused(t, 1, "another process is drawing these pictures")
		}
		lock.Unlock()
		first := filepath.Join(gallery.Partials(out)[0].Dir, partialItems)
		if name == "folder" {
			first = filepath.Join(first, "000000.png")
		}
		before, err := os.Stat(first)
		if err != nil {
			t.Fatal(err)
		}
		mustRun(t, r.many(out)...)
		if !bytes.Equal(written(t, out), written(t, whole)) {
			t.Errorf("%s: stopped and continued it has other bytes", name)
		}
		if name == "folder" {
			first = filepath.Join(out, "000000.png")
		} else {
			first = out
		}
		if after, err := os.Stat(first); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s: what was drawn has been drawn again (%v)", name, err)
		}
		if got := list(t, filepath.Dir(out)); slices.ContainsFunc(got,
			func(s string) bool { return strings.HasPrefix(s, ".") }) {
			t.Errorf("%s: left behind: %q", name, got)
		}
	}
}

// TestPartialOfAnotherRequest: pictures of another seed are not mixed in; they stay until this output is done.
func TestPartialOfAnotherRequest(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	out, whole := filepath.Join(dir, "x.npz"), filepath.Join(t.TempDir(), "x.npz")
	p := startFree(t, r.many(out)...)
	thePartial(t, out, 5)
	p.signal(syscall.SIGKILL)
	p.wait()
	mustRun(t, r.many(whole, "--seed", "1")...)
	o := ditrun(t, r.many(out, "--seed", "1")...)
	if o.code != 0 || strings.Count(o.stderr, "ditrun: warning: ") != 1 ||
		!strings.Contains(o.stderr, "of 100 pictures of another request for this output") {
		t.Errorf("code %d\n%s", o.code, o.stderr)
	}
	if !bytes.Equal(read(t, out), read(t, whole)) {
		t.Error("the pictures of two requests are mixed")
	}
	if got := list(t, dir); !slices.Equal(got, []string{"x.npz"}) {
		t.Errorf("left behind: %q", got)
	}
}

// TestLatentsOfStoppedSample: the latents of pictures that are done are not kept, so a command that saves latents does
// not continue, which is said before the models are opened. Without latents it does.
func TestLatentsOfStoppedSample(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	out, latents := filepath.Join(dir, "x.npz"), filepath.Join(dir, "x.safetensors")
	p := startFree(t, r.many(out, "--save-latents", latents)...)
	thePartial(t, out, 5)
	p.signal(syscall.SIGINT)
	p.wait().stoppedBy(t, syscall.SIGINT, " of 100 pictures; without --save-latents the same command continues")
	o := ditrun(t, r.many(out, "--save-latents", latents)...)
	o.refused(t, 1, "--save-latents "+latents+": ", " of 100 pictures are there already, and their latents are not "+
		"kept", "hint: draw into another --out, or without --save-latents")
	if o.stdout != "" {
		t.Errorf("work began:\n%s", o.stdout)
	}
	if o := mustRun(t, r.many(out)...); !strings.Contains(o.stdout, "there already: ") {
		t.Errorf("printed\n%s", o.stdout)
	}
}

// TestDamagedPartial: what does not fit is drawn again.
func TestDamagedPartial(t *testing.T) {
	r := theRoad(t)
	whole := map[string][]byte{}
	for _, name := range []string{"x.npz", "folder"} {
		out := filepath.Join(t.TempDir(), name)
		mustRun(t, r.many(out)...)
		whole[name] = written(t, out)
	}
	for _, c := range []struct {
		name   string
		damage func(partial string) error
	}{
		{"x.npz", func(dir string) error { return os.Truncate(filepath.Join(dir, partialItems), 700) }},
		{"x.npz", func(dir string) error { return os.Remove(filepath.Join(dir, partialItems)) }},
		{"x.npz", func(dir string) error { return os.WriteFile(filepath.Join(dir, partialFile), []byte("{"), 0o666) }},
		{"x.npz", func(dir string) error {
			text := bytes.Replace(read(t, filepath.Join(dir, partialFile)), []byte(`"done":`), []byte(`"done":1`), 1)
			return os.WriteFile(filepath.Join(dir, partialFile), text, 0o666)
		}},
		{"folder", func(dir string) error { return os.RemoveAll(filepath.Join(dir, partialItems)) }},
		{"folder", func(dir string) error { return os.Remove(filepath.Join(dir, partialFile)) }},
	} {
		out := filepath.Join(t.TempDir(), c.name)
		p := startFree(t, r.many(out)...)
		dir := thePartial(t, out, 5)
		p.signal(syscall.SIGKILL)
		p.wait()
		if err := c.damage(dir); err != nil {
			t.Fatal(err)
		}
		mustRun(t, r.many(out)...)
		if !bytes.Equal(written(t, out), whole[c.name]) {
			t.Errorf("%s: continued from damaged pictures", c.name)
		}
	}
}

// TestKilledAtTheEnd: of a command that was killed after its output got its name nothing stays.
func TestKilledAtTheEnd(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "folder")
	mustRun(t, r.sample(out)...)
	left := filepath.Join(dir, ".folder.0123456789ab.partial")
	write(t, filepath.Join(left, partialFile), []byte(`{"key": "0123456789ab", "done": 4, "total": 4}`))
	ditrun(t, r.sample(out)...).refused(t, 1, "the folder is not empty")
	if exists(left) {
		t.Error("it stays")
	}
	// One that is in use does.
	write(t, filepath.Join(left, partialFile), nil)
	lock, err := disk.TryLock(filepath.Join(left, partialLock))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	ditrun(t, r.sample(out)...).refused(t, 1, "the folder is not empty")
	if lock.Held() && !exists(left) {
		t.Error("what another process uses is gone")
	}
}

// TestOutputIsTriedFirst: an output that cannot be written is found before the first step.
func TestOutputIsTriedFirst(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.npz", "x"), nil)
	write(t, filepath.Join(dir, "file"), nil)
	for _, c := range []struct{ out, text string }{
		{"/proc/x.png", "--out /proc/x.png: cannot be written: "},
		{"/proc/x.npz", "--out /proc/x.npz: cannot be written: "},
		{"/proc/pictures", "--out /proc/pictures: cannot be written: "},
		{filepath.Join(dir, "a.npz"), "is a folder, want a file"},
		{filepath.Join(dir, "file", "x.png"), "does not exist"},
		{filepath.Join(dir, "file"), "exists and is not a folder"},
		{filepath.Join(dir, "none", "folder"), "does not exist"},
	} {
		o := ditrun(t, r.sample(c.out, "--num-sampling-steps", "1000", "--num-samples", "100000")...)
		if o.refused(t, 1, c.text); o.stdout != "" {
			t.Errorf("%s: work began:\n%s", c.out, o.stdout)
		}
	}
	ditrun(t, r.sample(filepath.Join(dir, "x.png"), "--num-sampling-steps", "1000", "--num-samples", "1000000")...).
		refused(t, 1, "1000000 pictures of 8x8: a sheet, of at most 4096 pixels a side, holds 1360",
			"hint: give --out a folder, or a name that ends in .npz")
}
