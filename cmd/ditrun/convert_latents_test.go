package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
)

// TestConvertLatents takes latents to each other program's form and back, and trains on what came back.
func TestConvertLatents(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	for _, name := range []string{"fast-dit", "lightningdit", "edm2", "edm2.zip"} {
		kind := strings.TrimSuffix(name, ".zip")
		there, back := filepath.Join(dir, name), filepath.Join(dir, name+"-back")
		o := ditrun(t, "convert", "--latents", r.latents, "--to", kind, "--out", there, "--json")
		var result struct {
			Samples int
			Loses   string
		}
		if err := json.Unmarshal([]byte(o.stdout), &result); err != nil || o.code != 0 || result.Samples != 64 ||
			!strings.Contains(o.stderr, "warning: "+kind+" does not keep "+result.Loses) {
			t.Fatalf("%s: code %d, %+v (%v)\n%s", name, o.code, result, err, o.stderr)
		}
		if o = ditrun(t, "convert", "--latents", there, "--to", "ditrun", "--vae", r.vae, "--out", back); o.code != 0 {
			t.Fatalf("%s: code %d\n%s", name, o.code, o.stderr)
		}
		l, err := latents.Open(back)
		if err != nil {
			t.Fatal(err)
		}
		if l.Len() != 64 || len(l.Classes()) != 4 || l.Manifest().ImageSize != picture.Square(8) {
			t.Errorf("%s: came back as %+v", name, l.Manifest().Plan)
		}
		l.Close()
		ditrun(t, "convert", "--latents", there, "--to", "ditrun", "--out", back).refused(t, 2,
			"needs the autoencoder that made the latents: --vae")
		ditrun(t, "train", "--data", back, "--model", "DiT-16x1x2/2", "--global-batch-size", "8", "--max-steps", "2",
			"--run-dir", filepath.Join(dir, name+"-run"), "--ema-decay", "0.5")
		checkLog(t, filepath.Join(dir, name+"-run"), 2)
	}
	write(t, filepath.Join(dir, "folder.zip", "x"), nil)
	write(t, filepath.Join(dir, "folder.pt", "x"), nil)
	for _, c := range []struct {
		code int
		text string
		args []string
	}{
		{2, `--to "official": want ditrun, fast-dit, lightningdit, edm2`,
			[]string{"--latents", r.latents, "--to", "official", "--out", dir + "/x"}},
		{2, "only edm2 has an archive", []string{"--latents", r.latents, "--to", "fast-dit", "--out", dir + "/x.zip"}},
		{2, "want latents of another program for --to ditrun",
			[]string{"--latents", r.latents, "--to", "ditrun", "--vae", r.vae, "--out", dir + "/x"}},
		{2, "--ckpt is for checkpoints, not for --latents",
			[]string{"--latents", r.latents, "--ckpt", r.run, "--to", "edm2", "--out", dir + "/x"}},
		{1, "the folder is not empty", []string{"--latents", r.latents, "--to", "edm2", "--out", r.vae}},
		{1, "folder.zip: is a folder, want a file",
			[]string{"--latents", r.latents, "--to", "edm2", "--out", dir + "/folder.zip"}},
		{1, "folder.pt: is a folder, want a file",
			[]string{"--ckpt", r.run, "--to", "official", "--out", dir + "/folder.pt"}},
		{1, "no latents in it", []string{"--latents", r.pictures, "--to", "ditrun", "--vae", r.vae, "--out",
			dir + "/x"}},
	} {
		ditrun(t, append([]string{"convert"}, c.args...)...).refused(t, c.code, c.text)
	}
	if exists(dir + "/x") {
		t.Error("a refused command left something")
	}
}
