package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/transfer"
)

// Options say how [Resolve] works. The zero value is a user's.
type Options struct {
	Out      string // folder for a plain https file; "" is the cache
	SHA256   string // that a plain https file must have
	Progress func(name string, done, total int64)
	// License is called with the licence before the first request, "" where none is known.
	License func(license string)
	// Waiting is called with what a download waits for: another try, another process.
	Waiting func(text string)

	wait func(ctx context.Context, d time.Duration) error
	free func(dir string) int64
	net  http.RoundTripper
	// limits are [transfer.DefaultLimits], and most is mostUnknown, where they are 0.
	limits transfer.Limits
	most   int64
}

// A File is one that [Resolve] found or fetched.
type File struct {
	Name    string `json:"name"`
	Path    string `json:"path"`
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256,omitempty"` // of files that were fetched now
	Checked bool   `json:"checked"`          // against a sum from the server or the caller
	Cached  bool   `json:"cached"`           // it was there
}

// A Result is what a reference leads to.
type Result struct {
	Path    string // file, or folder with all files
	License string
	Offline bool // what the cache has: the network was not used, or not reached
	// Unlisted says that the cache does not know which files the repository has: another program fetched it.
	Unlisted bool
	Files    []File
}

// Resolve finds or fetches what text refers to (see [Parse]). Files of hub repositories are where Python's
// huggingface_hub keeps them, so that either finds what the other fetched: environment variables HF_HOME,
// HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean there.
func Resolve(ctx context.Context, text string, o Options) (*Result, error) {
	ref, err := Parse(text)
	if err != nil {
		return nil, err
	}
	c := &client{http: newHTTP(), progress: o.Progress, say: o.Waiting, wait: o.wait, free: o.free,
		most: cmp.Or(o.most, mostUnknown)}
	if o.net == nil {
		o.net = http.DefaultTransport
	}
	c.http.Transport = transfer.Limit(o.net, cmp.Or(o.limits, transfer.DefaultLimits))
	if c.progress == nil {
		c.progress = func(string, int64, int64) {}
	}
	if c.say == nil {
		c.say = func(string) {}
	}
	if c.wait == nil {
		c.wait = sleep
	}
	if c.free == nil {
		c.free = disk.Free
	}
	if o.License == nil {
		o.License = func(string) {}
	}
	if ref.URL != "" {
		return c.plainFile(ctx, ref, o)
	}
	if o.Out != "" || o.SHA256 != "" {
		return nil, errors.New("a repository goes to the cache and has its own checksums: give no folder and no " +
			"SHA-256")
	}
	return c.repository(ctx, ref, o)
}

// plainFile fetches an https address.
func (c *client) plainFile(ctx context.Context, ref Ref, o Options) (*Result, error) {
	o.License(ref.Known.License)
	dst, err := plainPath(ref, o.Out)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(dst)
	if err := os.MkdirAll(filepath.Dir(dst), 0o777); err != nil {
		return nil, err
	}
	lock, err := c.lock(ctx, dst+".lock", name)
	if err != nil {
		return nil, err
	}
	defer lock.Remove()
	s := source{name: name, url: ref.URL, size: -1, sha256: o.SHA256}
	result := &Result{Path: dst, License: ref.Known.License}
	if st, err := os.Stat(dst); err == nil {
		if from := originOf(dst); o.Out == "" && from != "" && from != ref.origin() {
			return nil, fmt.Errorf("%s is there already, and came from %s: remove it, or choose a folder", dst, from)
		}
		sum, err := check(s, dst)
		if err != nil {
			return nil, fmt.Errorf("%s is there already: %w", dst, err)
		}
		result.Files = []File{{name, dst, st.Size(), sum, o.SHA256 != "", true}}
		return result, nil
	}
	err = c.retry(ctx, func() error {
		head, err := c.head(ctx, ref.URL, "", true)
		if err != nil {
			return err
		}
		s.describe(head)
		return nil
	})
	switch unreached := errors.As(err, new(*UnreachableError)); {
	case unreached && o.Out == "":
		return nil, fmt.Errorf("%w: %w", &NotCachedError{Ref: ref, Where: dst}, err)
	case unreached:
		return nil, fmt.Errorf("%s: %w", ref, err)
	case err != nil:
		return nil, err
	}
	if o.Out == "" {
		if err := disk.WriteBytes(originPath(dst), []byte(ref.origin()+"\n")); err != nil {
			return nil, err
		}
	}
	sum, err := c.download(ctx, s, dst)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(dst)
	if err != nil {
		return nil, err
	}
	result.Files = []File{{name, dst, st.Size(), sum, o.SHA256 != "", false}}
	return result, nil
}

// plainPath is where the file of an https address goes: into dir, or into ditrun's cache where dir is "".
func plainPath(ref Ref, dir string) (string, error) {
	u, err := url.Parse(ref.URL)
	if err != nil {
		return "", err
	}
	if dir == "" {
		if dir, err = disk.CacheDir(); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, path.Base(u.Path)), nil
}

// originPath is the file beside one in ditrun's cache that has the address that it came from: files of several servers
// may have one name. Files that earlier versions fetched have none.
func originPath(file string) string { return file + ".url" }

// originOf is the address that a file in the cache came from, "" where that is not known.
func originOf(file string) string {
	text, err := os.ReadFile(originPath(file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// lock keeps other processes from fetching the same file.
func (c *client) lock(ctx context.Context, path, name string) (*disk.Lock, error) {
	lock, err := disk.TryLock(path)
	if errors.Is(err, disk.ErrLocked) {
		c.say(fmt.Sprintf("%s: waiting for another process that fetches it (%s)", name, path))
		return disk.WaitLock(ctx, path)
	}
	return lock, err
}

// head asks about a file. Redirects inside the host are followed; those to others only if far is set.
func (c *client) head(ctx context.Context, address, token string, far bool) (*http.Response, error) {
	h := *c.http
	if !far {
		inner := h.CheckRedirect
		h.CheckRedirect = func(req *http.Request, via []*http.Request) error {
			if req.URL.Host != via[0].URL.Host {
				return http.ErrUseLastResponse
			}
			return inner(req, via)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, address, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := h.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	resp.Body.Close()
	if resp.StatusCode >= 400 || far && resp.StatusCode != http.StatusOK {
		return nil, statusOf(path.Base(req.URL.Path), resp)
	}
	return resp, nil
}
