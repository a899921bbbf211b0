package main

import (
	"bytes"
	"fmt"
	"image/png"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ditrun/ditrun/diffusion/sampling/gallery"
)

// TestSampleShared: processes that a launcher starts share the pictures, and the output has the bytes of one process.
func TestSampleShared(t *testing.T) {
	r := theRoad(t)
	t.Setenv(asDitrun, "1")
	for _, name := range []string{"x.npz", "folder", "x.tar", "x.png"} {
		whole := filepath.Join(t.TempDir(), name)
		mustRun(t, r.many(whole)...)
		for _, n := range []int{1, 2, 3} {
			out := filepath.Join(t.TempDir(), name)
			o := mustRun(t, append([]string{"launch", "-n", fmt.Sprint(n), "--"}, r.many(out)...)...)
			if !bytes.Equal(written(t, out), written(t, whole)) {
				t.Errorf("%s: %d processes give other bytes", name, n)
			}
			if got := list(t, filepath.Dir(out)); len(got) != len(list(t, filepath.Dir(whole))) {
				t.Errorf("%s: %d processes leave %q", name, n, got)
			}
			sum := 0
			for line := range strings.Lines(o.stdout + o.stderr) {
				var rank, drew int
				_, line, _ = strings.Cut(line, "process ")
				if k, _ := fmt.Sscanf(line, "%d drew %d of them", &rank, &drew); k == 2 {
					sum += drew
				}
			}
			if n > 1 && sum != 100 {
				t.Errorf("%s: %d processes drew %d pictures\n%s%s", name, n, sum, o.stdout, o.stderr)
			}
		}
	}
	out := filepath.Join(t.TempDir(), "x.npz")
	o := ditrun(t, append([]string{"launch", "-n", "2", "--"},
		r.many(out, "--save-latents", filepath.Join(t.TempDir(), "x.safetensors"))...)...)
	if o.code != exitUsage || !strings.Contains(o.stderr, "--save-latents: of 2 processes each would have ") {
		t.Errorf("code %d\n%s", o.code, o.stderr)
	}
}

// inodes are the files of a folder by name.
func inodes(t *testing.T, dir string) map[string]fs.FileInfo {
	t.Helper()
	files := map[string]fs.FileInfo{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && filepath.Ext(e.Name()) == ".png" {
			files[e.Name()] = info
		}
	}
	return files
}

// awaitBatch waits until one batch more is there, or all of them, and returns where.
func awaitBatch(out string) (dir string) {
	done := -1
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && !exists(out); {
		for _, p := range gallery.Partials(out) {
			if done < 0 {
				done = p.Done
			}
			if dir = p.Dir; p.Done > done {
				return dir
			}
		}
		time.Sleep(time.Millisecond)
	}
	return dir
}

// TestKilledSamples: of two processes that share the pictures one or both are killed, at any moment and over and over.
// One that runs to the end makes the set of an undisturbed run, and draws no batch again that was whole.
func TestKilledSamples(t *testing.T) {
	r := theRoad(t)
	kills, n := 4, 200
	if os.Getenv("DITRUN_SOAK") != "" {
		kills, n = 30, 3000
	}
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	whole, out := filepath.Join(dir, "whole"), filepath.Join(dir, "folder")
	args := func(out string) []string { return r.many(out, "--num-samples", fmt.Sprint(n)) }
	mustRun(t, args(whole)...)
	const batch = 5
	keep, again := map[string]fs.FileInfo{}, 0
	var alive *process
	for killed := 0; killed < kills; {
		if alive == nil {
			alive = startFree(t, args(out)...)
		}
		other := startFree(t, args(out)...)
		partial := awaitBatch(out)
		time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
		both := rnd.IntN(2) == 0
		if both {
			alive.signal(syscall.SIGKILL)
			killed++
		}
		other.signal(syscall.SIGKILL)
		killed++
		other.wait()
		if both {
			alive.wait()
			alive = nil
		}
		if exists(out) {
			t.Logf("seed %d: done after %d kills of %d", seed, killed, kills)
			break
		}
		if !both {
			continue // who goes on writes in between
		}
		now := inodes(t, filepath.Join(partial, partialItems))
		for first := 0; first < n; first += batch {
			isWhole := true
			for i := first; i < first+batch; i++ {
				isWhole = isWhole && now[fmt.Sprintf("%06d.png", i)] != nil
			}
			for i := first; isWhole && i < first+batch; i++ {
				name := fmt.Sprintf("%06d.png", i)
				if before := keep[name]; before != nil && !os.SameFile(before, now[name]) {
					again++
				}
				keep[name] = now[name]
			}
		}
	}
	if alive != nil {
		alive.signal(syscall.SIGKILL)
		alive.wait()
	}
	if !exists(out) {
		mustRun(t, args(out)...)
	}
	end := inodes(t, out)
	for name, before := range keep {
		if !os.SameFile(before, end[name]) {
			again++
		}
	}
	if again > 0 {
		t.Errorf("seed %d: %d pictures that were whole were drawn again", seed, again)
	}
	t.Logf("seed %d: %d of %d pictures were whole at a kill", seed, len(keep), n)
	if !bytes.Equal(written(t, out), written(t, whole)) {
		t.Errorf("seed %d: the set is another", seed)
	}
	if left := gallery.Partials(out); len(left) > 0 {
		t.Errorf("seed %d: left behind: %v", seed, left)
	}
}

// pixelsDiffer returns by how many levels two pictures differ at most.
func pixelsDiffer(t *testing.T, a, b string) (most int) {
	t.Helper()
	pa, err := png.Decode(bytes.NewReader(read(t, a)))
	if err != nil {
		t.Fatal(err)
	}
	pb, err := png.Decode(bytes.NewReader(read(t, b)))
	if err != nil || pa.Bounds() != pb.Bounds() {
		t.Fatalf("%v and %v: %v", pa.Bounds(), pb.Bounds(), err)
	}
	for y := range pa.Bounds().Dy() {
		for x := range pa.Bounds().Dx() {
			ra, ga, ba, _ := pa.At(x, y).RGBA()
			rb, gb, bb, _ := pb.At(x, y).RGBA()
			for _, d := range []int{int(ra>>8) - int(rb>>8), int(ga>>8) - int(gb>>8), int(ba>>8) - int(bb>>8)} {
				most = max(most, d, -d)
			}
		}
	}
	return most
}

// TestSampleFrom: a picture, or a sheet, is drawn again by what it says of itself.
func TestSampleFrom(t *testing.T) {
	r := theRoad(t)
	t.Chdir(filepath.Dir(r.run)) // where the names are that pictures keep
	dir := t.TempDir()
	folder, again := filepath.Join(dir, "folder"), filepath.Join(dir, "again.png")
	n, some := 10, []int{0, 5, 9}
	if os.Getenv("DITRUN_SOAK") != "" {
		n, some = 511, []int{0, 5, 9, 100, 255, 256, 400, 507, 508, 510} // the last batch has three
	}
	mustRun(t, r.sample(folder, "--num-samples", fmt.Sprint(n), "--batch-size", "4", "--seed", "7", "--cfg-scale",
		"2")...)
	for _, i := range some {
		name := filepath.Join(folder, fmt.Sprintf("%06d.png", i))
		mustRun(t, "sample", "--from", name, "--out", again)
		if d := pixelsDiffer(t, name, again); d != 0 {
			t.Errorf("picture %d differs by %d", i, d)
		}
		// It says of itself what the first one does, so that it can be drawn from that.
		twice := filepath.Join(dir, "twice.png")
		mustRun(t, "sample", "--from", again, "--out", twice)
		if !bytes.Equal(read(t, again), read(t, twice)) {
			t.Errorf("picture %d, drawn from itself, is another", i)
		}
		mustRun(t, "sample", "--from", name, "--out", again, "--batch-size", "1")
		if d := pixelsDiffer(t, name, again); d > 1 {
			t.Errorf("picture %d alone differs by %d", i, d)
		}
		mustRun(t, "sample", "--from", name, "--out", again, "--seed", "8")
		if pixelsDiffer(t, name, again) == 0 {
			t.Errorf("picture %d has no seed", i)
		}
	}
	sheet := filepath.Join(dir, "sheet.png")
	mustRun(t, r.sample(sheet, "--class-labels", "Valley,1", "--num-samples", "4")...)
	mustRun(t, "sample", "--from", sheet, "--out", again)
	if pixelsDiffer(t, sheet, again) != 0 {
		t.Error("the sheet is another")
	}

	name := filepath.Join(folder, "000005.png")
	// Of a run whose latest checkpoint is another one, the one of the picture is taken.
	run := filepath.Join(dir, "run")
	mustRun(t, r.train("--run-dir", run, "--max-steps", "8", "--ckpt-every", "6")...)
	o := mustRun(t, "sample", "--from", name, "--out", again, "--ckpt", run, "--vae", r.vae)
	if !strings.Contains(o.stdout, "ckpt    "+filepath.Join(run, "checkpoints", "0000006")+" has the weights of ") {
		t.Errorf("printed\n%s", o.stdout)
	}
	if pixelsDiffer(t, name, again) != 0 {
		t.Error("with the checkpoint of another run it is another picture")
	}
	o = ditrun(t, "sample", "--from", name, "--out", again, "--ckpt", filepath.Join(run, "checkpoints", "0000008",
		"ema.safetensors"), "--vae", r.vae)
	if o.code != 0 || !strings.Contains(o.stderr, "was drawn with other weights (sha256 ") {
		t.Errorf("code %d\n%s", o.code, o.stderr)
	}
	t.Chdir(dir) // where the latest step of run, which is its name too, has other weights
	if err := os.RemoveAll(filepath.Join(run, "checkpoints", "0000006")); err != nil {
		t.Fatal(err)
	}
	ditrun(t, "sample", "--from", name, "--out", again, "--vae", r.vae).refused(t, 1, "it was drawn with other weights",
		"hint: --ckpt PATH says where they are")
	t.Chdir(t.TempDir())
	ditrun(t, "sample", "--from", name, "--out", again).refused(t, 1, "the checkpoint ", "is not there",
		"hint: --ckpt PATH says where the weights ")
	// What ditrun draws it reads.
	tar := filepath.Join(dir, "x.tar")
	mustRun(t, r.sample(tar, "--num-samples", "8")...)
	if o := mustRun(t, "classes", "--data", tar); !strings.Contains(o.stdout, "8 pictures") {
		t.Errorf("of the archive it says\n%s", o.stdout)
	}
	ditrun(t, "sample", "--from", name, "--out", folder+"2").refused(t, 2, "it is one picture")
	ditrun(t, "sample", "--from", name, "--num-samples", "3").refused(t, 2, "--num-samples has no effect")
	ditrun(t, "sample", "--from", filepath.Join(dir, "none.png")).refused(t, 1, "--from ", "no such file")
	ditrun(t, "sample", "--from", filepath.Join(r.run, "loss.png")).refused(t, 1, "it does not say how it was drawn")
	ditrun(t, "sample", "--from", filepath.Join(r.run, "log.txt")).refused(t, 1, "not a PNG file")
}

// TestBalancedClasses: all classes in turn.
func TestBalancedClasses(t *testing.T) {
	r := theRoad(t)
	folder := filepath.Join(t.TempDir(), "folder")
	mustRun(t, r.sample(folder, "--class-labels", "balanced", "--num-samples", "6")...)
	var labels string
	for line := range strings.Lines(string(read(t, filepath.Join(folder, "labels.csv")))) {
		labels += strings.Split(line, ",")[1]
	}
	if labels != "label012301" {
		t.Errorf("labels %s", labels)
	}
	ditrun(t, r.sample(folder+"2", "--class-labels", "balanced")...).refused(t, 2, "--num-samples says how many")
}

// TestInterruptedBeforeFirstBatch: who stops a command that has nothing to keep is told so.
func TestInterruptedBeforeFirstBatch(t *testing.T) {
	r := theRoad(t)
	for _, name := range []string{"x.npz", "x.png"} {
		out := filepath.Join(t.TempDir(), name)
		p := start(t, r.sample(out, "--num-sampling-steps", "1000", "--num-samples", "600", "--batch-size", "600")...)
		p.until("recipe ")
		p.signal(syscall.SIGINT)
		p.wait().stoppedBy(t, syscall.SIGINT, "hint: no batch of 600 pictures was whole yet; the same command begins "+
			"again, and with a smaller --batch-size keeps pictures sooner")
		if got := list(t, filepath.Dir(out)); len(got) > 0 {
			t.Errorf("%s: left behind: %q", name, got)
		}
	}
}
