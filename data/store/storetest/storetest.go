// Package storetest plays S3-compatible storage for tests.
package storetest

import (
	"crypto/md5"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Serve starts the server for the time of the test and makes s3:// lead to it.
func (f *Server) Serve(t *testing.T) {
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	Connect(t, s.URL)
}

// Connect makes s3:// lead to the server at an address for the time of the test.
func Connect(t *testing.T, address string) {
	t.Setenv("AWS_ENDPOINT_URL", address)
	t.Setenv("AWS_ACCESS_KEY_ID", "TESTKEY")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
}

// Server answers the requests that a store.Set makes, from memory, in any bucket, and fails as it is told.
type Server struct {
	Objects map[string][]byte
	Fault   func(w http.ResponseWriter, r *http.Request) bool // may be nil; true: it has answered
	Served  atomic.Int64                                      // bytes of objects
	Gets    atomic.Int64                                      // requests for objects
	Endless bool                                              // listings never end

	mu sync.RWMutex // once the server serves, Objects, Fault and Endless are set under Change
}

// Change runs what changes the fields of a server that serves: a client that gave up may have left it a request.
func (f *Server) Change(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// ETag is what a server calls a content.
func ETag(b []byte) string { return fmt.Sprintf(`"%x"`, md5.Sum(b)) }

// Refuse answers with an error of the service.
func Refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>as told</Message></Error>", code)
}

func (f *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.RLock()
	objects, fault, endless := f.Objects, f.Fault, f.Endless
	f.mu.RUnlock()
	if fault != nil && fault(w, r) {
		return
	}
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if r.URL.Query().Get("list-type") == "2" {
		list(w, r, objects, endless)
		return
	}
	b, ok := objects[key]
	if !ok {
		Refuse(w, 404, "NoSuchKey")
		return
	}
	if m := r.Header.Get("If-Match"); m != "" && m != ETag(b) {
		Refuse(w, 412, "PreconditionFailed")
		return
	}
	w.Header().Set("ETag", ETag(b))
	w.Header().Set("Last-Modified", time.Unix(0, 0).UTC().Format(http.TimeFormat))
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		return
	}
	f.Gets.Add(1)
	var lo, hi int
	if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &lo, &hi); n == 2 {
		hi = min(hi, len(b)-1)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", lo, hi, len(b)))
		w.Header().Set("Content-Length", strconv.Itoa(hi+1-lo))
		w.WriteHeader(http.StatusPartialContent)
		b = b[lo : hi+1]
	}
	f.Served.Add(int64(len(b))) // before the reader can be done
	w.Write(b)
}

func list(w http.ResponseWriter, r *http.Request, objects map[string][]byte, endless bool) {
	type content struct {
		Key          string
		Size         int
		ETag         string
		LastModified string
	}
	var result struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		IsTruncated           bool
		NextContinuationToken string `xml:",omitempty"`
		Contents              []content
	}
	q := r.URL.Query()
	var keys []string
	for key := range objects {
		if strings.HasPrefix(key, q.Get("prefix")) && key > q.Get("continuation-token") {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	const page = 3
	if len(keys) > page {
		keys = keys[:page]
		result.IsTruncated, result.NextContinuationToken = true, keys[page-1]
	}
	if endless && len(keys) > 0 {
		result.IsTruncated, result.NextContinuationToken = true, q.Get("continuation-token")+" "
		keys = keys[:1]
	}
	for _, key := range keys {
		if d := q.Get("delimiter"); d != "" && strings.Contains(key[len(q.Get("prefix")):], d) {
			continue
		}
		result.Contents = append(result.Contents,
			content{key, len(objects[key]), ETag(objects[key]), "2026-01-01T00:00:00.000Z"})
	}
	w.Header().Set("Content-Type", "application/xml")
	xml.NewEncoder(w).Encode(result)
}
