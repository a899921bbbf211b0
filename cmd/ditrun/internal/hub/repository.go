package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/internal/disk"
)

// repoInfo is what the hub says of a revision.
type repoInfo struct {
	SHA      string `json:"sha"`
	Siblings []struct {
		Name string `json:"rfilename"`
	} `json:"siblings"`
	CardData struct {
		License any `json:"license"`
	} `json:"cardData"`
}

const maxInfo = 16 << 20

// repository fetches files of a hub repository.
func (c *client) repository(ctx context.Context, ref Ref, o Options) (*Result, error) {
	cache, token, err := cacheDir()
	if err != nil {
		return nil, err
	}
	base := repoDir(cache, ref.Repo)
	if isOffline() {
		return offline(base, ref, ErrOffline)
	}
	endpoint, err := endpoint()
	if err != nil {
		return nil, err
	}
	var info repoInfo
	err = c.retry(ctx, func() error { return c.info(ctx, endpoint, token, ref, &info) })
	if status := (*statusError)(nil); err != nil && !errors.As(err, &status) && ctx.Err() == nil {
		if lost := (*UnreachableError)(nil); errors.As(err, &lost) { // what is wanted is named beside it
			err = lost
		}
		return offline(base, ref, err)
	}
	if err != nil {
		return nil, err
	}
	if !plain(info.SHA) {
		return nil, fmt.Errorf("hf:%s: the server names revision %q", ref.Repo, info.SHA)
	}
	license := ref.Known.License
	if l, ok := info.CardData.License.(string); ok {
		license = l
	}
	o.License(license)
	var names []string
	for _, s := range info.Siblings {
		names = append(names, s.Name)
	}
	all := names
	if ref.File != "" {
		names = []string{ref.File}
	} else if names = Needed(all); len(names) == 0 {
		return nil, fmt.Errorf("hf:%s has no weight files", ref.Repo)
	}
	for _, name := range names {
		if err := CheckName(name); err != nil {
			return nil, fmt.Errorf("hf:%s: %w", ref.Repo, err)
		}
	}
	if err := keepList(base, info.SHA, all); err != nil {
		return nil, err
	}
	snapshot := filepath.Join(base, "snapshots", info.SHA)
	result := &Result{Path: snapshot, License: license}
	for _, name := range names {
		f, err := c.file(ctx, endpoint, token, base, snapshot, ref.Repo, info.SHA, name)
		if err != nil {
			return nil, err
		}
		result.Files = append(result.Files, *f)
	}
	if ref.File != "" {
		result.Path = result.Files[0].Path
	}
	if ref.Revision != info.SHA {
		refs := filepath.Join(base, "refs", ref.Revision)
		if err := os.MkdirAll(filepath.Dir(refs), 0o777); err != nil {
			return nil, err
		}
		disk.Sweep(refs)
		if err := disk.WriteBytes(refs, []byte(info.SHA)); err != nil {
			return nil, err
		}
	}
	return result, nil
}

func (c *client) info(ctx context.Context, endpoint, token string, ref Ref, info *repoInfo) error {
	resp, _, err := c.get(ctx, source{name: "hf:" + ref.Repo,
		url: endpoint + "/api/models/" + ref.Repo + "/revision/" + url.PathEscape(ref.Revision), token: token}, 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxInfo+1))
	if err != nil {
		return err
	}
	if len(text) > maxInfo {
		return final(fmt.Errorf("hf:%s: a description of more than %d bytes", ref.Repo, maxInfo))
	}
	if err := json.Unmarshal(text, info); err != nil {
		return final(fmt.Errorf("hf:%s: the server's description of the repository is no JSON: %w", ref.Repo, err))
	}
	return nil
}

// file finds or fetches one file: its bytes under blobs by their ETag, and a link to them in the snapshot.
func (c *client) file(ctx context.Context, endpoint, token, base, snapshot, repo, commit, name string) (*File, error) {
	var parts []string
	for _, p := range strings.Split(name, "/") {
		parts = append(parts, url.PathEscape(p))
	}
	address := endpoint + "/" + repo + "/resolve/" + commit + "/" + strings.Join(parts, "/")
	var head *http.Response
	err := c.retry(ctx, func() (err error) {
		head, err = c.head(ctx, address, token, false)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("hf:%s: %w", repo, err)
	}
	etag, size := head.Header.Get("X-Linked-Etag"), head.Header.Get("X-Linked-Size")
	if etag == "" {
		etag, size = head.Header.Get("ETag"), head.Header.Get("Content-Length")
	}
	etag = strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
	if !plain(etag) {
		return nil, fmt.Errorf("hf:%s: %s has the ETag %q", repo, name, etag)
	}
	s := source{name: name, url: address, token: token, etag: etag, size: -1}
	if n, err := strconv.ParseInt(size, 10, 64); err == nil && n >= 0 {
		s.size = n
	}
	switch len(etag) { // of large files the SHA-256, of others git's name
	case 64:
		s.sha256 = etag
	case 40:
		s.gitSHA1 = etag
	}
	blob, link := filepath.Join(base, "blobs", etag), filepath.Join(snapshot, filepath.FromSlash(name))
	for _, dir := range []string{filepath.Dir(blob), filepath.Dir(link),
		filepath.Join(filepath.Dir(base), ".locks", filepath.Base(base))} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, err
		}
	}
	lock, err := c.lock(ctx, filepath.Join(filepath.Dir(base), ".locks", filepath.Base(base), etag+".lock"), name)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock() // the file is shared with other programs: it stays
	f := &File{Name: name, Path: link, Checked: s.sha256 != "" || s.gitSHA1 != ""}
	st, err := os.Stat(blob)
	if f.Cached = err == nil && (s.size < 0 || st.Size() == s.size); !f.Cached {
		if f.SHA256, err = c.download(ctx, s, blob); err != nil {
			return nil, fmt.Errorf("hf:%s: %w", repo, err)
		}
		if st, err = os.Stat(blob); err != nil {
			return nil, err
		}
	}
	f.Size = st.Size()
	target, err := filepath.Rel(filepath.Dir(link), blob)
	if err != nil {
		return nil, err
	}
	if now, err := os.Readlink(link); err != nil || now != target {
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err := os.Symlink(target, link); err != nil {
			return nil, err
		}
	}
	return f, nil
}
