package main

import (
	"archive/zip"
	"encoding/json"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOrientationFlag: turned pictures are counted, said, and kept in the manifest, which goes on alike or not at all.
func TestOrientationFlag(t *testing.T) {
	r := theRoad(t)
	z, err := zip.OpenReader(filepath.Join("..", "..", "data", "picture", "testdata", "orientation", "pictures.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	pictures, dir := t.TempDir(), t.TempDir()
	for _, name := range []string{"1.jpg", "6.jpg", "8.png", "3.webp", "5.tiff"} {
		b, err := fs.ReadFile(z, name)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(pictures, "x", name), b)
	}
	const stored = "3 pictures with an EXIF orientation: used as stored (--orientation exif turns upright)"
	const turned = "3 pictures with an EXIF orientation: turned upright"
	encode := func(out string, more ...string) []string {
		return slices.Concat([]string{"encode-latents", "--data", pictures, "--vae", r.vae,
			"--out", filepath.Join(dir, out), "--image-size", "8", "--preview", "5"}, more)
	}
	if o := succeed(t, encode("stored")...); !strings.Contains(o.stderr, "warning: "+stored) {
		t.Errorf("errors\n%s", o.stderr)
	}
	if o := succeed(t, encode("turned", "--orientation", "exif")...); !strings.Contains(o.stdout, turned) {
		t.Errorf("printed\n%s", o.stdout)
	}
	for out, want := range map[string]string{"stored": "", "turned": "exif"} {
		var m struct{ Orientation string }
		err := json.Unmarshal(read(t, filepath.Join(dir, out, "manifest.json")), &m)
		if err != nil || m.Orientation != want {
			t.Errorf("%s: the manifest says %q, want %q (%v)", out, m.Orientation, want, err)
		}
	}
	file := func(folder, name string) []byte { return read(t, filepath.Join(dir, folder, name)) }
	if slices.Equal(file("stored", "preview.png"), file("turned", "preview.png")) {
		t.Error("the preview shows no turned pictures")
	}
	o := ditrun(t, encode("stored", "--orientation", "exif")...)
	o.refused(t, 1, "made with orientation as-stored, this plan has exif")
	ditrun(t, encode("turned")...).refused(t, 1, "made with orientation exif, this plan has as-stored")
	ditrun(t, encode("turned", "--orientation", "up")...).refused(t, 2, `--orientation "up": want as-stored, exif`)
	train := func(out string, more ...string) []string {
		return slices.Concat([]string{"train-vae", "--data", pictures, "--out", filepath.Join(dir, out)}, vaeFlags,
			[]string{"--max-steps", "3", "--batch-size", "4"}, more)
	}
	if o := succeed(t, train("v1")...); !strings.Contains(o.stderr, stored) {
		t.Errorf("errors\n%s", o.stderr)
	}
	if o := succeed(t, train("v2", "--orientation", "exif")...); !strings.Contains(o.stdout, turned) {
		t.Errorf("printed\n%s", o.stdout)
	}
	if slices.Equal(file("v1", vaeWeights), file("v2", vaeWeights)) {
		t.Error("the autoencoder was trained on the same pixels")
	}
}
