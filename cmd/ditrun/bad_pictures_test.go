package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae"
	"github.com/ditrun/ditrun/vae/encode"
	"github.com/ditrun/ditrun/vae/training"
)

// spoil adds to the pictures of writeTree bad ones of every kind, and a class of nothing else, and returns their paths.
func spoil(t *testing.T, pictures string) (bad []string) {
	t.Helper()
	for _, name := range []string{"n01440764/a.png", "n01440764/b.png", "n01443537/a.png", "n01443537/b.png",
		"n01449999/a.png"} {
		bad = append(bad, filepath.Join(pictures, filepath.FromSlash(name)))
	}
	write(t, bad[4], []byte("not a picture"))
	write(t, bad[2], nil)
	if err := errors.Join(os.Symlink("/nowhere", bad[0]), syscall.Mkfifo(bad[1], 0o666),
		os.Symlink("/dev/zero", bad[3])); err != nil {
		t.Fatal(err)
	}
	return bad
}

var badReasons = []string{"a link to nothing: there is no /nowhere", "a FIFO, want a file", "empty file",
	"a device, want a file", "not a picture: starts with 6e 6f"}

// namesAll wants the error of a command to name all bad pictures with what is wrong with them.
func namesAll(t *testing.T, o outcome, bad []string) {
	t.Helper()
	if o.code != 1 || !strings.Contains(o.stderr, fmt.Sprintf("pictures that cannot be decoded: %d\n", len(bad))) ||
		!strings.Contains(o.stderr, "ditrun: hint: --on-error skip leaves them out") {
		t.Errorf("code %d, errors\n%s", o.code, o.stderr)
	}
	for i, path := range bad {
		if want := "\n    " + path + ": " + badReasons[i]; !strings.Contains(o.stderr, want) {
			t.Errorf("errors\n%swant %q", o.stderr, want)
		}
	}
}

// succeed is mustRun of a command that warns.
func succeed(t *testing.T, args ...string) outcome {
	t.Helper()
	o := ditrun(t, args...)
	if o.code != 0 {
		t.Fatalf("ditrun %s: code %d\n%s%s", strings.Join(args, " "), o.code, o.stdout, o.stderr)
	}
	return o
}

// leavesAllOut wants one line about the bad pictures, and one about the class that has no other.
func leavesAllOut(t *testing.T, o outcome) {
	t.Helper()
	for _, want := range []string{"ditrun: warning: left out 5 bad pictures:\n  ",
		`ditrun: warning: 1 class without a good picture: "n01449999"`} {
		if o.code != 0 || strings.Count(o.stderr, want) != 1 {
			t.Errorf("code %d, errors\n%swant %q once", o.code, o.stderr, want)
		}
	}
}

// TestTrainVAEBadPictures: all pictures are looked at before the first step. With fail all bad ones are named and
// nothing is written; with skip the others are trained on, in an order that a continued run keeps.
func TestTrainVAEBadPictures(t *testing.T) {
	needTorch(t)
	pictures, dir := writeTree(t, 20), t.TempDir()
	bad := spoil(t, pictures)
	train := func(out string, more ...string) []string {
		return slices.Concat([]string{"train-vae", "--data", pictures, "--out", out}, vaeFlags,
			[]string{"--max-steps", "20", "--batch-size", "4", "--ckpt-every", "5", "--log-every", "1"}, more)
	}
	whole, out := filepath.Join(dir, "whole"), filepath.Join(dir, "stopped")
	namesAll(t, ditrun(t, train(whole)...), bad)
	if got := list(t, dir); len(got) != 0 {
		t.Errorf("left %q", got)
	}
	o := succeed(t, train(whole, "--on-error", "skip", "--json")...)
	leavesAllOut(t, o)
	if n := shownOn(t, filepath.Join(whole, "reconstructions.png")); n != 2 {
		t.Errorf("the sheet shows %d classes, want those 2 that have pictures", n)
	}
	var result struct{ Skipped int }
	if err := json.Unmarshal([]byte(o.stdout), &result); err != nil || result.Skipped != 5 {
		t.Errorf("printed %s", o.stdout)
	}
	p := start(t, train(out, "--on-error", "skip")...)
	p.until("(step=0000006)")
	savedVAE(t, out, 5)
	p.signal(syscall.SIGKILL)
	p.wait()
	if o := ditrun(t, train(out)...); o.code == 0 {
		t.Error("with --on-error fail the run goes on")
	}
	if o := succeed(t, train(out, "--on-error", "skip")...); strings.Contains(o.stderr, "not the pictures") {
		t.Errorf("errors\n%s", o.stderr)
	}
	equalFiles(t, whole, out, vaeOutput...)

	// That other pictures are bad is said when a run goes on.
	p = start(t, train(filepath.Join(dir, "third"), "--on-error", "skip")...)
	p.until("(step=0000006)")
	savedVAE(t, filepath.Join(dir, "third"), 5)
	p.signal(syscall.SIGKILL)
	p.wait()
	if err := os.Remove(bad[0]); err != nil {
		t.Fatal(err)
	}
	o = succeed(t, train(filepath.Join(dir, "third"), "--on-error", "skip")...)
	if !strings.Contains(o.stderr, "these are not the pictures that the run began with") {
		t.Errorf("errors\n%s", o.stderr)
	}
	// All bad.
	none := t.TempDir()
	write(t, filepath.Join(none, "x", "a.png"), []byte("hello"))
	out = filepath.Join(dir, "none")
	o = ditrun(t, "train-vae", "--data", none, "--out", out, "--batch-size", "1", "--on-error", "skip")
	if o.code != 1 || !strings.Contains(o.stderr, "the only picture cannot be decoded: "+none) || exists(out) {
		t.Errorf("code %d, errors\n%s", o.code, o.stderr)
	}
	o = ditrun(t, train(filepath.Join(dir, "few"), "--on-error", "skip", "--batch-size", "24")...)
	if o.code != 1 || !strings.Contains(o.stderr, "has 20 pictures, fewer than a batch of 24") {
		t.Errorf("code %d, errors\n%s", o.code, o.stderr)
	}
}

// shownOn is the number of pictures on a sheet of reconstructions, of which each class has one.
func shownOn(t *testing.T, path string) (n int) {
	t.Helper()
	_, texts, err := sheet.ReadTexts(bytes.NewReader(read(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	if len(texts) != 1 {
		t.Fatalf("%s has the texts %q", path, texts)
	}
	var psnr float64
	if _, err := fmt.Sscanf(texts[0].Text, "%d pictures, each beside its reconstruction, PSNR %f dB", &n,
		&psnr); err != nil {
		t.Fatalf("%q: %v", texts[0].Text, err)
	}
	if psnr < 3 || psnr > 60 {
		t.Errorf("%s: %v dB", path, psnr)
	}
	return n
}

// TestTrainPicturesBad: train looks at its pictures before the first step too, alone and with another process, which
// agree on what is left out; a run that goes on has the same ones, or says that it has not.
func TestTrainPicturesBad(t *testing.T) {
	r := theRoad(t)
	pictures, dir := writeTree(t, 20), t.TempDir()
	bad := spoil(t, pictures)
	train := func(run, steps string, more ...string) []string {
		return slices.Concat([]string{"train", "--data", pictures, "--vae", r.vae, "--model", "DiT-16x1x2/2",
			"--global-batch-size", "4", "--ema-decay", "0.5", "--ckpt-every", "2", "--max-steps", steps, "--run-dir",
			run},
			more)
	}
	whole, halves, both := filepath.Join(dir, "whole"), filepath.Join(dir, "halves"), filepath.Join(dir, "both")
	namesAll(t, ditrun(t, train(whole, "4")...), bad)
	t.Setenv(asDitrun, "1")
	launched := func(args []string) []string { return append([]string{"launch", "-n", "2", "--"}, args...) }
	o := ditrun(t, launched(train(whole, "4"))...)
	namesAll(t, o, bad)
	if got := list(t, dir); len(got) != 0 {
		t.Errorf("left %q", got)
	}
	leavesAllOut(t, succeed(t, train(whole, "4", "--on-error", "skip")...))
	succeed(t, train(halves, "2", "--on-error", "skip")...)
	leavesAllOut(t, succeed(t, train(halves, "4", "--on-error", "skip", "--resume", "auto")...))
	equalFiles(t, whole, halves, "checkpoints/0000004/model.safetensors", "checkpoints/0000004/ema.safetensors")
	leavesAllOut(t, succeed(t, launched(train(both, "4", "--on-error", "skip"))...))
	if a, b := lossOf(t, whole), lossOf(t, both); math.Abs(a-b) > 1e-4 {
		t.Errorf("a loss of %v, of two processes %v: they trained on other pictures", a, b)
	}
	o = succeed(t, train(halves, "6", "--on-error", "skip", "--resume", "auto", "--orientation", "exif")...)
	if !strings.Contains(o.stderr, "orientation as-stored before, exif now") {
		t.Errorf("errors\n%s", o.stderr)
	}
	if err := os.Remove(bad[0]); err != nil {
		t.Fatal(err)
	}
	o = ditrun(t, train(halves, "8", "--on-error", "skip", "--resume", "auto")...)
	if o.code != 1 || !strings.Contains(o.stderr, "or other bad pictures were left out (5 then, 4 now)") {
		t.Errorf("code %d, errors\n%s", o.code, o.stderr)
	}
	for _, path := range bad[1:] {
		os.Remove(path)
	}
	os.Remove(filepath.Dir(bad[4]))
	good := filepath.Join(dir, "good")
	for i, steps := range []string{"2", "4"} {
		o := succeed(t, train(good, steps, "--resume", "auto")...)
		if checked := strings.Contains(o.stderr, "check: 20 pictures"); checked != (i == 0) {
			t.Errorf("run %d, checked %v:\n%s", i, checked, o.stderr)
		}
	}
	o = ditrun(t, slices.Concat([]string{"train", "--data", r.latents, "--orientation", "exif"}, trainFlags)...)
	o.refused(t, 1, "holds latents of pictures as they were stored, --orientation exif asks for others")
}

// TestCheckersShareTheCores: processes on one machine take no more cores for the check of pictures than it has.
func TestCheckersShareTheCores(t *testing.T) {
	for _, c := range []struct{ workers, cores, processes, want int }{
		{0, 8, 1, 8}, {1, 8, 1, 8}, {0, 8, 4, 2}, {3, 8, 4, 3}, {0, 2, 8, 1}, {0, 8, 0, 8},
	} {
		o := &pictureOptions{numWorkers: c.workers}
		if got := o.checkers(c.cores, c.processes); got != c.want {
			t.Errorf("%d of %d processes on %d cores, want %d", got, c.processes, c.cores, c.want)
		}
	}
}

// TestBadPicturesAreNamedOnce: what is left out is named when a picture is known to be good, at most so many; what an
// error names is not.
func TestBadPicturesAreNamedOnce(t *testing.T) {
	bad := func(i int) catalog.Bad {
		return catalog.Bad{ID: i, Err: &catalog.BadPicture{Path: fmt.Sprintf("%03d.png", i), Err: errors.New("torn")}}
	}
	for _, c := range []struct {
		name string
		work func(a *encodeAccount)
		want int // lines
	}{
		{"no good picture", func(a *encodeAccount) {
			a.explain(&catalog.BadPicturesError{Bad: []catalog.Bad{bad(0)}, Of: 1})
		}, 0},
		{"another error", func(a *encodeAccount) { a.explain(errors.New("full disk")) }, 3},
		{"a good picture", func(a *encodeAccount) { a.showProgress(encode.Progress{Done: 4, Total: 99, Encoded: 1}) },
			3},
		{"many more", func(a *encodeAccount) {
			for i := range 100 {
				a.noteBad(bad(i))
				a.showProgress(encode.Progress{Done: i, Total: 999, Encoded: 1})
			}
		}, catalog.MaxListed + 1},
	} {
		var stderr bytes.Buffer
		e := &env{ctx: t.Context(), stdout: io.Discard, stderr: &stderr, quiet: true}
		a := &encodeAccount{env: e, options: &pictureOptions{onError: "skip"}}
		a.showProgress(encode.Progress{Total: 999})
		for i := range 3 {
			a.noteBad(bad(i))
		}
		c.work(a)
		if got := strings.Count(stderr.String(), "warning: left out: "); got != c.want {
			t.Errorf("%s: %d lines, want %d\n%s", c.name, got, c.want, stderr.String())
		}
	}
}

// lossOf is the last loss of a run.
func lossOf(t *testing.T, run string) float64 {
	t.Helper()
	var last struct{ Loss float64 }
	for line := range strings.Lines(string(read(t, filepath.Join(run, "log.jsonl")))) {
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			t.Fatal(err)
		}
	}
	return last.Loss
}

// TestEncodeAllBad: a set of bad pictures alone is one error with their names, and nothing is written.
func TestEncodeAllBad(t *testing.T) {
	r := theRoad(t)
	pictures, dir := t.TempDir(), t.TempDir()
	for i := range 30 {
		write(t, filepath.Join(pictures, "x", fmt.Sprintf("%02d.png", i)), []byte("hello"))
	}
	t.Setenv("TMPDIR", t.TempDir())
	for _, more := range [][]string{{}, {"--on-error", "skip"}, {"--preview", "4"},
		{"--on-error", "skip", "--preview", "40"}} {
		out := filepath.Join(dir, "latents")
		args := []string{"encode-latents", "--data", pictures, "--vae", r.vae, "--out", out}
		o := ditrun(t, append(args, more...)...)
		first := filepath.Join(pictures, "x", "00.png")
		want := "none of the 30 pictures can be decoded:\n    " + first + ": not a picture"
		if o.code != 1 || !strings.Contains(o.stderr, want) || strings.Contains(o.stderr, "same command") ||
			!strings.Contains(o.stderr, "\n    and 10 more; ") || strings.Contains(o.stderr, "--on-error skip leaves") {
			t.Errorf("%q: code %d, errors\n%s", more, o.code, o.stderr)
		}
		if n := strings.Count(o.stderr, first); n != 1 {
			t.Errorf("%q: a bad picture is named %d times", more, n)
		}
		if !strings.Contains(o.stderr,
			"want JPEG, PNG, GIF, BMP, TIFF, WebP or netpbm files that other programs open") {
			t.Errorf("%q: errors\n%s", more, o.stderr)
		}
		if got := list(t, dir); len(got) != 0 {
			t.Errorf("%q: left %q", more, got)
		}
		_, after, _ := strings.Cut(o.stderr, "and 10 more; ")
		path, _, _ := strings.Cut(after, " lists them all")
		text := string(read(t, path))
		if strings.Count(text, "\n") != 30 || !strings.Contains(text, "29.png: not a picture") {
			t.Errorf("the list has\n%s", text)
		}
	}
}

// TestScalingFactorOfSmallSet: it is that of every picture, once, whatever the batch size, and the measuring is shown.
func TestScalingFactorOfSmallSet(t *testing.T) {
	r := theRoad(t)
	out := filepath.Join(t.TempDir(), "vae")
	o := succeed(t, slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", out}, vaeFlags,
		[]string{"--max-steps", "3", "--batch-size", "10"})...)
	if !strings.Contains(o.stderr, "measure latents: 64 pictures in ") {
		t.Errorf("errors\n%s", o.stderr)
	}
	src, err := catalog.Open(t.Context(), r.pictures, catalog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	model, err := vae.Open(out, torch.CPU)
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	all := stream.ImageOptions{Size: picture.Square(8), Batch: 64}
	batches := training.Batches(stream.ImageRange(t.Context(), src, 0, src.Len(), all))
	std, err := vae.LatentStd(t.Context(), model, 8, 64, batches)
	if err != nil {
		t.Fatal(err)
	}
	if got := model.Config().ScalingFactor; math.Abs(got*std-1) > 1e-5 {
		t.Errorf("scaling factor %v, want %v", got, 1/std)
	}
}
