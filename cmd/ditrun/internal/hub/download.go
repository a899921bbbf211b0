package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ditrun/ditrun/internal/disk"
)

const (
	maxRedirects = 8
	maxTries     = 5
	maxWait      = time.Minute // between tries, whatever the server asks for

	// mostUnknown bounds a file whose length the server does not say, which may never end.
	mostUnknown = 32 << 30
)

// A client downloads files.
type client struct {
	http     *http.Client
	progress func(name string, done, total int64) // total -1 where unknown
	say      func(text string)                    // for what it waits
	wait     func(ctx context.Context, d time.Duration) error
	free     func(dir string) int64 // bytes, -1 where unknown
	most     int64                  // bytes of a file whose length is unknown
}

// newHTTP follows few redirects, never from https to http, and shows the
// token to the first host only. net/http leaves it in for another port.
func newHTTP() *http.Client {
	return &http.Client{CheckRedirect: func(req *http.Request, via []*http.Request) error {
		first := via[0].URL
		if len(via) > maxRedirects {
			return final(fmt.Errorf("%s: more than %d redirects", first.Redacted(), maxRedirects))
		}
		if req.URL.Scheme != "https" && (req.URL.Scheme != "http" || first.Scheme != "http") {
			return final(fmt.Errorf("%s: redirects to %s, want https", first.Redacted(), req.URL.Scheme))
		}
		if req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
			req.Header.Del("Authorization")
		}
		return nil
	}}
}

// retry calls f until it succeeds, the error is final, or it has had its tries.
func (c *client) retry(ctx context.Context, f func() error) error {
	for try := 0; ; try++ {
		err := f()
		if err == nil || ctx.Err() != nil {
			return err
		}
		wait, tries := again(err, try)
		if try+1 >= tries {
			return err
		}
		c.say(fmt.Sprintf("%v: try %d of %d in %v", err, try+2, tries, wait))
		if err := c.wait(ctx, wait); err != nil {
			return err
		}
	}
}

// sleep is client.wait outside tests.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// A source is one file as the server describes it.
type source struct {
	name, url, token string
	etag             string // as sent, quotes included
	modified         string // Last-Modified as sent
	size             int64  // -1 where unknown
	sha256, gitSHA1  string // what it must have; both "" is not checked
}

// mark is what a file keeps as long as it is the same. A partial file is continued only then; without a mark never.
func (s source) mark() string {
	switch {
	case s.etag != "":
		return s.etag
	case s.modified != "":
		return s.modified
	case s.sha256 != "":
		return "sha256:" + s.sha256
	}
	return ""
}

// describe takes from an answer what continuing needs. A weak ETag is none: the bytes may differ.
func (s *source) describe(r *http.Response) {
	s.etag, s.modified, s.size = r.Header.Get("ETag"), r.Header.Get("Last-Modified"), r.ContentLength
	if strings.HasPrefix(s.etag, "W/") {
		s.etag = ""
	}
}

const markSuffix = ".etag"

func discard(partial string) error {
	os.Remove(partial + markSuffix)
	return os.Remove(partial)
}

// download makes dst of what the file dst.incomplete holds already and what the server has beyond that, and returns its
// SHA-256. A failed transfer leaves the partial file for the next try where that can continue it.
func (c *client) download(ctx context.Context, s source, dst string) (sum string, err error) {
	partial := dst + ".incomplete"
	err = c.retry(ctx, func() error { return c.transfer(ctx, s, partial) })
	if err != nil {
		st, statErr := os.Stat(partial)
		switch {
		case statErr != nil:
		case s.mark() == "" || st.Size() == 0 || errors.Is(err, errTooLong) || errors.Is(err, errEndless):
			discard(partial)
		default:
			err = &PartialError{err, partial, st.Size()}
		}
		return "", err
	}
	if sum, err = check(s, partial); err != nil {
		return "", errors.Join(err, discard(partial))
	}
	if err := disk.Place(partial, dst); err != nil {
		return "", err
	}
	os.Remove(partial + markSuffix)
	return sum, nil
}

// transfer adds to partial what is missing.
func (c *client) transfer(ctx context.Context, s source, partial string) error {
	f, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	have, err := usable(f, s)
	if err != nil {
		return err
	}
	if s.size >= 0 && have == s.size {
		return errors.Join(f.Truncate(have), f.Sync())
	}
	free := c.free(filepath.Dir(partial))
	if free >= 0 && s.size >= 0 && free < s.size-have {
		return fmt.Errorf("%s: %w: %d bytes are missing, %d are free in %s", s.name, errNoSpace, s.size-have, free,
			filepath.Dir(partial))
	}
	if err := f.Truncate(have); err != nil {
		return err
	}
	if s.mark() != "" {
		if err := os.WriteFile(partial+markSuffix, []byte(s.mark()), 0o644); err != nil {
			return err
		}
	}
	resp, from, err := c.get(ctx, s, have)
	if errors.Is(err, errRange) && have > 0 {
		c.say(fmt.Sprintf("%v: fetched from the start", err))
		resp, from, err = c.get(ctx, s, 0)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := f.Truncate(from); err != nil { // it does not continue what is there
		return err
	}
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return err
	}
	if s.size < 0 && resp.ContentLength >= 0 {
		s.size = from + resp.ContentLength
	}
	if err := c.receive(f, s, resp.Body, from, free); err != nil {
		return err
	}
	return f.Sync()
}

// usable returns how many bytes of a partial file the server can continue.
func usable(f *os.File, s source) (int64, error) {
	mark, err := os.ReadFile(f.Name() + markSuffix)
	if err != nil || s.mark() == "" || string(mark) != s.mark() {
		return 0, nil
	}
	have, err := f.Seek(0, io.SeekEnd)
	if s.size >= 0 && have > s.size {
		have = 0
	}
	return have, err
}

// receive writes body, which begins at byte from of the file, to f. Free is the space on its disk, -1 where unknown.
func (c *client) receive(f io.Writer, s source, body io.Reader, from, free int64) error {
	limit := s.size
	if s.size < 0 {
		limit = c.most
		if free >= 0 { // room for what else the disk is there for
			limit = min(limit, from+free/2)
		}
	}
	done := from
	n, err := io.Copy(io.MultiWriter(f, counter(func(n int) {
		done += int64(n)
		c.progress(s.name, done, s.size)
	})), io.LimitReader(body, limit-from+1))
	end := from + n
	switch {
	case err != nil && s.mark() == "" && n > 0 && !errors.As(err, new(*fs.PathError)):
		return fmt.Errorf("%s: %w (%w)", s.name, err, errNoMark)
	case err != nil:
		return fmt.Errorf("%s: %w", s.name, err)
	case s.size >= 0 && end > s.size:
		return fmt.Errorf("%s: %w (%d bytes)", s.name, errTooLong, s.size)
	case s.size < 0 && end > limit:
		return fmt.Errorf("%s: %w after %d bytes, and does not say how long it is: want at most %d bytes, "+
			"and at most half of the free disk",
			s.name, errEndless, limit, c.most)
	case end < s.size && s.mark() == "":
		return fmt.Errorf("%s: the connection ended after %d of %d bytes (%w)", s.name, end, s.size, errNoMark)
	case end < s.size:
		return fmt.Errorf("%s: the connection ended after %d of %d bytes", s.name, end, s.size)
	}
	return nil
}

type counter func(n int)

func (c counter) Write(p []byte) (int, error) { c(len(p)); return len(p), nil }

// get asks for a file from byte have on, and returns the byte that the answer begins with: have or 0.
func (c *client) get(ctx context.Context, s source, have int64) (resp *http.Response, from int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, 0, err
	}
	if s.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.token)
	}
	req.Header.Set("Accept-Encoding", "identity") // ranges are of the file as stored
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
		if s.sha256 == "" && s.gitSHA1 == "" { // a file that its name or sum tells cannot be another
			req.Header.Set("If-Range", s.mark())
		}
	}
	if resp, err = c.http.Do(req); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", s.name, unreachable(err))
	}
	encoding := resp.Header.Get("Content-Encoding")
	switch plain := encoding == "" || strings.EqualFold(encoding, "identity"); {
	case !plain && resp.StatusCode < 300:
		err = final(fmt.Errorf("%s: the server sends it compressed (Content-Encoding %q), which was not requested",
			s.name, encoding))
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusPartialContent && have > 0:
		from, err = rangeStart(s, resp.Header.Get("Content-Range"), have)
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && have > 0:
		err = fmt.Errorf("%s: %w: 416 for a file of %d bytes", s.name, errRange, s.size)
	default:
		err = statusOf(s.name, resp)
	}
	if err != nil {
		resp.Body.Close()
		return nil, 0, err
	}
	return resp, from, nil
}

// rangeStart returns where the part begins that the server sends of a file whose bytes from have on were asked for:
// there, or at 0 where it sends all of it.
func rangeStart(s source, contentRange string, have int64) (int64, error) {
	var from, last int64
	var total string
	n, _ := fmt.Sscanf(contentRange, "bytes %d-%d/%s", &from, &last, &total)
	size, err := strconv.ParseInt(total, 10, 64)
	known := err == nil && (s.size < 0 || size == s.size) && last == size-1
	if n == 3 && (from == have || from == 0) && (known || total == "*" && from == have) {
		return from, nil
	}
	return 0, fmt.Errorf("%s: %w: Content-Range %q where the bytes from %d on of %d were asked for", s.name,
		errRange, contentRange, have, s.size)
}

// check compares a whole file with what it must be, and returns its SHA-256.
func check(s source, path string) (sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	wide, git := sha256.New(), sha1.New()
	fmt.Fprintf(git, "blob %d\x00", st.Size())
	if _, err := io.Copy(io.MultiWriter(wide, git), f); err != nil {
		return "", err
	}
	sum = hex.EncodeToString(wide.Sum(nil))
	if s.sha256 != "" && !strings.EqualFold(sum, s.sha256) {
		return "", final(fmt.Errorf("%s: the SHA-256 is %s, want %s: what came is removed, the next try starts anew",
			s.name, sum, s.sha256))
	}
	if got := hex.EncodeToString(git.Sum(nil)); s.gitSHA1 != "" && got != s.gitSHA1 {
		return "", final(fmt.Errorf("%s: the git SHA-1 is %s, want %s: what came is removed, the next try starts anew",
			s.name, got, s.gitSHA1))
	}
	return sum, nil
}
