package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ditrun/ditrun/diffusion/runs"
)

// withFree is ditrun on a disk that has so many bytes free.
func withFree(t *testing.T, free int64, args ...string) outcome {
	t.Helper()
	ctx := context.WithValue(t.Context(), freeKey{}, func(string) int64 { return free })
	var stdout, stderr bytes.Buffer
	code := run(ctx, append([]string{"ditrun", "--device", "cpu", "--threads", "1"}, args...), &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

// TestNoRoom: what finds no room is refused before the work, and leaves nothing.
func TestNoRoom(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	convert := func(args ...string) []string { return append([]string{"convert"}, args...) }
	for _, c := range []struct {
		args  []string
		texts []string
	}{
		{r.train("--run-dir", in("run"), "--max-steps", "6", "--ckpt-every", "2"),
			[]string{"--run-dir " + in("run") + ": two checkpoints take ", " kB, 1 B are free"}},
		{r.train("--run-dir", in("run"), "--max-steps", "6", "--ckpt-every", "2", "--keep-last", "1"),
			[]string{": a checkpoint and the one before it, which is removed afterwards, take "}},
		{r.train("--results-dir", in("runs"), "--max-steps", "6"),
			[]string{"--results-dir " + in("runs") + ": a checkpoint takes "}},
		{slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", in("vae")}, vaeFlags),
			[]string{"--out " + in("vae") + ": a save of the run and the one before it"}},
		{[]string{"encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", in("latents")},
			[]string{"--out " + in("latents") + ": the latents take 33.8 kB"}},
		{r.sample(in("x.npz"), "--num-samples", "8"), []string{"8 pictures drawn at once take 1.54 kB"}},
		{convert("--ckpt", r.run, "--to", "official", "--out", in("x.pt")), []string{"the weights take "}},
		{convert("--ckpt", r.run, "--to", "ditrun", "--out", in("x.safetensors")), []string{"the weights take "}},
		{convert("--ckpt", r.run, "--to", "diffusers", "--vae", r.vae, "--out", in("pipeline")),
			[]string{"the weights take "}},
		{convert("--latents", r.latents, "--to", "fast-dit", "--out", in("features")),
			[]string{"the latents take 16.4 kB"}},
		{convert("--latents", r.latents, "--to", "edm2", "--out", in("x.zip")), []string{"the latents take 32.8 kB"}},
	} {
		o := withFree(t, 1, c.args...)
		o.refused(t, 1, append(c.texts, "1 B are free", "hint: free space on the disk of "+dir+
			", or give another --")...)
		if left := list(t, dir); len(left) > 0 {
			t.Errorf("%q leaves %q", c.args, left)
		}
	}
}

// TestLittleRoom: what may find no room is done all the same, with a warning.
func TestLittleRoom(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	run := in("run")
	for _, c := range []struct {
		free int64
		args []string
		want string
	}{
		{800_000, r.train("--run-dir", run, "--max-steps", "12", "--ckpt-every", "2"),
			"ditrun: warning: --run-dir " + run +
				": 6 checkpoints take 1.03 MB, 800 kB are free: --keep-last 3 fits\n"},
		{200_000, r.train("--run-dir", run, "--resume", "auto", "--max-steps", "16", "--ckpt-every", "2"),
			"ditrun: warning: --run-dir " + run + ": 2 checkpoints take 344 kB, 200 kB are free: --keep-last 6 fits\n"},
		{200_000, r.train("--run-dir", run, "--resume", "auto", "--max-steps", "20", "--ckpt-every", "2", "--keep-last",
			"3"), ""},
		{100, r.sample(in("x.png")), "ditrun: warning: --out " + in("x.png") + ": the pictures take 768 B, 100 B are " +
			"free: the sheet may find no room\n"},
		{100, r.sample(in("x")), "ditrun: warning: --out " + in("x") + ": the pixels take 768 B, 100 B are free: " +
			"pictures are smaller, but what is drawn until the disk is full is kept, and the same command continues\n"},
		{300, r.sample(in("x.npz"), "--batch-size", "1"), "ditrun: warning: --out " + in("x.npz") +
			": the pictures take " +
			"768 B, 300 B are free: what is drawn until the disk is full is kept, and the same command continues\n"},
		{-1, r.sample(in("y.npz")), ""}, // a file system that does not say
	} {
		o := withFree(t, c.free, c.args...)
		var warned string
		for line := range strings.Lines(o.stderr) {
			if strings.HasPrefix(line, "ditrun: ") {
				warned += line
			}
		}
		if o.code != 0 || warned != c.want {
			t.Errorf("%q: code %d, %q, want %q", c.args, o.code, warned, c.want)
		}
	}
}

// TestCheckRoomOfShards: a set of latents of which a shard has room is begun.
func TestCheckRoomOfShards(t *testing.T) {
	var stderr bytes.Buffer
	e := &env{stderr: &stderr, free: func(string) int64 { return 50_000 }}
	if free, err := e.checkRoom(latentShards("latents", 40_000, 40_000)); err != nil || free != "; 50.0 kB are free" {
		t.Errorf("%q, %v", free, err)
	}
	if _, err := e.checkRoom(latentShards("latents", 200_000, 60_000)); err == nil || err.Error() != "--out latents: "+
		"one shard of latents takes 60.0 kB, 50.0 kB are free" {
		t.Errorf("%v", err)
	}
	if _, err := e.checkRoom(latentShards("latents", 200_000, 40_000)); err != nil || stderr.String() != "ditrun: "+
		"warning: --out latents: the latents take 200 kB, 50.0 kB are free: shards that are whole by then are "+
		"kept, and "+
		"the same command continues\n" {
		t.Errorf("%v, %q", err, stderr.String())
	}
}

// TestSavesAreSaid: the line of train says what its checkpoints take, and how many stay.
func TestSavesAreSaid(t *testing.T) {
	r := theRoad(t)
	run := filepath.Join(t.TempDir(), "run")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--max-steps", "3"}, "one checkpoint of 172 kB"},
		{[]string{"--max-steps", "6", "--ckpt-every", "2"}, "3 checkpoints of 172 kB, all kept"},
		{[]string{"--max-steps", "6", "--ckpt-every", "2", "--keep-last", "1"}, "each 172 kB, the last one kept"},
		{[]string{"--max-steps", "6", "--ckpt-every", "2", "--keep-last", "2", "--keep-every", "4"},
			"each 172 kB, the last 2 and one every 4 steps kept"},
	} {
		if err := os.RemoveAll(run); err != nil {
			t.Fatal(err)
		}
		o := withFree(t, 58e9, r.train(append(c.args, "--run-dir", run)...)...)
		if want := "\nsaves   " + c.want + "; 58.0 GB are free\n"; o.code != 0 || !strings.Contains(o.stdout, want) {
			t.Errorf("%q: code %d, no line %q in\n%s%s", c.args, o.code, want, o.stdout, o.stderr)
		}
		// That is what they take.
		if size, err := sizeOf(filepath.Join(run, "checkpoints", "latest") + "/"); err != nil || size < 172_000 ||
			size > 200_000 {
			t.Errorf("a checkpoint has %d bytes, %v", size, err)
		}
	}
	if o := withFree(t, 0, r.train("--run-dir", run, "--max-steps", "6", "--ckpt-every", "2", "--keep-last", "2",
		"--keep-every", "4", "--resume", "auto")...); o.code != 0 || strings.Contains(o.stdout, "\nsaves ") {
		t.Errorf("a finished run: code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// TestCannotBeWritten: every command looks at its output first, before it opens what it reads, here nothing.
func TestCannotBeWritten(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	const in = "/proc/ditrun" // where root too may make nothing
	for _, c := range []struct {
		flag, out string
		args      []string
	}{
		{"run-dir", in, []string{"train", "--data", none, "--run-dir", in}},
		{"results-dir", in, []string{"train", "--data", none, "--results-dir", in}},
		{"out", in, []string{"train-vae", "--data", none, "--out", in}},
		{"out", in, []string{"encode-latents", "--data", none, "--vae", none, "--out", in}},
		{"out", in, []string{"encode-latents", "--captions", "class:a {}", "--out", in}},
		{"out", in + ".png", []string{"sample", "--ckpt", none, "--vae", none, "--out", in + ".png"}},
		{"out", in + ".npz", []string{"sample", "--ckpt", none, "--vae", none, "--out", in + ".npz"}},
		{"out", in, []string{"sample", "--ckpt", none, "--vae", none, "--out", in}},
		{"out", in + ".pt", []string{"convert", "--ckpt", none, "--to", "official", "--out", in + ".pt"}},
		{"out", in, []string{"convert", "--ckpt", none, "--to", "diffusers", "--vae", none, "--out", in}},
		{"out", in, []string{"convert", "--latents", none, "--to", "ditrun", "--vae", none, "--out", in}},
	} {
		ditrun(t, c.args...).refused(t, 1, "--"+c.flag+" "+c.out+": cannot be written: ")
	}
}

// TestSizesAreTrue: what a command says it will write is about what it writes.
func TestSizesAreTrue(t *testing.T) {
	r := theRoad(t)
	convert := func(args ...string) []string { return append([]string{"convert"}, args...) }
	for out, args := range map[string][]string{
		"latents":       {"encode-latents", "--data", r.pictures, "--vae", r.vae, "--dtype", "fp32"},
		"x.pt":          convert("--ckpt", r.run, "--to", "official"),
		"x.safetensors": convert("--ckpt", r.run, "--to", "ditrun"),
		"pipeline":      convert("--ckpt", r.run, "--to", "diffusers", "--vae", r.vae),
		"lightning":     convert("--latents", r.latents, "--to", "lightningdit"),
		"x.zip":         convert("--latents", r.latents, "--to", "edm2"),
	} {
		out = filepath.Join(t.TempDir(), out)
		args = append(args, "--out", out)
		o := ditrun(t, args...)
		size, err := sizeOf(out)
		if err != nil {
			t.Fatal(err, o.stderr)
		}
		os.RemoveAll(out)
		if o := withFree(t, size*6/10, args...); o.code != 1 || !strings.Contains(o.stderr, " are free\n") {
			t.Errorf("%s has %d bytes, and finds room in %d: %s", out, size, size*6/10, o.stderr)
		}
		if o := withFree(t, size, args...); o.code != 0 {
			t.Errorf("%s has %d bytes, and finds no room in as many: %s", out, size, o.stderr)
		}
	}
	// Latents that are there already take no room.
	if o := withFree(t, 0, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", r.latents); o.code != 0 ||
		!strings.Contains(o.stdout, "fp16, 0 B to make; 0 B are free") {
		t.Errorf("finished latents: code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// TestNothingIntoCheckpoint: a run that goes on from a checkpoint tries its folder, not that of the checkpoint.
func TestNothingIntoCheckpoint(t *testing.T) {
	r := theRoad(t)
	run := copyOf(t, r.run)
	dir := filepath.Join(run, runs.CheckpointsName, "0000006")
	then := time.Unix(1e9, 0)
	if err := os.Chtimes(dir, then, then); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "train", "--resume", dir, "--max-steps", "7")
	if st, err := os.Stat(dir); err != nil || !st.ModTime().Equal(then) {
		t.Errorf("%s was written at %v, %v", dir, st.ModTime(), err)
	}
}
