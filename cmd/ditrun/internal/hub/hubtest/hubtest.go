// Package hubtest plays the model hub, and servers of files at https addresses, for tests.
package hubtest

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Commit is the commit of revision main in every repository.
const Commit = "0123456789abcdef0123456789abcdef01234567"

// token is what requests to the hub must bring, and no others may.
const token = "secret"

// A Server speaks the URL scheme of the hub, from memory: it sends small files itself, and leads to another host for
// the weights. It fails as it is told, by fields that are set before the request.
type Server struct {
	*httptest.Server
	Repos map[string]Repo   // by ORG/REPO
	Files map[string][]byte // elsewhere, by https address

	Status   int  // of every answer of the hub, where it is not 0
	Busy     int  // answers 503 of the hub before any other
	Drop     int  // connections for weights that break off at half of what is left
	WrongSum bool // the hub's checksums of weights are those of other files

	t   *testing.T
	far *httptest.Server // of weights

	mu       sync.Mutex // of what follows, Busy and Drop
	requests int
	sent     int
	ranges   []string
}

// A Repo is a repository of the hub.
type Repo struct {
	License string
	Files   map[string][]byte // by name
	Listing string            // JSON, where the hub is to list others than Files
}

// New starts a server for the time of the test. HF_ENDPOINT leads to it, http.DefaultTransport sends it the requests
// for https addresses, and the cache is empty.
func New(t *testing.T) *Server {
	t.Helper()
	s := &Server{t: t, Repos: map[string]Repo{}, Files: map[string][]byte{}}
	s.far = httptest.NewServer(http.HandlerFunc(s.weights))
	t.Cleanup(s.far.Close)
	s.Server = httptest.NewServer(http.HandlerFunc(s.hub))
	t.Cleanup(s.Close)
	t.Setenv("HF_ENDPOINT", s.URL)
	t.Setenv("HF_TOKEN", token)
	EmptyCache(t)
	direct := http.DefaultTransport
	http.DefaultTransport = elsewhere{s, direct}
	t.Cleanup(func() { http.DefaultTransport = direct })
	return s
}

// EmptyCache gives the process a cache of its own for the time of the test.
func EmptyCache(t *testing.T) {
	t.Helper()
	for _, k := range []string{"HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGINGFACE_HUB_CACHE"} {
		t.Setenv(k, "")
	}
	t.Setenv("HF_HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", os.Getenv("HF_HOME"))
}

// Requests is how many came so far.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// Weights returns how many bytes of weights were sent so far, and the header Range of each request for them.
func (s *Server) Weights() (sent int, ranges []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent, slices.Clone(s.ranges)
}

func (s *Server) hub(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests++
	busy := s.Busy > 0
	s.Busy--
	s.mu.Unlock()
	switch {
	case s.Status != 0:
		w.WriteHeader(s.Status)
		return
	case busy:
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+token {
		s.t.Error("no token at the hub")
	}
	for name, repo := range s.Repos {
		if r.URL.Path == "/api/models/"+name+"/revision/main" {
			fmt.Fprintf(w, `{"sha":%q,"siblings":%s,"cardData":{"license":%q}}`, Commit, repo.listing(), repo.License)
			return
		}
		if file, ok := strings.CutPrefix(r.URL.Path, "/"+name+"/resolve/"+Commit+"/"); ok {
			s.file(w, r, name, file)
			return
		}
	}
	http.NotFound(w, r)
}

// listing is what the hub says of the files.
func (r Repo) listing() string {
	if r.Listing != "" {
		return r.Listing
	}
	all := []map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		all = append(all, map[string]string{"rfilename": name})
	}
	text, err := json.Marshal(all)
	if err != nil {
		panic(err) // of strings
	}
	return string(text)
}

func (s *Server) file(w http.ResponseWriter, r *http.Request, repo, name string) {
	b, ok := s.Repos[repo].Files[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	switch path.Ext(name) {
	case ".safetensors", ".bin", ".pt":
		sum := fmt.Sprintf("%x", sha256.Sum256(b))
		if s.WrongSum {
			sum = strings.Repeat("0", len(sum))
		}
		w.Header().Set("X-Linked-Etag", `"`+sum+`"`)
		w.Header().Set("X-Linked-Size", fmt.Sprint(len(b)))
		http.Redirect(w, r, s.far.URL+"/"+repo+"/"+name, http.StatusFound)
	default:
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(b)), b...))))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

// weights is the other host: /ORG/REPO/FILE.
func (s *Server) weights(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		s.t.Error("the token went to another host")
	}
	parts := strings.SplitN(r.URL.Path, "/", 4)
	b := s.Repos[parts[1]+"/"+parts[2]].Files[parts[3]]
	from := 0
	text := r.Header.Get("Range")
	if text != "" {
		if _, err := fmt.Sscanf(text, "bytes=%d-", &from); err != nil {
			s.t.Error(err)
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
	}
	b = b[from:]
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	s.mu.Lock()
	s.requests++
	s.ranges = append(s.ranges, text)
	broken := s.Drop > 0
	s.Drop--
	if broken {
		b = b[:len(b)/2]
	}
	s.sent += len(b)
	s.mu.Unlock()
	w.Write(b)
	if broken {
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// elsewhere answers requests for https addresses.
type elsewhere struct {
	s      *Server
	direct http.RoundTripper
}

func (x elsewhere) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return x.direct.RoundTrip(r)
	}
	if r.Header.Get("Authorization") != "" {
		x.s.t.Error("the token went to another host")
	}
	x.s.mu.Lock()
	x.s.requests++
	x.s.mu.Unlock()
	w := httptest.NewRecorder()
	if b, ok := x.s.Files[r.URL.String()]; ok {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	} else {
		http.NotFound(w, r)
	}
	answer := w.Result()
	answer.Request = r
	if r.Method == http.MethodHead {
		fmt.Sscan(answer.Header.Get("Content-Length"), &answer.ContentLength)
	}
	return answer, nil
}
