package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestOutputOutsideOfPictures: what a command writes does not go where it reads pictures, by whatever path.
func TestOutputOutsideOfPictures(t *testing.T) {
	dir := t.TempDir()
	pictures := filepath.Join(dir, "pictures")
	write(t, filepath.Join(pictures, "cat", "1.png"), nil)
	for link, to := range map[string]string{"link": "pictures", "deep": "pictures/cat"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	commands := map[string]func(data, out string) []string{
		"out": func(data, out string) []string {
			return []string{"encode-latents", "--data", data, "--vae", "none", "--out", out}
		},
		"out ": func(data, out string) []string {
			return []string{"train-vae", "--data", data, "--out", out}
		},
		"run-dir": func(data, out string) []string {
			return []string{"train", "--data", data, "--vae", "none", "--run-dir", out}
		},
		"results-dir": func(data, out string) []string {
			return []string{"train", "--data", data, "--vae", "none", "--results-dir", out}
		},
	}
	unchanged(t, func() {
		for _, c := range []struct{ data, out, want string }{
			{"pictures", "pictures", "holds the pictures, want a folder of its own"},
			{pictures, "link", "holds the pictures, want a folder of its own"},
			{"link", "./pictures/", "holds the pictures, want a folder of its own"},
			{"pictures", "pictures/latents", "lies in pictures, which holds the pictures: want a folder outside of it"},
			{"pictures/", pictures + "/cat/new/latents", "lies in pictures/, which holds the pictures"},
			{pictures, "deep/latents", "lies in " + pictures + ", which"},
			{"link", "pictures/latents", "lies in link, which"},
			{"link", "link/../pictures/x", "lies in link, which"},
		} {
			for _, args := range commands {
				ditrun(t, args(c.data, c.out)...).refused(t, 2, c.want)
			}
		}
		t.Chdir(pictures)
		ditrun(t, "train", "--data", ".", "--vae", "none").refused(t, 2,
			"--results-dir results: lies in ., which holds")
		t.Chdir(dir)
	}, dir)
	// Beside, above, and beside files that a name or a pattern gives.
	for _, c := range []struct{ data, out string }{
		{"pictures", "pictures2"}, {"pictures", "."}, {"pictures/cat/*.png", "pictures/cat/latents"},
		{"pictures/cat/1.png", "pictures/latents"}, {"s3://bucket/pictures", "pictures"}, {"none", "pictures"},
	} {
		if err := outsideOf(c.data, "out", c.out); err != nil {
			t.Errorf("data %s, out %s: %v", c.data, c.out, err)
		}
	}
}
