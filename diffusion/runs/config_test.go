package runs

import (
	"os"
	"path/filepath"
	"testing"
)

// put makes files, each of which holds text.
func put(t *testing.T, text string, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := os.MkdirAll(filepath.Dir(p), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOf(t *testing.T) {
	dir := t.TempDir()
	run := filepath.Join(dir, "run")
	step := filepath.Join(run, "checkpoints", "0000010")
	put(t, "{}", filepath.Join(run, "run.json"), filepath.Join(step, "ema.safetensors"),
		filepath.Join(dir, "copy", "ema.safetensors"))
	for _, link := range [][2]string{{"0000010", filepath.Join(run, "checkpoints", "latest")},
		{step, filepath.Join(dir, "best")}} {
		if err := os.Symlink(link[0], link[1]); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(step)
	for path, want := range map[string]string{
		step:                                   run,
		filepath.Join(step, "ema.safetensors"): run,
		"ema.safetensors":                      run,
		".":                                    run,
		filepath.Join(run, "checkpoints", "latest", "ema.safetensors"): run,
		filepath.Join(dir, "best", "ema.safetensors"):                  run,
		filepath.Join(dir, "best"):                                     run,

		filepath.Join(dir, "copy", "ema.safetensors"): "", // of no run
		filepath.Join(dir, "ema.safetensors"):         "",
		filepath.Join(dir, "gone"):                    "",
	} {
		if got := Of(path); got != want {
			t.Errorf("Of(%s) = %q, want %q", path, got, want)
		}
	}
}

// A path in a configuration is relative to its file where that leads to something, else to the working directory.
func TestPathIn(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	put(t, "", "configs/vae/config.json", "vae/config.json", "latents/manifest.json", "configs/tars/a-0.tar",
		"configs/odd[1]/x")
	for path, want := range map[string]string{
		"vae":           "configs/vae",
		"../latents":    "latents",
		"latents":       "latents", // in the working directory alone
		"gone":          "gone",
		"tars/a-*.tar":  "configs/tars/a-*.tar",
		"tars/b-*.tar":  "tars/b-*.tar",
		"odd[1]":        "configs/odd[1]",
		"sd-vae-ft-ema": "sd-vae-ft-ema",
		"s3://b/vae":    "s3://b/vae",
		dir + "/vae":    dir + "/vae",
		"":              "",
	} {
		if got := PathIn("configs/a.yaml", path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

func TestAutoencoder(t *testing.T) {
	for text, want := range map[string]string{
		"vae: /a/vae\n":                     "/a/vae",
		"data: latents\n":                   "",
		"vae: \"\"\n":                       "",
		"vae: !!binary L2Fv/w==\n":          "/ao\xff",
		"lr: 1\nvae: '/a: b'\nthreads: 2\n": "/a: b",
	} {
		dir := t.TempDir()
		put(t, text, filepath.Join(dir, ConfigName))
		if got, err := Autoencoder(dir); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	dir := t.TempDir()
	if got, err := Autoencoder(dir); got != "" || err != nil {
		t.Errorf("no %s: %q, %v", ConfigName, got, err)
	}
	put(t, "vae: [", filepath.Join(dir, ConfigName))
	if got, err := Autoencoder(dir); err == nil {
		t.Errorf("a damaged file: %q", got)
	}
}
