package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/hub/hubtest"
)

// What fetch leaves is what the other commands take.
func TestFetch(t *testing.T) {
	r := theRoad(t)
	h := hubtest.New(t)
	h.Repos["org/vae"] = hubtest.Repo{License: "mit", Files: map[string][]byte{
		"config.json": read(t, filepath.Join(r.vae, "config.json")),
		vaeWeights:    read(t, filepath.Join(r.vae, vaeWeights))}}
	home := os.Getenv("HF_HOME")
	o := mustRun(t, "fetch", "hf:org/vae")
	path := filepath.Join(home, "hub", "models--org--vae", "snapshots", hubtest.Commit)
	for _, want := range []string{"licence mit", "config.json", "fetched, checksum right", "path    " + path} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("fetch does not say %q:\n%s", want, o.stdout)
		}
	}
	var result struct {
		Path, License string
		Files         []struct{ Cached bool }
	}
	if err := json.Unmarshal([]byte(mustRun(t, "fetch", "--json", "hf:org/vae").stdout), &result); err != nil {
		t.Fatal(err)
	}
	if result.Path != path || result.License != "mit" || len(result.Files) != 2 || !result.Files[0].Cached {
		t.Errorf("%+v", result)
	}
	equalFiles(t, r.vae, path, "config.json", vaeWeights)
	mustRun(t, "sample", "--ckpt", r.run, "--vae", path, "--num-sampling-steps", "2", "--out",
		filepath.Join(home, "x.png"))

	ditrun(t, "fetch", "hf:org/none").refused(t, 1, "404")
	ditrun(t, "fetch", "sd-vae-ft-emma").refused(t, 2, "did you mean sd-vae-ft-ema?")
	ditrun(t, "fetch", "http://127.0.0.1/x").refused(t, 2, "https")
	if o := mustRun(t, "fetch"); !strings.Contains(o.stdout, "sd-vae-ft-ema") ||
		!strings.Contains(o.stdout, "CC-BY-NC") {
		t.Errorf("the list of names:\n%s", o.stdout)
	}
	if _, err := os.Stat(filepath.Join(home, "hub", "models--org--none")); err == nil {
		t.Error("a folder for a repository that is not there")
	}
}
