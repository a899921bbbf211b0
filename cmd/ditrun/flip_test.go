package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A reader is a command that reads what others have written. Its result is the bytes of a file.
type reader struct {
	name   string
	args   []string
	result string
}

// TestFlippedBits turns one bit of one file of a run, of its latents or of its autoencoder at a time, and gives them to
// every command that reads them. Each says that something is wrong, or comes to the same bytes as without.
func TestFlippedBits(t *testing.T) {
	flips := 15
	if os.Getenv("DITRUN_SOAK") != "" {
		flips = 250
	}
	const seed = 7
	r, rng := theRoad(t), rand.New(rand.NewPCG(seed, 0))
	work := t.TempDir()
	at := road{vae: filepath.Join(work, "vae"), latents: filepath.Join(work, "latents")}
	at.run = filepath.Join(work, "run")
	reset := func() {
		for _, dir := range []struct{ from, to string }{{r.vae, at.vae}, {r.latents, at.latents}, {r.run, at.run}} {
			if err := os.RemoveAll(dir.to); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(dir.to, os.DirFS(dir.from)); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"new", "from", "out.png", "out.pt", "out.zip"} {
			os.RemoveAll(filepath.Join(work, name))
		}
	}
	weights := func(dir string, step int) string {
		return filepath.Join(dir, "checkpoints", fmt.Sprintf("%07d", step), "model.safetensors")
	}
	png, pt, zip := filepath.Join(work, "out.png"), filepath.Join(work, "out.pt"), filepath.Join(work, "out.zip")
	fresh, from := filepath.Join(work, "new"), filepath.Join(work, "from")
	readers := []reader{
		{"sample", at.sample(png, "--num-samples", "4", "--num-sampling-steps", "2"), png},
		{"inspect", []string{"inspect", at.run}, ""},
		{"convert", []string{"convert", "--ckpt", at.run, "--to", "official", "--out", pt}, pt},
		{"encode-latents --verify", []string{"encode-latents", "--verify", "--out", at.latents}, ""},
		{"convert --latents", []string{"convert", "--latents", at.latents, "--to", "edm2", "--out", zip}, zip},
		{"train", at.train("--run-dir", fresh, "--max-steps", "2"), weights(fresh, 2)},
		{"train --init-from", at.train("--run-dir", from, "--max-steps", "2", "--init-from", at.run), weights(from, 2)},
		// Last, since the others want the checkpoint that the run had.
		{"train --resume", []string{"train", "--config", filepath.Join(at.run, "config.yaml"), "--data", at.latents,
			"--vae", at.vae, "--resume", at.run, "--max-steps", "8", "--ckpt-every", "100"}, weights(at.run, 8)},
	}
	run := func(reader reader) (o outcome, sum [32]byte) {
		o = ditrun(t, reader.args...)
		if reader.result != "" {
			b, _ := os.ReadFile(reader.result)
			sum = sha256.Sum256(b)
		}
		return o, sum
	}
	warnings := func(o outcome) int { return strings.Count(o.stderr, "ditrun: warning:") }

	reset()
	var files []string
	for _, dir := range []string{at.run, at.latents, at.vae} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			name := d.Name()
			// What is only looked at by people, or made again, and the checkpoint that nobody here reads.
			if err != nil || !d.Type().IsRegular() || name == "log.txt" || name == ".lock" ||
				strings.HasSuffix(name, ".png") || strings.HasPrefix(name, "events.") ||
				strings.Contains(path, "0000004") {
				return err
			}
			files = append(files, path)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	want, loud := make([][32]byte, len(readers)), make([]int, len(readers))
	for i, reader := range readers {
		o, sum := run(reader)
		if o.code != 0 {
			t.Fatalf("%s, nothing flipped: %s", reader.name, o.stderr)
		}
		want[i], loud[i] = sum, warnings(o)
	}
	found, same := 0, 0
	for i := range flips {
		path := files[i%len(files)]
		reset()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at, bit := rng.IntN(len(b)), rng.IntN(8)
		if rng.IntN(3) == 0 { // headers and metadata
			at = rng.IntN(min(len(b), 2000))
		}
		was := bytes.Clone(b)
		b[at] ^= 1 << bit
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		noticed := false
		for k, reader := range readers {
			o, sum := run(reader)
			switch {
			case o.code != 0 && o.code != 1 && o.code != 2:
				t.Errorf("flip %d: %s: %s: code %d\n%s", i, path, reader.name, o.code, o.stderr)
			case o.code != 0 || warnings(o) > loud[k]:
				noticed = true
			case sum != want[k]:
				near := fmt.Sprintf("%q", was[max(0, at-30):min(len(was), at+30)])
				t.Errorf("flip %d: bit %d of byte %d (%s) of %s: %s gives another result and says nothing", i, bit,
					at, near, path, reader.name)
			}
		}
		if noticed {
			found++
		} else {
			same++
		}
	}
	t.Logf("seed %d: of %d flipped bits %d are found, and %d change nothing", seed, flips, found, same)
}
