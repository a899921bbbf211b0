// Package hub finds and fetches model files from elsewhere: by a name that ditrun knows, from a repository of the
// hub, or from a plain https address.
package hub

import (
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
)

// A Known is a model that ditrun knows by name.
type Known struct {
	Name    string `json:"name"`
	Ref     string `json:"ref"`
	License string `json:"license"`
}

// Names lists the known models.
func Names() []Known {
	const nc = "CC-BY-NC 4.0"
	return []Known{
		{"dit-xl-2-256", "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt", nc},
		{"dit-xl-2-512", "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-512x512.pt", nc},
		{"dit-xl-2-256-diffusers", "hf:facebook/DiT-XL-2-256", nc},
		{"dit-xl-2-512-diffusers", "hf:facebook/DiT-XL-2-512", nc},
		{"sd-vae-ft-ema", "hf:stabilityai/sd-vae-ft-ema", "MIT"},
		{"sd-vae-ft-mse", "hf:stabilityai/sd-vae-ft-mse", "MIT"},
	}
}

// A Ref is where a reference leads: to URL, or to Repo, Revision and File.
type Ref struct {
	URL                  string
	Repo, Revision, File string // File is "" for all that a model needs
	License              string // of a known name
}

// Parse reads NAME, hf:ORG/REPO[@REVISION][/FILE...] or https://...
func Parse(s string) (Ref, error) {
	license := ""
	for _, k := range Names() {
		if k.Name == s {
			s, license = k.Ref, k.License
			break
		}
	}
	if strings.HasPrefix(s, "https://") {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.User != nil {
			return Ref{}, fmt.Errorf("%q: not an address, want https://HOST/FILE", s)
		}
		if err := CheckName(path.Base(u.Path)); err != nil {
			return Ref{}, fmt.Errorf("%q: names no file, want https://HOST/FILE", s)
		}
		return Ref{URL: s, License: license}, nil
	}
	name, ok := strings.CutPrefix(s, "hf:")
	if !ok {
		return Ref{}, fmt.Errorf("%q: unknown, want a known name, hf:ORG/REPO or https://HOST/FILE", s)
	}
	org, name, _ := strings.Cut(name, "/")
	repo, file, hasFile := strings.Cut(name, "/")
	repo, rev, hasRev := strings.Cut(repo, "@")
	if !hasRev {
		rev = "main"
	}
	if !plain(org) || !plain(repo) || !plain(rev) {
		return Ref{}, fmt.Errorf("%q: not a repository, want hf:ORG/REPO, hf:ORG/REPO@REVISION or either with /FILE", s)
	}
	if hasFile {
		if err := CheckName(file); err != nil {
			return Ref{}, fmt.Errorf("%q: %w", s, err)
		}
	}
	return Ref{Repo: org + "/" + repo, Revision: rev, File: file, License: license}, nil
}

// plain reports whether s can be one part of a path on any side: letters,
// digits, and . _ - inside, but no "..", nor "--", which parts names in the cache.
func plain(s string) bool {
	if s == "" || len(s) > 96 || strings.ContainsAny(s[:1], ".-") || strings.Contains(s, "..") ||
		strings.Contains(s, "--") {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-') {
			return false
		}
	}
	return true
}

// CheckName refuses a file name from elsewhere that could leave its folder.
func CheckName(name string) error {
	bad := name == "" || len(name) > 1024 || path.Clean(name) != name || path.IsAbs(name) || name == "." ||
		name == ".." || strings.HasPrefix(name, "../")
	for _, r := range name {
		bad = bad || r < ' ' || r == 0x7f || r == '\\' || r == ':'
	}
	if bad {
		return fmt.Errorf("file name %q: leaves its folder or is not plain, want a relative path", name)
	}
	return nil
}

// Needed picks the files that a model needs out of those of a repository:
// configurations, texts, safetensors, and pickles that have no safetensors of
// the same stem.
func Needed(names []string) []string {
	var out []string
	for _, n := range names {
		ext := path.Ext(n)
		switch ext {
		case ".json", ".txt", ".safetensors":
			out = append(out, n)
		case ".bin", ".pt":
			if !slices.Contains(names, strings.TrimSuffix(n, ext)+".safetensors") {
				out = append(out, n)
			}
		}
	}
	return out
}
