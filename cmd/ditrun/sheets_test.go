package main

import (
	"bytes"
	"encoding/json"
	"image"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/picture/sheet"
)

// TestRecipe: a PNG says how it was drawn, and the command that it holds draws it again, byte for byte.
func TestRecipe(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	drawn, folder := filepath.Join(dir, "x.png"), filepath.Join(dir, "pictures")
	flags := []string{"--class-labels", "valley,0-1", "--num-samples", "6", "--cfg-scale", "2.5", "--seed", "7",
		"--precision", "bf16"}
	mustRun(t, r.sample(drawn, flags...)...)
	mustRun(t, r.sample(folder, flags...)...)
	path := filepath.Join(folder, "000003.png")
	command := map[string]string{}
	for _, file := range []string{drawn, path} {
		o := mustRun(t, "inspect", file)
		for _, want := range []string{"file     " + file + ": PNG of ", "Software\n  ditrun ",
			"\n  ditrun sample --ckpt " +
				filepath.Base(r.run) + " --vae " + filepath.Base(r.vae) +
				" --class-labels valley,0-1 --num-samples 6 " +
				"--cfg-scale 2.5 --num-sampling-steps 5 --solver ddpm --seed 7 --precision bf16 --rng image " +
				"--batch-size 50",
			"Steps: 5, Sampler: ddpm, CFG scale: 2.5, Seed: 7, Size: 8x8, Model hash: ", ", VAE hash: ",
			", Precision: bf16, "} {
			if !strings.Contains(o.stdout, want) {
				t.Errorf("inspect %s lacks %q:\n%s", filepath.Base(file), want, o.stdout)
			}
		}
		if strings.Contains(o.stdout, dir+"\n") || strings.Contains(o.stdout, r.run) {
			t.Errorf("it says where it was drawn:\n%s", o.stdout)
		}
		var in pictureInspection
		if err := json.Unmarshal([]byte(mustRun(t, "inspect", "--json", file).stdout), &in); err != nil {
			t.Fatal(err)
		}
		command[file] = in.Text["Description"]
	}
	if !strings.HasSuffix(command[path], " # picture 3") {
		t.Errorf("the command of picture 3 is %q", command[path])
	}
	words := strings.Fields(command[drawn])
	for i, word := range words {
		switch word {
		case "--ckpt":
			words[i+1] = r.run
		case "--vae":
			words[i+1] = r.vae
		}
	}
	again := filepath.Join(dir, "again.png")
	mustRun(t, append(words[1:], "--out", again)...)
	if !bytes.Equal(read(t, drawn), read(t, again)) {
		t.Error("the command in a sheet draws another")
	}
	plain := filepath.Join(dir, "plain.png")
	if err := sheet.WritePNG(plain, image.NewGray(image.Rect(0, 0, 8, 8))); err != nil {
		t.Fatal(err)
	}
	if o := mustRun(t, "inspect", plain); !strings.Contains(o.stdout, "it does not say how it was made") {
		t.Errorf("inspect printed\n%s", o.stdout)
	}
	write(t, plain, read(t, drawn)[:100])
	ditrun(t, "inspect", plain).refused(t, 1, plain+": PNG: cut short")
}

// TestPortable: a recipe has no places of this machine.
func TestPortable(t *testing.T) {
	for path, want := range map[string]string{
		"": "", "results/000-DiT-XL-2": "results/000-DiT-XL-2", "dit-xl-2-256": "dit-xl-2-256",
		"/home/x/results/000-DiT-XL-2":                     "000-DiT-XL-2",
		"/home/x/results/000-DiT-XL-2/":                    "000-DiT-XL-2",
		"/home/x/results/000-DiT-XL-2/checkpoints/0050000": "000-DiT-XL-2/checkpoints/0050000",
		"/w/a.pt": "a.pt", "/checkpoints/a.pt": "a.pt", "/": "/",
	} {
		if got := portable(path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

func TestLabelList(t *testing.T) {
	for want, labels := range map[string][]int{"": nil, "3": {3, 3, 3}, "0-2": {0, 0, 1, 1, 2},
		"207,360,3-4": {207, 360, 3, 4}} {
		if got := labelList(labels); got != want {
			t.Errorf("%v is %q, want %q", labels, got, want)
		}
	}
}

func TestShellQuoted(t *testing.T) {
	for word, want := range map[string]string{"a-b_1.0,x": "a-b_1.0,x", "": "''", "a red shoe": "'a red shoe'",
		"it's": `'it'\''s'`, "$HOME": "'$HOME'", "\u732b": "'\u732b'", "~x": "'~x'"} {
		if got := shellQuoted(word); got != want {
			t.Errorf("%q is %s, want %s", word, got, want)
		}
	}
}
