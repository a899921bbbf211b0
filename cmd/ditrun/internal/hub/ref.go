// Package hub finds and fetches model files from elsewhere: by a name that ditrun knows, from a repository of the
// hub, or from a plain https address.
package hub

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

// A Known is a model that ditrun knows by name.
type Known struct {
	Name    string `json:"name"`
	Ref     string `json:"ref"`
	License string `json:"license"`
	Holds   Kind   `json:"holds"`
	Bytes   int64  `json:"bytes,omitempty"` // about, 0 where it is not known
}

// A Kind is what a known model is.
type Kind string

// The kinds of known models.
const (
	Autoencoder Kind = "autoencoder"
	DiT         Kind = "DiT"
	Pipeline    Kind = "pipeline" // a DiT with its autoencoder
	Inception   Kind = "Inception"
)

// Names lists the known models.
func Names() []Known {
	const nc = "CC-BY-NC 4.0"
	return []Known{
		{"dit-xl-2-256", "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt", nc, DiT, 2_700_000_000},
		{"dit-xl-2-512", "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-512x512.pt", nc, DiT, 2_700_000_000},
		{"dit-xl-2-256-diffusers", "hf:facebook/DiT-XL-2-256", nc, Pipeline, 0},
		{"dit-xl-2-512-diffusers", "hf:facebook/DiT-XL-2-512", nc, Pipeline, 0},
		{"sd-vae-ft-ema", "hf:stabilityai/sd-vae-ft-ema", "MIT", Autoencoder, 335_000_000},
		{"sd-vae-ft-mse", "hf:stabilityai/sd-vae-ft-mse", "MIT", Autoencoder, 335_000_000},
		{"inception", inceptionURL, "Apache-2.0", Inception, 95_600_000},
	}
}

// inceptionURL is that of pytorch-fid's port of TensorFlow's graph of 2015-12-05.
const inceptionURL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/" +
	"pt_inception-2015-12-05-6726825d.pth"

// A Ref is where a reference leads: to URL, or to Repo, Revision and File.
type Ref struct {
	URL                  string
	Repo, Revision, File string // File is "" for all that a model needs
	Known                Known  // zero for what has no known name
}

// String is the reference without its known name: an address, or hf:ORG/REPO.
func (r Ref) String() string {
	if r.URL != "" {
		return r.URL
	}
	return "hf:" + r.Repo
}

// origin is the address without its query, in which some servers have keys that expire.
func (r Ref) origin() string {
	address, _, _ := strings.Cut(r.URL, "?")
	return address
}

// Parse reads NAME, hf:ORG/REPO[@REVISION][/FILE...], ORG/REPO[@REVISION] or https://...
func Parse(s string) (Ref, error) {
	if IsRepo(s) {
		s = "hf:" + s
	}
	var known Known
	for _, k := range Names() {
		if k.Name == s || k.Ref == s {
			s, known = k.Ref, k
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
		return Ref{URL: s, Known: known}, nil
	}
	name, ok := strings.CutPrefix(s, "hf:")
	if !ok {
		return Ref{}, fmt.Errorf("%q: unknown, want a known name, ORG/REPO or https://HOST/FILE", s)
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
	return Ref{Repo: org + "/" + repo, Revision: rev, File: file, Known: known}, nil
}

// weightFile ends the names of files, which no repository's name does.
var weightFile = regexp.MustCompile(`\.(pt|pth|bin|ckpt|safetensors|json|npz|ya?ml)$`)

// IsRepo says whether s has the form ORG/REPO or ORG/REPO@REVISION, which a path of two parts has too.
func IsRepo(s string) bool {
	org, repo, ok := strings.Cut(s, "/")
	repo, rev, hasRev := strings.Cut(repo, "@")
	return ok && plain(org) && plain(repo) && (!hasRev || plain(rev)) && !weightFile.MatchString(repo)
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
