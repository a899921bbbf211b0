package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/internal/disk"
)

// A theHub speaks the URL scheme of the hub, and that of the server of DiT's files, and counts requests.
type theHub struct {
	*httptest.Server
	repos    map[string]fakeRepo // by ORG/REPO
	files    map[string]string   // by https address
	requests int
}

type fakeRepo struct {
	license string
	files   map[string]string // paths by the names on the hub
}

const hubCommit = "31f26fdeee1355a5c34592e401dd41e45d25a493"

// newHub starts a hub, and gives this process an empty cache.
func newHub(t *testing.T) *theHub {
	t.Helper()
	h := &theHub{repos: map[string]fakeRepo{}, files: map[string]string{}}
	h.Server = httptest.NewServer(http.HandlerFunc(h.answer))
	t.Cleanup(h.Close)
	t.Setenv("HF_ENDPOINT", h.URL)
	emptyCache(t)
	direct := http.DefaultTransport
	http.DefaultTransport = toHub{h, direct}
	t.Cleanup(func() { http.DefaultTransport = direct })
	return h
}

func emptyCache(t *testing.T) {
	t.Helper()
	for _, k := range []string{"HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGINGFACE_HUB_CACHE"} {
		t.Setenv(k, "")
	}
	t.Setenv("HF_HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", os.Getenv("HF_HOME"))
}

// toHub sends requests for https addresses to the hub, which knows them by their whole address.
type toHub struct {
	hub    *theHub
	direct http.RoundTripper
}

func (x toHub) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.URL.Scheme != "https" {
		return x.direct.RoundTrip(q)
	}
	w := httptest.NewRecorder()
	x.hub.requests++
	if path, ok := x.hub.files[q.URL.String()]; ok {
		http.ServeFile(w, q, path)
	} else {
		http.NotFound(w, q)
	}
	r := w.Result()
	r.Request = q
	if q.Method == http.MethodHead {
		fmt.Sscan(r.Header.Get("Content-Length"), &r.ContentLength)
	}
	return r, nil
}

func (h *theHub) answer(w http.ResponseWriter, q *http.Request) {
	h.requests++
	for name, repo := range h.repos {
		if q.URL.Path == "/api/models/"+name+"/revision/main" {
			var siblings []map[string]string
			for _, file := range slices.Sorted(maps.Keys(repo.files)) {
				siblings = append(siblings, map[string]string{"rfilename": file})
			}
			json.NewEncoder(w).Encode(map[string]any{"sha": hubCommit, "siblings": siblings,
				"cardData": map[string]string{"license": repo.license}})
			return
		}
		file, ok := strings.CutPrefix(q.URL.Path, "/"+name+"/resolve/"+hubCommit+"/")
		if path := repo.files[file]; ok && path != "" {
			sum, err := disk.SHA256(path)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("ETag", `"`+sum+`"`)
			http.ServeFile(w, q, path)
			return
		}
	}
	http.NotFound(w, q)
}

// addVAE puts an autoencoder there, with the names that the files of stabilityai's have on the hub.
func (h *theHub) addVAE(t *testing.T, repo, dir string) {
	t.Helper()
	other := filepath.Join(t.TempDir(), "other")
	write(t, other, []byte("not for this program"))
	h.repos[repo] = fakeRepo{"mit", map[string]string{"config.json": filepath.Join(dir, "config.json"),
		"diffusion_pytorch_model.safetensors": filepath.Join(dir, vaeWeights),
		"diffusion_pytorch_model.bin":         other, "README.md": other, ".gitattributes": other}}
}
