package hub

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ditrun/ditrun/internal/transfer"
)

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
