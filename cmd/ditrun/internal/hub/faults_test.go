package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
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
