package hub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/hub/hubtest"
)

// A fake is a hub with the repository org/repo.
type fake struct {
	*hubtest.Server
	t *testing.T
}

const (
	commit  = hubtest.Commit
	weights = "sub/model.safetensors"
)

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{hubtest.New(t), t}
	f.Repos["org/repo"] = hubtest.Repo{License: "mit", Files: map[string][]byte{"README.md": nil, "sub/model.bin": nil,
		"config.json": []byte(`{"scaling_factor": 1}`), weights: bytes.Repeat([]byte("0123456789abcdef"), 1<<14)}}
	return f
}

// weights are the bytes of the only large file that is fetched.
func (f *fake) weights() []byte { return f.Repos["org/repo"].Files[weights] }

// sent is how many bytes of them went out.
func (f *fake) sent() int {
	n, _ := f.Weights()
	return n
}

// list makes the hub list other files, as JSON.
func (f *fake) list(text string) {
	repo := f.Repos["org/repo"]
	repo.Listing = text
	f.Repos["org/repo"] = repo
}

func (f *fake) resolve(text string) (*Result, error) {
	return Resolve(f.t.Context(), text, f.options())
}

func (f *fake) options() Options {
	return Options{wait: func(ctx context.Context, d time.Duration) error {
		if d > maxWait {
			f.t.Errorf("waits %v", d)
		}
		return ctx.Err()
	}}
}

func TestRepository(t *testing.T) {
	f := newFake(t)
	r, err := f.resolve("hf:org/repo")
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(os.Getenv("HF_HOME"), "hub", "models--org--repo")
	if r.Path != filepath.Join(base, "snapshots", commit) || r.License != "mit" || len(r.Files) != 2 || r.Offline {
		t.Fatalf("%+v", r)
	}
	for _, file := range r.Files {
		if !file.Checked || file.Cached || file.SHA256 == "" {
			t.Errorf("%+v", file)
		}
	}
	// The layout of Python's client: a link to a blob by its ETag, and the revision's commit.
	link, err := os.Readlink(filepath.Join(r.Path, "sub", "model.safetensors"))
	if want := fmt.Sprintf("../../../blobs/%x", sha256.Sum256(f.weights())); err != nil || link != want {
		t.Errorf("the link is %q, %v, want %q", link, err, want)
	}
	if got, _ := os.ReadFile(filepath.Join(r.Path, "sub", "model.safetensors")); !bytes.Equal(got, f.weights()) {
		t.Error("other bytes")
	}
	if got, _ := os.ReadFile(filepath.Join(base, "refs", "main")); string(got) != commit {
		t.Errorf("refs/main is %q", got)
	}
	sent := f.sent()
	again, err := f.resolve("hf:org/repo/sub/model.safetensors")
	if err != nil || !again.Files[0].Cached || f.sent() != sent ||
		again.Path != filepath.Join(r.Path, "sub", "model.safetensors") {
		t.Errorf("a second time: %+v, %v, %d bytes more", again, err, f.sent()-sent)
	}
	left, err := filepath.Glob(filepath.Join(base, "blobs", "*.*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}

	// Without a network the cache serves.
	for _, why := range []string{"closed", "variable"} {
		if why == "closed" {
			t.Setenv("HF_ENDPOINT", "http://127.0.0.1:1")
		} else {
			t.Setenv("HF_HUB_OFFLINE", "1")
		}
		if got, err := f.resolve("hf:org/repo"); err != nil || !got.Offline || got.Path != r.Path {
			t.Errorf("%s: %+v, %v", why, got, err)
		}
		if _, err := f.resolve("hf:org/other"); err == nil || !strings.Contains(err.Error(), "not in the cache") {
			t.Errorf("%s: a repository that is not there: %v", why, err)
		}
	}
}

func TestDroppedConnection(t *testing.T) {
	f := newFake(t)
	f.Drop, f.Busy = 3, 2
	if _, err := f.resolve("hf:org/repo"); err != nil {
		t.Fatal(err)
	}
	sent, ranges := f.Weights()
	if sent != len(f.weights()) || len(ranges) != 4 || ranges[0] != "" || ranges[3] == "" {
		t.Errorf("%d bytes were sent for %d, ranges %q", sent, len(f.weights()), ranges)
	}
}

// What an interrupted process leaves is continued by the next.
func TestInterrupted(t *testing.T) {
	f := newFake(t)
	f.Drop = maxTries
	if _, err := f.resolve("hf:org/repo"); err == nil {
		t.Fatal("no error though every connection broke")
	}
	sent := f.sent()
	if _, err := f.resolve("hf:org/repo"); err != nil || f.sent() != len(f.weights()) || sent == 0 {
		t.Errorf("%v; %d bytes sent in all, %d before, the file has %d", err, f.sent(), sent, len(f.weights()))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Resolve(ctx, "hf:org/repo", Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*fake)
		ref    string
		want   string
	}{
		"wrong sum":    {func(f *fake) { f.WrongSum = true }, "hf:org/repo", "want 00000000"},
		"forbidden":    {func(f *fake) { f.Status = 403 }, "hf:org/repo", "HF_TOKEN"},
		"unauthorized": {func(f *fake) { f.Status = 401 }, "hf:org/repo", "accept its licence"},
		"not found":    {func(*fake) {}, "hf:org/none", "404 Not Found"},
		"no file":      {func(*fake) {}, "hf:org/repo/none.bin", "404 Not Found"},
		"teapot":       {func(f *fake) { f.Status = 418 }, "hf:org/repo", "418"},
		"always busy":  {func(f *fake) { f.Busy = 1000 }, "hf:org/repo", "503"},
		"out of folder": {func(f *fake) { f.list(`[{"rfilename":"../../x.safetensors"}]`) }, "hf:org/repo",
			"leaves its folder"},
		"absolute": {func(f *fake) { f.list(`[{"rfilename":"/etc/x.json"}]`) }, "hf:org/repo",
			"leaves its folder"},
		"control": {func(f *fake) { f.list(`[{"rfilename":"a\u001b.json"}]`) }, "hf:org/repo",
			"leaves its folder"},
		"nothing needed": {func(f *fake) { f.list(`[{"rfilename":"README.md"}]`) }, "hf:org/repo",
			"no weight files"},
		"no JSON": {func(f *fake) { f.list(`[`) }, "hf:org/repo", "no JSON"},
		"too long": {func(f *fake) { f.list("[" + strings.Repeat(" ", maxInfo) + "]") }, "hf:org/repo",
			"more than"},
		"a sum": {func(*fake) {}, "sum", "its own checksums"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			c.change(f)
			o := f.options()
			if c.ref == "sum" {
				c.ref, o.SHA256 = "hf:org/repo", strings.Repeat("0", 64)
			}
			_, err := Resolve(t.Context(), c.ref, o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			// Nothing that is not whole has the name of a file.
			snapshots, _ := filepath.Glob(filepath.Join(os.Getenv("HF_HOME"), "hub", "*", "snapshots", "*", "sub", "*"))
			if len(snapshots) > 0 {
				t.Errorf("there is %q", snapshots)
			}
		})
	}
	f := newFake(t)
	o := f.options()
	o.free = func(string) int64 { return 1000 }
	if _, err := Resolve(t.Context(), "hf:org/repo", o); !errors.Is(err, errNoSpace) {
		t.Errorf("a full disk: %v", err)
	}
}

func TestTwoAtOnce(t *testing.T) {
	f := newFake(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := f.resolve("hf:org/repo"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if f.sent() != len(f.weights()) {
		t.Errorf("%d bytes were sent for %d", f.sent(), len(f.weights()))
	}
}

func TestPlainFile(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	body := bytes.Repeat([]byte("weights "), 5000)
	sum := fmt.Sprintf("%x", sha256.Sum256(body))
	etag, drops := `"v1"`, 1
	var ranges []string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/down":
			http.Redirect(w, r, "http://127.0.0.1:1/x.pt", http.StatusFound)
			return
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
			return
		}
		w.Header().Set("ETag", etag)
		if r.Method == http.MethodGet {
			ranges = append(ranges, r.Header.Get("Range"))
			if drops--; drops == 0 {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				w.Write(body[:12345])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}))
	defer srv.Close()
	dir := t.TempDir()
	get := func(path string, o Options) (*Result, error) {
		o.net, o.Out = srv.Client().Transport, dir
		o.wait = func(ctx context.Context, d time.Duration) error { return ctx.Err() }
		return Resolve(t.Context(), srv.URL+path, o)
	}
	r, err := get("/a.pt", Options{SHA256: sum})
	if err != nil || len(ranges) != 2 || ranges[1] != "bytes=12345-" || !r.Files[0].Checked ||
		r.Path != filepath.Join(dir, "a.pt") {
		t.Errorf("%+v, %v, ranges %q", r, err, ranges)
	}
	if r, err := get("/a.pt", Options{}); err != nil || !r.Files[0].Cached || r.Files[0].SHA256 != sum ||
		r.Files[0].Checked {
		t.Errorf("a second time: %+v, %v", r, err)
	}
	if _, err := get("/a.pt", Options{SHA256: strings.Repeat("1", 64)}); err == nil ||
		!strings.Contains(err.Error(), "is there already") {
		t.Errorf("another file in its place: %v", err)
	}
	if _, err := get("/b.pt", Options{SHA256: strings.Repeat("1", 64)}); err == nil ||
		!strings.Contains(err.Error(), "want 1111") {
		t.Errorf("a wrong sum: %v", err)
	}
	// The file changed on the server since: it is fetched anew.
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "c.pt.incomplete"), []byte("older"), 0o666),
		os.WriteFile(filepath.Join(dir, "c.pt.incomplete.etag"), []byte(`"v0"`), 0o666)); err != nil {
		t.Fatal(err)
	}
	if r, err := get("/c.pt", Options{}); err != nil || r.Files[0].SHA256 != sum {
		t.Errorf("a file that changed: %+v, %v", r, err)
	}
	for path, want := range map[string]string{"/down": "want https", "/loop": "redirects"} {
		if _, err := get(path, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*.pt")); len(files) != 2 {
		t.Errorf("there is %q, want a.pt and c.pt", files)
	}
}
