package hub

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestResultIsJSON(t *testing.T) {
	text, err := json.Marshal(File{Name: "a", Path: "/b", Size: 3, Checked: true})
	if err != nil || string(text) != `{"name":"a","path":"/b","size":3,"checked":true,"cached":false}` {
		t.Errorf("%s, %v", text, err)
	}
}

// What was fetched is found without the network, what was not is named with where it was looked for.
func TestCached(t *testing.T) {
	f := newFake(t)
	missing := func(text, where, lacks string) {
		t.Helper()
		_, err := Cached(text)
		e := (*NotCachedError)(nil)
		if !errors.As(err, &e) || !strings.HasSuffix(e.Where, where) || !strings.Contains(e.Lacks, lacks) ||
			(lacks == "") != (e.Lacks == "") {
			t.Errorf("%s: %v, want one of %s lacking %q", text, err, where, lacks)
		}
	}
	missing("org/repo", "hub/models--org--repo", "")
	missing("sd-vae-ft-ema", "hub/models--stabilityai--sd-vae-ft-ema", "")
	missing("dit-xl-2-256", "ditrun/DiT-XL-2-256x256.pt", "")
	r, err := f.resolve("org/repo")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for text, want := range map[string]string{"org/repo": r.Path, "hf:org/repo@main": r.Path, "hf:org/repo": r.Path,
		"hf:org/repo@" + commit: r.Path, "hf:org/repo/sub/model.safetensors": r.Files[1].Path} {
		if got, err := Cached(text); err != nil || got.Path != want {
			t.Errorf("%s: %+v, %v, want %s", text, got, err, want)
		}
	}
	missing("hf:org/repo/other.bin", "/other.bin", "")
	missing("hf:org/repo@v2", "/snapshots/v2", "")
	if err := os.Remove(r.Files[1].Path); err != nil {
		t.Fatal(err)
	}
	missing("org/repo", commit, `it lacks 1 of 2 files, the first "sub/model.safetensors"`)
	if err := os.RemoveAll(filepath.Join(filepath.Dir(filepath.Dir(r.Path)), "ditrun-files")); err != nil {
		t.Fatal(err)
	}
	missing("org/repo", commit, "no weight file is there")
	file := filepath.Join(os.Getenv("XDG_CACHE_HOME"), "ditrun", "DiT-XL-2-256x256.pt")
	os.MkdirAll(filepath.Dir(file), 0o777)
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if r, err := Cached("dit-xl-2-256"); err != nil || r.Path != file {
		t.Errorf("%+v, %v, want %s", r, err, file)
	}
}

// TestSameNameElsewhere: a file in the cache is what its address has, not one of that name from another server.
func TestSameNameElsewhere(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("weights"))
	}))
	defer srv.Close()
	const name = "DiT-XL-2-256x256.pt"
	get := func(path string) error {
		_, err := Resolve(t.Context(), srv.URL+path, Options{net: srv.Client().Transport})
		return err
	}
	if err := errors.Join(get("/a/"+name+"?key=1"), get("/a/"+name+"?key=2")); err != nil {
		t.Fatal(err)
	}
	if err := get("/b/" + name); err == nil || !strings.Contains(err.Error(), "came from "+srv.URL+"/a/"+name+": ") {
		t.Errorf("another address: %v", err)
	}
	if r, err := Cached("dit-xl-2-256"); !errors.As(err, new(*NotCachedError)) {
		t.Errorf("dit-xl-2-256 is %+v, %v", r, err)
	}
	if r, err := Cached(srv.URL + "/a/" + name); err != nil || filepath.Base(r.Path) != name {
		t.Errorf("%+v, %v", r, err)
	}
}
