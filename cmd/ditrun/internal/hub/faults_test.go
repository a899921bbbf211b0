package hub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/transfer"
)

// A plainServer serves one file at a plain address, in the way that answer says.
type plainServer struct {
	*httptest.Server
	dir  string // where files go
	body []byte

	mu       sync.Mutex
	requests []string // method, range
	said     []string
}

// seen are the requests so far.
func (s *plainServer) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

type answering = func(s *plainServer, n int, w http.ResponseWriter, r *http.Request)

// serveFile starts a server. Answer gets the number of the GET request, from 0; HEAD is answered with the length,
// unless that is negative, and with the headers given.
func serveFile(t *testing.T, head map[string]string, length int, answer answering) *plainServer {
	s := &plainServer{dir: t.TempDir(), body: bytes.Repeat([]byte("weights "), 5000)}
	gets := 0
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, strings.TrimSpace(r.Method+" "+r.Header.Get("Range")))
		n := gets
		if r.Method == http.MethodGet {
			gets++
		}
		s.mu.Unlock()
		for k, v := range head {
			w.Header().Set(k, v)
		}
		if r.Method == http.MethodHead {
			if length >= 0 {
				w.Header().Set("Content-Length", fmt.Sprint(length))
			}
			return
		}
		answer(s, n, w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// get fetches the file, without pauses between tries.
func (s *plainServer) get(t *testing.T, o Options) (*Result, error) {
	t.Helper()
	if o.net == nil {
		o.net = s.Client().Transport
	}
	o.Out = s.dir
	o.wait = func(ctx context.Context, d time.Duration) error { return ctx.Err() }
	s.requests, s.said = nil, nil
	o.Waiting = func(text string) { s.said = append(s.said, text) }
	return Resolve(t.Context(), s.URL+"/x.pt", o)
}

// files returns the names of what is in the folder.
func (s *plainServer) files(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// part sends the bytes [from, to) of a longer body and ends the connection.
func (s *plainServer) part(w http.ResponseWriter, from, to int) {
	w.Header().Set("Content-Length", fmt.Sprint(len(s.body)-from))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(s.body)-1, len(s.body)))
		w.WriteHeader(http.StatusPartialContent)
	}
	w.Write(s.body[from:to])
	w.(http.Flusher).Flush()
	if to < len(s.body) {
		panic(http.ErrAbortHandler)
	}
}

const length = 40000 // of plainServer.body

func TestNeverAnswers(t *testing.T) {
	s := serveFile(t, nil, length,
		func(_ *plainServer, _ int, _ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		})
	_, err := s.get(t, Options{limits: transfer.Limits{Header: time.Second, Idle: time.Minute}})
	stall := (*transfer.StallError)(nil)
	if !errors.As(err, &stall) || stall.Answered {
		t.Errorf("error %v", err)
	}
	if got := strings.Join(s.seen(), ", "); !strings.HasSuffix(got, "HEAD, GET, GET, GET") {
		t.Errorf("requests: %s", got)
	}
	if len(s.said) < 2 || !strings.Contains(s.said[0], "no answer within 1s: try 2 of 3 in 1s") {
		t.Errorf("said %q", s.said)
	}
	if left := s.files(t); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// A connection that brings nothing any more is continued where it is.
func TestStalledBody(t *testing.T) {
	s := serveFile(t, map[string]string{"ETag": `"a"`}, length,
		func(s *plainServer, n int, w http.ResponseWriter, r *http.Request) {
			switch n {
			case 0:
				w.Header().Set("Content-Length", fmt.Sprint(len(s.body)))
				w.Write(s.body[:10000])
				for i := 10000; ; i++ { // a byte now and then
					w.Write(s.body[i : i+1])
					w.(http.Flusher).Flush()
					select {
					case <-r.Context().Done():
						return
					case <-time.After(100 * time.Millisecond):
					}
				}
			default:
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.body))
			}
		})
	r, err := s.get(t, Options{SHA256: fmt.Sprintf("%x", sha256.Sum256(s.body)),
		limits: transfer.Limits{Header: time.Minute, Idle: time.Second}})
	if err != nil || r.Files[0].Size != length {
		t.Fatalf("%+v, %v", r, err)
	}
	if len(s.seen()) != 3 || !strings.HasPrefix(s.seen()[2], "GET bytes=100") {
		t.Errorf("requests %q", s.seen())
	}
	if len(s.said) != 1 || !strings.Contains(s.said[0], "fewer than 1000 bytes came within 1s: try 2 of 5") {
		t.Errorf("said %q", s.said)
	}
	if left := s.files(t); left != "x.pt" {
		t.Errorf("there is %s", left)
	}
}

// Errors that stay are met once.
func TestFinalErrors(t *testing.T) {
	for name, c := range map[string]struct {
		answer answering
		change func(o *Options)
		want   string
		gets   int
	}{
		"certificate": {nil, func(o *Options) { o.net = &http.Transport{} }, "certificate", 0},
		"redirect": {func(_ *plainServer, _ int, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}, nil, "want https", 1},
		"loop": {func(_ *plainServer, _ int, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/x.pt", http.StatusFound)
		}, nil, "more than 8 redirects", 1 + maxRedirects},
		"no address": {func(_ *plainServer, _ int, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "ftp://x\x1b[31m/y")
			w.WriteHeader(http.StatusFound)
		}, nil, "Location", 1},
		"packed": {func(s *plainServer, _ int, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(s.body)
		}, nil, `Content-Encoding "gzip"`, 1},
		"too long": {func(s *plainServer, _ int, w http.ResponseWriter, _ *http.Request) {
			w.Write(append(s.body, 'x'))
		}, nil, "sends more than it said (40000 bytes)", 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveFile(t, map[string]string{"ETag": `"a"`}, length, c.answer)
			var o Options
			if c.change != nil {
				c.change(&o)
			}
			_, err := s.get(t, o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			gets := 0
			for _, r := range s.seen() {
				if strings.HasPrefix(r, "GET") {
					gets++
				}
			}
			if gets != c.gets || len(s.said) > 0 {
				t.Errorf("requests %q, said %q", s.seen(), s.said)
			}
			if left := s.files(t); left != "" || errors.As(err, new(*PartialError)) {
				t.Errorf("left behind: %s; error %#v", left, err)
			}
		})
	}
}

// A file that may not grow further is one of the errors that stay; what came is kept. The limit is of the whole
// process, so that it is one of its own.
func TestFileSizeLimit(t *testing.T) {
	const inside = "DITRUN_TEST_FILE_SIZE_LIMIT"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFileSizeLimit$")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 5000, Max: 5000}); err != nil {
		t.Fatal(err)
	}
	s := serveFile(t, map[string]string{"ETag": `"a"`}, length,
		func(s *plainServer, _ int, w http.ResponseWriter, _ *http.Request) {
			w.Write(s.body)
		})
	_, err := s.get(t, Options{})
	partial := (*PartialError)(nil)
	if !errors.Is(err, syscall.EFBIG) || !errors.As(err, &partial) || partial.Bytes != 5000 {
		t.Errorf("error %v, %+v", err, partial)
	}
	if got := strings.Join(s.seen(), ", "); got != "HEAD, GET" || len(s.said) > 0 {
		t.Errorf("requests: %s, said %q", got, s.said)
	}
}

// A server that answers a request for the end of a file with another part does not keep the file from ever coming.
func TestWrongRange(t *testing.T) {
	for name, second := range map[string]func(s *plainServer, w http.ResponseWriter){
		"all of it": func(s *plainServer, w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 0-39999/40000")
			w.WriteHeader(http.StatusPartialContent)
			w.Write(s.body)
		},
		"another part": func(s *plainServer, w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 7-39999/40000")
			w.WriteHeader(http.StatusPartialContent)
			w.Write(s.body[7:])
		},
		"another length": func(s *plainServer, w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 20000-49999/50000")
			w.WriteHeader(http.StatusPartialContent)
			w.Write(s.body[:30000])
		},
		"no range": func(s *plainServer, w http.ResponseWriter) {
			w.WriteHeader(http.StatusPartialContent)
			w.Write(s.body)
		},
		"refused": func(_ *plainServer, w http.ResponseWriter) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveFile(t, map[string]string{"ETag": `"a"`}, length,
				func(s *plainServer, n int, w http.ResponseWriter, r *http.Request) {
					switch {
					case n == 0:
						s.part(w, 0, 20000)
					case r.Header.Get("Range") != "":
						second(s, w)
					default:
						s.part(w, 0, length)
					}
				})
			r, err := s.get(t, Options{SHA256: fmt.Sprintf("%x", sha256.Sum256(s.body))})
			if err != nil || r.Files[0].Size != length {
				t.Errorf("%+v, %v; requests %q", r, err, s.seen())
			}
			if len(s.seen()) > 4 {
				t.Errorf("requests %q", s.seen())
			}
		})
	}
}

// Where nothing says whether the file is the same, a broken one is fetched from the start, but not again and again.
func TestNothingToContinueBy(t *testing.T) {
	broken := func(s *plainServer, _ int, w http.ResponseWriter, _ *http.Request) { s.part(w, 0, 20000) }
	s := serveFile(t, nil, length, broken)
	if _, err := s.get(t, Options{}); err == nil || !strings.Contains(err.Error(), "no ETag") {
		t.Errorf("error %v", err)
	}
	if got := strings.Join(s.seen(), ", "); got != "HEAD, GET, GET" {
		t.Errorf("requests: %s", got)
	}
	if left := s.files(t); left != "" {
		t.Errorf("left behind: %s", left)
	}
	// A date, or the checksum that the user knows, serve as well.
	continued := func(s *plainServer, n int, w http.ResponseWriter, r *http.Request) {
		if n == 0 {
			s.part(w, 0, 20000)
		}
		s.part(w, 20000, length)
	}
	for _, head := range []map[string]string{{"Last-Modified": "Tue, 03 Nov 2026 10:00:00 GMT"}, {},
		{"ETag": `W/"a"`}} {
		s := serveFile(t, head, length, continued)
		o := Options{SHA256: fmt.Sprintf("%x", sha256.Sum256(s.body))}
		if head["Last-Modified"] != "" {
			o.SHA256 = ""
		}
		if _, err := s.get(t, o); err != nil || len(s.seen()) != 3 || s.seen()[2] != "GET bytes=20000-" {
			t.Errorf("%v: %v, requests %q", head, err, s.seen())
		}
	}
}

func TestEndlessBody(t *testing.T) {
	s := serveFile(t, nil, -1, func(s *plainServer, _ int, w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			w.Write(s.body)
		}
	})
	for _, o := range []Options{{most: 1 << 20}, {free: func(string) int64 { return 2 << 20 }}} {
		_, err := s.get(t, o)
		if err == nil || !strings.Contains(err.Error(),
			"still sends after 1048576 bytes, and does not say how long it is") {
			t.Errorf("error %v", err)
		}
		if got := strings.Join(s.seen(), ", "); got != "HEAD, GET" {
			t.Errorf("requests: %s", got)
		}
		if left := s.files(t); left != "" {
			t.Errorf("left behind: %s", left)
		}
	}
}

// A body of unknown length that ends is a file.
func TestUnknownLength(t *testing.T) {
	s := serveFile(t, nil, -1, func(s *plainServer, _ int, w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		w.Write(s.body)
	})
	if r, err := s.get(t, Options{}); err != nil || r.Files[0].Size != length {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestWaitsForAnother(t *testing.T) {
	s := serveFile(t, nil, length, func(s *plainServer, _ int, w http.ResponseWriter, _ *http.Request) {
		s.part(w, 0, length)
	})
	lock, err := disk.TryLock(filepath.Join(s.dir, "x.pt.lock"))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{License: func(string) { time.AfterFunc(300*time.Millisecond, lock.Remove) }}
	if _, err := s.get(t, o); err != nil {
		t.Fatal(err)
	}
	if len(s.said) != 1 || !strings.Contains(s.said[0], "x.pt: waiting for another process that fetches it") {
		t.Errorf("said %q", s.said)
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
