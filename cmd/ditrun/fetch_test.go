package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/internal/disk"
)

// What fetch leaves is what the other commands take.
func TestFetch(t *testing.T) {
	r := theRoad(t)
	const commit = "0123456789abcdef0123456789abcdef01234567"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/api/models/org/vae/revision/main" {
			fmt.Fprintf(w,
				`{"sha":%q,"siblings":[{"rfilename":"config.json"},{"rfilename":%q}],"cardData":{"license":"mit"}}`,
				commit, vaeWeights)
			return
		}
		name, ok := strings.CutPrefix(q.URL.Path, "/org/vae/resolve/"+commit+"/")
		if !ok || strings.Contains(name, "/") {
			http.NotFound(w, q)
			return
		}
		sum, err := disk.SHA256(filepath.Join(r.vae, name))
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("ETag", `"`+sum+`"`)
		http.ServeFile(w, q, filepath.Join(r.vae, name))
	}))
	defer srv.Close()
	for _, k := range []string{"HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"} {
		t.Setenv(k, "")
	}
	home := t.TempDir()
	t.Setenv("HF_HOME", home)
	t.Setenv("HF_ENDPOINT", srv.URL)
	o := mustRun(t, "fetch", "hf:org/vae")
	path := filepath.Join(home, "hub", "models--org--vae", "snapshots", commit)
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
