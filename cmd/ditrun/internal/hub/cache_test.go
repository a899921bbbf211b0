package hub

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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

// Without a network the cache stands for a repository only where it has all that a model needs.
func TestOfflineIsWhole(t *testing.T) {
	f := newFake(t)
	if _, err := f.resolve("hf:org/repo/config.json"); err != nil {
		t.Fatal(err)
	}
	online := f.URL
	for _, c := range []struct{ ref, want string }{
		{"hf:org/repo", `incomplete in the cache, it lacks 1 of 2 files, the first "sub/model.safetensors"`},
		{"hf:org/repo/config.json", ""},
		{"hf:org/repo/sub/model.safetensors", "not in the cache"},
	} {
		for _, endpoint := range []string{"http://127.0.0.1:1", online} {
			t.Setenv("HF_ENDPOINT", endpoint)
			t.Setenv("HF_HUB_OFFLINE", map[bool]string{true: "1"}[endpoint == online])
			r, err := f.resolve(c.ref)
			if c.want == "" && (err != nil || !r.Offline) || c.want != "" && (err == nil ||
				!strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: %+v, %v, want %q", c.ref, r, err, c.want)
			}
		}
	}
	t.Setenv("HF_ENDPOINT", online)
	t.Setenv("HF_HUB_OFFLINE", "")
	whole, err := f.resolve("hf:org/repo")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HF_HUB_OFFLINE", "1")
	if r, err := f.resolve("hf:org/repo"); err != nil || r.Unlisted {
		t.Errorf("%+v, %v", r, err)
	}
	// Another program keeps no list: what is there is given, and that nobody knows whether it is whole.
	if err := os.RemoveAll(filepath.Join(filepath.Dir(filepath.Dir(whole.Path)), "ditrun-files")); err != nil {
		t.Fatal(err)
	}
	if r, err := f.resolve("hf:org/repo"); err != nil || !r.Unlisted || r.Path != whole.Path {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestUnreachable: where no server answers, the error names what is wanted, the host and why, without the words of
// net/http, and there is one try.
func TestUnreachable(t *testing.T) {
	dns := &net.DNSError{Err: "no such host", Name: "hub.example", IsNotFound: true}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"name":    {&net.OpError{Op: "dial", Net: "tcp", Err: dns}, "hub.example cannot be reached: no such host"},
		"refused": {refused, "hub.example cannot be reached: connection refused"},
		"proxy": {&net.OpError{Op: "proxyconnect", Net: "tcp", Err: refused},
			"hub.example cannot be reached through the proxy: connection refused"},
		"broken": {&net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)},
			"read tcp"},
	} {
		newFake(t)
		t.Setenv("HF_ENDPOINT", "http://hub.example")
		home := os.Getenv("HF_HOME") // and XDG_CACHE_HOME
		out := t.TempDir()
		tries := 0
		o := Options{net: failing{c.err, &tries}, wait: func(context.Context, time.Duration) error { return nil }}
		for ref, what := range map[string]string{
			"org/repo":                 "hf:org/repo is not in the cache (" + home + "/hub/models--org--repo): ",
			"https://hub.example/x.pt": "https://hub.example/x.pt is not in the cache (" + home + "/ditrun/x.pt): ",
		} {
			tries = 0
			_, err := Resolve(t.Context(), ref, o)
			switch {
			case name == "broken":
				if err == nil || errors.As(err, new(*UnreachableError)) || tries != maxTries {
					t.Errorf("%s, %s: %v after %d tries", name, ref, err, tries)
				}
			case err == nil || err.Error() != what+c.want || tries != 1:
				t.Errorf("%s, %s: %v after %d tries, want %s%s", name, ref, err, tries, what, c.want)
			}
		}
		o.Out = out
		if _, err := Resolve(t.Context(), "https://hub.example/x.pt", o); err == nil ||
			!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "https://hub.example/x.pt") {
			t.Errorf("%s, into a folder: %v", name, err)
		}
	}
}

// failing is a network that gives one error.
type failing struct {
	err   error
	tries *int
}

func (x failing) RoundTrip(*http.Request) (*http.Response, error) {
	*x.tries++
	return nil, x.err
}
