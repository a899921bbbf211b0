package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/internal/album"
)

// writeAlbum writes the album of photos as people have them.
func writeAlbum(t *testing.T) (dir string, about album.About) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "photos")
	about, err := album.Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, about
}

// TestAlbum: a folder of photos as it comes from a phone is counted, becomes latents, a model and pictures; each
// command says once what it left out.
func TestAlbum(t *testing.T) {
	r := theRoad(t)
	dir, about := writeAlbum(t)
	left := "ditrun: warning: " + dir + ": left out: 2 hidden, 1 .aae, 1 .db, 1 .heic, 1 .mov, 1 .xmp, " +
		"1 in .ipynb_checkpoints, 1 in @eaDir, 1 in __MACOSX\n"
	o := ditrun(t, "classes", "--data", dir, "--json")
	var lines []classLine
	if err := json.Unmarshal([]byte(o.stdout), &lines); err != nil || o.code != 0 || len(lines) != 6 {
		t.Fatalf("code %d (%v), errors\n%s", o.code, err, o.stderr)
	}
	for label, name := range album.Classes() {
		if l := lines[label]; l.Label != label || l.Name != name || *l.Pictures != 10 {
			t.Errorf("class %d is %+v, want 10 of %q", label, l, name)
		}
	}
	if !strings.HasPrefix(o.stderr, left) || strings.Count(o.stderr, "ditrun: ") != 1 {
		t.Errorf("errors\n%s, want no other than\n%s", o.stderr, left)
	}

	latents, run := filepath.Join(t.TempDir(), "latents"), filepath.Join(t.TempDir(), "run")
	encode := []string{"encode-latents", "--data", dir, "--vae", r.vae, "--out", latents, "--image-size", "8"}
	o = ditrun(t, encode...)
	if o.code != 1 || !strings.Contains(o.stderr, "a picture cannot be decoded: "+about.Truncated+
		": JPEG: truncated") || !strings.Contains(o.stderr, "hint: --on-error skip") {
		t.Errorf("code %d, errors\n%s", o.code, o.stderr)
	}
	o = ditrun(t, append(encode, "--on-error", "skip", "--json")...)
	var result struct{ Samples, Skipped int }
	err := json.Unmarshal([]byte(o.stdout), &result)
	if err != nil || o.code != 0 || result.Samples != 59 || result.Skipped != 1 {
		t.Fatalf("code %d (%v), printed %s, errors\n%s", o.code, err, o.stdout, o.stderr)
	}
	for _, want := range []string{left, "warning: left out: " + about.Truncated + ": JPEG: truncated",
		"warning: 18 pictures with an EXIF orientation: used as stored (--orientation exif turns upright)"} {
		if strings.Count(o.stderr, want) != 1 {
			t.Errorf("want %q once in\n%s", want, o.stderr)
		}
	}
	mustRun(t, append([]string{"train", "--data", latents, "--run-dir", run, "--max-steps", "4"}, trainFlags...)...)
	for _, class := range []string{"Hunde, Katzen", "H\u00f6fe", "\u732b"} {
		out := filepath.Join(t.TempDir(), "s.png")
		mustRun(t, "sample", "--ckpt", run, "--vae", r.vae, "--class-labels", class, "--num-sampling-steps", "2",
			"--out", out)
		size(t, out)
	}
}

// TestUnconditional: a folder of pictures that nobody sorted goes the whole road without a flag, and any folder with
// --unconditional. A run on a folder of class folders that never looked at the classes goes on.
func TestUnconditional(t *testing.T) {
	r := theRoad(t)
	sorted, about := writeAlbum(t)
	if err := os.Remove(about.Truncated); err != nil {
		t.Fatal(err)
	}
	flat := t.TempDir()
	paths, err := filepath.Glob(filepath.Join(sorted, "*", "IMG_*.JPG"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		write(t, filepath.Join(flat, filepath.Base(path)), read(t, path))
	}
	note := "ditrun: warning: " + flat + ": no class folders: the pictures are used without classes"
	dir := t.TempDir()
	run := func(args ...string) outcome {
		t.Helper()
		o := ditrun(t, args...)
		if o.code != 0 {
			t.Fatalf("%q: code %d\n%s%s", args, o.code, o.stdout, o.stderr)
		}
		return o
	}
	for name, c := range map[string]struct {
		data string
		flag []string
	}{"flat": {flat, nil}, "sorted": {sorted, []string{"--unconditional"}}} {
		vae, latents := filepath.Join(dir, name, "vae"), filepath.Join(dir, name, "latents")
		first := run(append(append([]string{"train-vae", "--data", c.data, "--out", vae}, vaeFlags...), c.flag...)...)
		second := run(append([]string{"encode-latents", "--data", c.data, "--vae", vae, "--out", latents},
			c.flag...)...)
		for _, o := range []outcome{first, second} {
			if !strings.Contains(strings.Join(strings.Fields(o.stdout), " "), " pictures without classes") ||
				strings.Contains(o.stderr, note) != (c.flag == nil) {
				t.Errorf("%s: printed\n%s%s", name, o.stdout, o.stderr)
			}
		}
		for _, flags := range [][]string{nil, {"--unconditional"}} {
			out := filepath.Join(dir, name, "run"+strings.Join(flags, ""))
			o := run(append(append([]string{"train", "--data", latents, "--run-dir", out, "--max-steps", "2"},
				trainFlags...), flags...)...)
			said := "the data have no classes: the model is unconditional, as with --unconditional\n"
			if strings.Contains(o.stdout, said) != (flags == nil) ||
				!strings.Contains(strings.Join(strings.Fields(o.stdout), " "), ", no classes, ") {
				t.Errorf("%s: printed\n%s", name, o.stdout)
			}
			run("sample", "--ckpt", out, "--vae", vae, "--num-samples", "2", "--num-sampling-steps", "2", "--out",
				filepath.Join(dir, name, "s.png"))
		}
	}
	direct := filepath.Join(dir, "direct")
	train := append([]string{"train", "--data", sorted, "--vae", r.vae, "--unconditional", "--image-size", "8",
		"--run-dir", direct, "--resume", "auto"}, trainFlags...)
	run(append(train, "--max-steps", "2")...)
	o := run(append(train, "--max-steps", "4")...)
	if strings.Contains(o.stderr, "check: ") {
		t.Errorf("the pictures are checked again:\n%s", o.stderr)
	}
	write(t, filepath.Join(flat, "best", "1.jpg"), read(t, paths[0]))
	ditrun(t, "encode-latents", "--data", flat, "--vae", r.vae, "--out", filepath.Join(dir, "x")).refused(t, 1,
		"pictures in no class folder, and only 1 in class folders such as \"best\": --unconditional takes all of them")
}
