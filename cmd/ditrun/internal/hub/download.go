package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	maxRedirects = 8
	maxTries     = 5
	maxWait      = time.Minute // between tries, whatever the server asks for
)

// A client downloads files.
type client struct {
	http     *http.Client
	progress func(name string, done, total int64) // total -1 where unknown
	wait     func(ctx context.Context, d time.Duration) error
	free     func(dir string) int64 // bytes, -1 where unknown
}

// newHTTP follows few redirects, never from https to http, and shows the
// token to the first host only. net/http leaves it in for another port.
func newHTTP() *http.Client {
	return &http.Client{CheckRedirect: func(req *http.Request, via []*http.Request) error {
		first := via[0].URL
		if len(via) > maxRedirects {
			return fmt.Errorf("%s: more than %d redirects", first.Redacted(), maxRedirects)
		}
		if req.URL.Scheme != "https" && (req.URL.Scheme != "http" || first.Scheme != "http") {
			return fmt.Errorf("%s: redirects to %s, want https", first.Redacted(), req.URL.Scheme)
		}
		if req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
			req.Header.Del("Authorization")
		}
		return nil
	}}
}

// A statusError is an answer that is no file.
type statusError struct {
	what  string
	code  int
	after time.Duration // that the server asks to wait
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("%s: the server answers %d %s", e.what, e.code, http.StatusText(e.code))
	switch e.code {
	case http.StatusUnauthorized, http.StatusForbidden:
		text += ": accept its licence on the web page of the repository, and set HF_TOKEN"
	case http.StatusNotFound:
		text += ": no such repository, revision or file, or a private one (HF_TOKEN)"
	}
	return text
}

func statusOf(what string, r *http.Response) *statusError {
	seconds, _ := strconv.Atoi(r.Header.Get("Retry-After"))
	return &statusError{what, r.StatusCode, time.Duration(seconds) * time.Second}
}

// again reports whether a try after err could succeed, and when.
func again(err error, try int) (time.Duration, bool) {
	wait := time.Second << try
	if s := (*statusError)(nil); errors.As(err, &s) {
		if s.code != http.StatusTooManyRequests && s.code < 500 {
			return 0, false
		}
		wait = max(wait, s.after)
	}
	var wrong *sumError
	var network *net.OpError
	if errors.As(err, &network) && network.Op == "dial" { // there is no network, or no such host
		return 0, false
	}
	return min(wait, maxWait), !errors.As(err, &wrong) && !errors.Is(err, errNoSpace) && !errors.Is(err, errTooLong)
}

// retry calls f until it succeeds, the error is final, or it has had its tries.
func (c *client) retry(ctx context.Context, f func() error) error {
	for try := 0; ; try++ {
		err := f()
		if err == nil || ctx.Err() != nil {
			return err
		}
		wait, ok := again(err, try)
		if !ok || try == maxTries-1 {
			return err
		}
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
	etag             string // as sent, quotes included; a partial file is continued only while it is the same
	size             int64  // -1 where unknown
	sha256, gitSHA1  string // what it must have; both "" is not checked
}

type sumError struct{ text string }

func (e *sumError) Error() string { return e.text }

var (
	errNoSpace = errors.New("not enough disk space")
	errTooLong = errors.New("the server sends more than it said")
)

// download makes dst of what the file dst.incomplete holds already and the rest from the server, and
// returns its SHA-256. A failed transfer leaves the partial file for the next try, a wrong checksum does not.
func (c *client) download(ctx context.Context, s source, dst string) (sum string, err error) {
	partial := dst + ".incomplete"
	err = c.retry(ctx, func() error { return c.transfer(ctx, s, partial) })
	if err != nil {
		return "", err
	}
	if sum, err = check(s, partial); err != nil {
		return "", errors.Join(err, os.Remove(partial))
	}
	if err := os.Rename(partial, dst); err != nil {
		return "", err
	}
	os.Remove(partial + ".etag")
	return sum, nil
}

// transfer adds to partial what is missing.
func (c *client) transfer(ctx context.Context, s source, partial string) error {
	f, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	have := int64(0)
	if mark, err := os.ReadFile(partial + ".etag"); err == nil && s.etag != "" && string(mark) == s.etag {
		if have, err = f.Seek(0, io.SeekEnd); err != nil {
			return err
		}
	}
	if s.size >= 0 && have >= s.size {
		if have > s.size {
			have = 0
		} else {
			return f.Sync()
		}
	}
	if free := c.free(filepath.Dir(partial)); free >= 0 && s.size >= 0 && free < s.size-have {
		return fmt.Errorf("%s: %w: %d bytes are missing, %d are free in %s", s.name, errNoSpace, s.size-have, free, filepath.Dir(partial))
	}
	if err := f.Truncate(have); err != nil {
		return err
	}
	if err := os.WriteFile(partial+".etag", []byte(s.etag), 0o644); err != nil {
		return err
	}
	resp, err := c.get(ctx, s, have)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && have > 0 { // it does not continue
		have = 0
		if err := f.Truncate(0); err != nil {
			return err
		}
	}
	if _, err := f.Seek(have, io.SeekStart); err != nil {
		return err
	}
	body := io.Reader(resp.Body)
	if s.size >= 0 {
		body = io.LimitReader(body, s.size-have+1)
	}
	done := have
	n, err := io.Copy(io.MultiWriter(f, counter(func(n int) {
		done += int64(n)
		c.progress(s.name, done, s.size)
	})), body)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", s.name, err)
	case s.size >= 0 && have+n > s.size:
		return errors.Join(fmt.Errorf("%s: %w (%d bytes)", s.name, errTooLong, s.size), f.Truncate(0))
	case s.size >= 0 && have+n < s.size:
		return fmt.Errorf("%s: the connection ended after %d of %d bytes", s.name, have+n, s.size)
	}
	return f.Sync()
}

type counter func(n int)

func (c counter) Write(p []byte) (int, error) { c(len(p)); return len(p), nil }

// get asks for a file from byte have on.
func (c *client) get(ctx context.Context, s source, have int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	if s.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.token)
	}
	req.Header.Set("Accept-Encoding", "identity") // ranges are of the file as stored
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
		if s.sha256 == "" && s.gitSHA1 == "" { // a file that its name or sum tells cannot be another
			req.Header.Set("If-Range", s.etag)
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	partly := resp.StatusCode == http.StatusPartialContent && have > 0 && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have))
	if resp.StatusCode != http.StatusOK && !partly {
		resp.Body.Close()
		return nil, statusOf(s.name, resp)
	}
	return resp, nil
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
		return "", &sumError{fmt.Sprintf("%s: the SHA-256 is %s, want %s: what came is removed, the next try starts anew", s.name, sum, s.sha256)}
	}
	if got := hex.EncodeToString(git.Sum(nil)); s.gitSHA1 != "" && got != s.gitSHA1 {
		return "", &sumError{fmt.Sprintf("%s: the git SHA-1 is %s, want %s: what came is removed, the next try starts anew", s.name, got, s.gitSHA1)}
	}
	return sum, nil
}
