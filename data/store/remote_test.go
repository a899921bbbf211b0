package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/ditrun/ditrun/data/store/storetest"
	"github.com/ditrun/ditrun/internal/testtool"
	"github.com/ditrun/ditrun/internal/transfer"
)

func noise(n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func names(s *Set) string {
	var list []string
	for _, o := range s.Objects {
		list = append(list, o.Name)
	}
	return strings.Join(list, " ")
}

func TestRemoteListing(t *testing.T) {
	f := &storetest.Server{Objects: map[string][]byte{"set/b/2.png": noise(2), "set/b/1.png": noise(3),
		"set/a/x y.png": noise(4), "set/empty/": nil, "set/": nil,
		"set-other/1.png": nil, "train-0.tar": noise(5), "train-1.tar": noise(6), "val-0.tar": noise(7)}}
	f.Serve(t)
	for location, want := range map[string]string{
		"s3://bucket/set":         "s3://bucket/set false [a b empty]: a/x y.png b/1.png b/2.png",
		"s3://bucket/set/":        "s3://bucket/set false [a b empty]: a/x y.png b/1.png b/2.png",
		"s3://bucket/train-1.tar": "s3://bucket true []: train-1.tar",
		"s3://bucket/set/b/1.png": "s3://bucket/set/b true []: 1.png",
		"s3://bucket/train-*.tar": "s3://bucket false []: train-0.tar train-1.tar",
		"s3://bucket": "s3://bucket false [set set-other]: set-other/1.png set/a/x y.png set/b/1.png " +
			"set/b/2.png train-0.tar train-1.tar val-0.tar",
	} {
		s, err := Open(t.Context(), location)
		if err != nil {
			t.Errorf("%s: %v", location, err)
			continue
		}
		if got := fmt.Sprintf("%s %v %v: %s", s.Root, s.Single, s.Folders, names(s)); got != want {
			t.Errorf("%s: %s, want %s", location, got, want)
		}
		for i, o := range s.Objects {
			b := readAll(t, s, i)
			if full := strings.TrimPrefix(s.Path(o.Name), "s3://bucket/"); !bytes.Equal(b, f.Objects[full]) {
				t.Errorf("%s: %s has other bytes", location, o.Name)
			}
		}
	}
	s, err := Open(t.Context(), "s3://bucket/set")
	if err != nil {
		t.Fatal(err)
	}
	below := s.Below("b")
	if names(below) != "1.png 2.png" || below.Path("1.png") != "s3://bucket/set/b/1.png" ||
		!bytes.Equal(readAll(t, below, 1), f.Objects["set/b/2.png"]) {
		t.Errorf("below: %s", names(below))
	}
	for location, want := range map[string]string{
		"s3://bucket/none": "nothing is there (with the credentials of TEST...)",
		"s3:///x":          "no bucket in it",
		"gs://bucket/x":    "want a path or s3://bucket/key",
	} {
		if _, err := Open(t.Context(), location); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", location, err, want)
		}
	}
	f.Change(func() { f.Endless = true })
	if _, err := Open(t.Context(), "s3://bucket/set"); err == nil ||
		!strings.Contains(err.Error(), "the listing does not end") {
		t.Errorf("endless listing: %v", err)
	}
	f.Change(func() {
		f.Fault = func(w http.ResponseWriter, r *http.Request) bool {
			storetest.Refuse(w, 403, "AccessDenied")
			return true
		}
	})
	if _, err := Open(t.Context(), "s3://bucket/set"); err == nil ||
		!strings.Contains(err.Error(), "access denied, with the credentials of TEST... (AWS_ACCESS_KEY_ID") {
		t.Errorf("forbidden: %v", err)
	}
}

func readAll(t *testing.T, s *Set, i int) []byte {
	t.Helper()
	f, err := s.File(i)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, s.Objects[i].Size))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Reads through throttling, server errors and connections that break in the middle: the bytes are right, and none was
// sent twice.
func TestRemoteReadRetries(t *testing.T) {
	b := noise(1 << 20)
	f := &storetest.Server{Objects: map[string][]byte{"x": b}}
	var n atomic.Int64
	f.Fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		switch k := n.Add(1); {
		case k%4 == 1:
			storetest.Refuse(w, 503, "SlowDown")
			return true
		case k%4 == 2:
			storetest.Refuse(w, 500, "InternalError")
			return true
		case k%4 == 3 && k < 12: // a part, then nothing
			var lo, hi int
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &lo, &hi)
			w.Header().Set("ETag", storetest.ETag(b))
			w.Header().Set("Last-Modified", time.Unix(0, 0).UTC().Format(http.TimeFormat))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", lo, hi, len(b)))
			w.Header().Set("Content-Length", strconv.Itoa(hi+1-lo))
			w.WriteHeader(http.StatusPartialContent)
			part := b[lo:min(lo+100_000, hi+1)]
			f.Served.Add(int64(len(part)))
			w.Write(part)
			w.(http.Flusher).Flush()
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.Close()
			}
			return true
		}
		return false
	}
	f.Serve(t)
	s, err := Open(t.Context(), "s3://bucket/x")
	if err != nil {
		t.Fatal(err)
	}
	file, err := s.File(0)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 700_000)
	if k, err := file.ReadAt(got, 1000); k != len(got) || err != nil {
		t.Fatalf("%d bytes, error %v", k, err)
	}
	if !bytes.Equal(got, b[1000:701_000]) {
		t.Error("other bytes")
	}
	if served := f.Served.Load(); served != int64(len(got)) {
		t.Errorf("%d bytes were sent, want %d", served, len(got))
	}
	n.Store(4 * 1000) // no more faults than a throttled request now and then
	if k, err := file.ReadAt(got, int64(len(b)-10)); k != 10 || !errors.Is(err, io.EOF) ||
		!bytes.Equal(got[:10], b[len(b)-10:]) {
		t.Errorf("at the end: %d bytes, error %v", k, err)
	}
	if k, err := file.ReadAt(got, int64(len(b))); k != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("past the end: %d bytes, error %v", k, err)
	}
}

// A server that keeps a reader waiting does not do so for ever, and what it had sent is not asked for again.
func TestRemoteStalls(t *testing.T) {
	const soon = 200 * time.Millisecond
	late := transfer.Limits{Header: soon, Idle: time.Minute}
	slow := transfer.Limits{Header: time.Minute, Idle: soon}
	b := noise(200_000)
	f := &storetest.Server{Objects: map[string][]byte{"x": b}}
	f.Serve(t)
	var gets atomic.Int64
	silent := func(w http.ResponseWriter, r *http.Request) bool { gets.Add(1); <-r.Context().Done(); return true }
	// drip sends n bytes of what is asked for, then one now and then.
	drip := func(n int) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			gets.Add(1)
			var lo, hi int
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &lo, &hi)
			w.Header().Set("ETag", storetest.ETag(b))
			w.Header().Set("Last-Modified", time.Unix(0, 0).UTC().Format(http.TimeFormat))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", lo, hi, len(b)))
			w.Header().Set("Content-Length", strconv.Itoa(hi+1-lo))
			w.WriteHeader(http.StatusPartialContent)
			n := min(n, hi+1-lo)
			w.Write(b[lo : lo+n])
			for at := lo + n; at <= hi; at++ {
				w.Write(b[at : at+1])
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
					return true
				case <-time.After(soon / 4):
				}
			}
			return true
		}
	}
	for name, c := range map[string]struct {
		read  transfer.Limits
		fault func(w http.ResponseWriter, r *http.Request) bool
		want  string // "" for no error
	}{
		"never answers":       {late, silent, "no answer within 200ms"},
		"a byte now and then": {slow, drip(0), "fewer than 1000 bytes came within 200ms"},
		"in between":          {slow, drip(70_000), ""},
	} {
		f.Change(func() { f.Fault = nil })
		s, err := openRemote(t.Context(), "s3://bucket/x", limits{defaultLimits.list, c.read, time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		file, err := s.File(0)
		if err != nil {
			t.Fatal(err)
		}
		gets.Store(0)
		f.Change(func() { f.Fault = c.fault })
		got := make([]byte, 150_000)
		_, err = file.ReadAt(got, 100)
		switch {
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || gets.Load() != maxFailures):
			t.Errorf("%s: error %v after %d requests, want %q after %d", name, err, gets.Load(), c.want, maxFailures)
		case c.want == "" && (err != nil || !bytes.Equal(got, b[100:150_100]) || gets.Load() < 3):
			t.Errorf("%s: error %v, or other bytes, after %d requests", name, err, gets.Load())
		}
	}
	gets.Store(0)
	f.Change(func() { f.Fault = silent })
	if _, err := openRemote(t.Context(), "s3://bucket/x", limits{list: late}); err == nil ||
		!strings.Contains(err.Error(), "no answer within 200ms") {
		t.Errorf("listing: %v", err)
	}
	if n := gets.Load(); n > listTries {
		t.Errorf("%d requests for a listing", n)
	}
}

func TestRemoteReadFails(t *testing.T) {
	b := noise(1000)
	for name, c := range map[string]struct {
		fault func(w http.ResponseWriter, r *http.Request) bool
		want  string
	}{
		"gone": {func(w http.ResponseWriter, r *http.Request) bool {
			storetest.Refuse(w, 404, "NoSuchKey")
			return true
		}, "read s3://bucket/x: bytes 5 to 105 of 1000: "},
		"forbidden": {func(w http.ResponseWriter, r *http.Request) bool {
			storetest.Refuse(w, 403, "AccessDenied")
			return true
		}, "access denied, with the credentials of TEST..."},
		"changed": {func(w http.ResponseWriter, r *http.Request) bool {
			storetest.Refuse(w, 412, "PreconditionFailed")
			return true
		}, "was changed since it was listed: start again"},
		"other etag": {func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("ETag", `"other"`)
			w.Header().Set("Last-Modified", time.Unix(0, 0).UTC().Format(http.TimeFormat))
			w.Header().Set("Content-Range", "bytes 5-104/1000")
			w.WriteHeader(206)
			w.Write(b[5:105])
			return true
		}, `etag "`},
		"range ignored": {func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("ETag", storetest.ETag(b))
			w.Header().Set("Last-Modified", time.Unix(0, 0).UTC().Format(http.TimeFormat))
			w.Write(b)
			return true
		}, `the server sent the range "" instead of 5-104`},
	} {
		f := &storetest.Server{Objects: map[string][]byte{"x": b}}
		f.Serve(t)
		s, err := Open(t.Context(), "s3://bucket/x")
		if err != nil {
			t.Fatal(err)
		}
		f.Change(func() { f.Fault = c.fault })
		file, err := s.File(0)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := file.ReadAt(make([]byte, 100), 5); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
		if time.Since(start) > 2*time.Second {
			t.Errorf("%s: was tried again", name)
		}
	}
	// The user's end comes at once, whatever the server does.
	ctx, cancel := context.WithCancel(t.Context())
	f := &storetest.Server{Objects: map[string][]byte{"x": b}}
	f.Serve(t)
	s, err := Open(ctx, "s3://bucket/x")
	if err != nil {
		t.Fatal(err)
	}
	f.Change(func() {
		f.Fault = func(w http.ResponseWriter, r *http.Request) bool {
			storetest.Refuse(w, 503, "SlowDown")
			cancel()
			return true
		}
	})
	file, err := s.File(0)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := file.ReadAt(make([]byte, 100), 5); err == nil || time.Since(start) > time.Second {
		t.Errorf("cancelled: error %v after %v", err, time.Since(start))
	}
}

// The cache reads each block once while it has room, never keeps more than it may, and is right under any mix of
// readers.
func TestCached(t *testing.T) {
	f := &storetest.Server{Objects: map[string][]byte{"set/a": noise(100_000), "set/b": noise(65_537),
		"set/c": noise(3)}}
	f.Serve(t)
	whole, err := Open(t.Context(), "s3://bucket/set")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range f.Objects {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	local, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []*Set{whole, local} {
		for _, room := range []int64{1 << 20, 3 * 4096, 1} {
			f.Gets.Store(0)
			s := set.Cached(4096, room)
			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(g), 2))
					for range 60 {
						i := rng.IntN(len(s.Objects))
						want := f.Objects["set/"+s.Objects[i].Name]
						off := rng.IntN(len(want))
						p := make([]byte, 1+rng.IntN(9000))
						file, err := s.File(i)
						if err != nil {
							t.Error(err)
							return
						}
						n, err := file.ReadAt(p, int64(off))
						file.Close()
						if rest := want[off:]; !bytes.Equal(p[:n], rest[:min(len(rest), len(p))]) ||
							(n < len(p)) != errors.Is(err, io.EOF) || n == len(p) && err != nil {
							t.Errorf("%s at %d: %d of %d bytes, error %v", s.Objects[i].Name, off, n, len(p), err)
						}
					}
				})
			}
			wg.Wait()
		}
	}
	s := whole.Cached(4096, 1<<20)
	f.Gets.Store(0)
	for range 3 {
		file, err := s.File(0)
		if err != nil {
			t.Fatal(err)
		}
		for off := int64(0); off < 40_000; off += 700 {
			if _, err := file.ReadAt(make([]byte, 500), off); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := f.Gets.Load(); n != 10 {
		t.Errorf("%d requests for 10 blocks", n)
	}
}

// A real server in a process of its own, behind a proxy that throttles and cuts connections.
func TestRealServer(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	address := startServer(t)
	target, err := url.Parse("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	var requests, throttled, cut atomic.Int64
	proxy := httputil.NewSingleHostReverseProxy(target)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k := requests.Add(1)
		if r.Method == http.MethodGet && r.Header.Get("Range") != "" {
			switch k % 7 {
			case 0:
				throttled.Add(1)
				w.Header().Set("Retry-After", "1")
				storetest.Refuse(w, 503, "SlowDown")
				return
			case 3:
				cut.Add(1)
				proxy.ServeHTTP(&cutWriter{ResponseWriter: w, left: 3000}, r)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	defer front.Close()
	front.Config.ErrorLog = nil
	storetest.Connect(t, front.URL)
	client, err := minio.New(address,
		&minio.Options{Creds: credentials.NewStaticV4("TESTKEY", "secret", ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.MakeBucket(t.Context(), "pictures", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{}
	for i := range 300 {
		name, b := fmt.Sprintf("c%02d/%04d.jpg", i%7, i), noise(1000+i*37)
		want[name] = b
		if _, err := client.PutObject(t.Context(), "pictures", "train/"+name, bytes.NewReader(b), int64(len(b)),
			minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(t.Context(), "s3://pictures/train")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Objects) != len(want) || len(s.Folders) != 7 {
		t.Fatalf("%d objects in %d folders, want %d in 7", len(s.Objects), len(s.Folders), len(want))
	}
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 16 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(s.Objects); i = int(next.Add(1)) - 1 {
				o := s.Objects[i]
				f, err := s.File(i)
				if err != nil {
					t.Error(err)
					return
				}
				b := make([]byte, o.Size)
				if _, err := f.ReadAt(b, 0); err != nil || !bytes.Equal(b, want[o.Name]) {
					t.Errorf("%s: error %v or other bytes", o.Name, err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d requests, %d throttled, %d cut", requests.Load(), throttled.Load(), cut.Load())
	if throttled.Load() < 20 || cut.Load() < 20 {
		t.Error("the faults were not met")
	}
	if err := client.RemoveObject(t.Context(), "pictures", "train/"+s.Objects[0].Name,
		minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	f, err := s.File(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(make([]byte, 10), 0); err == nil {
		t.Error("a removed object was read")
	}
}

// cutWriter lets some bytes of a body through and breaks the connection.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(b []byte) (int, error) {
	if len(b) > c.left {
		c.ResponseWriter.Write(b[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

// startServer starts an S3 server and returns its address: the one in DITRUN_TEST_S3 (host:port, run by hand), or
// gofakes3, fetched and built by the go command.
func startServer(t *testing.T) string {
	t.Helper()
	if a := os.Getenv("DITRUN_TEST_S3"); a != "" {
		return a
	}
	const server = "github.com/johannesboyne/gofakes3/cmd/gofakes3"
	bin := filepath.Join(t.TempDir(), "bin")
	install := exec.Command("go", "install", server+"@v1.2.0")
	install.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=-mod=mod")
	if out, err := install.CombinedOutput(); err != nil {
		testtool.Missing(t, fmt.Sprintf("the S3 server could not be built: %v\n%s", err, out))
	}
	address := fmt.Sprintf("127.0.0.1:%d", testtool.FreePort(t))
	cmd := exec.Command(filepath.Join(bin, "gofakes3"), "-backend", "memory", "-host", address, "-quiet")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for range 100 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return address
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the S3 server does not answer")
	return ""
}
