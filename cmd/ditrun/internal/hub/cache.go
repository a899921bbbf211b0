package hub

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
)

// A NotCachedError says that the cache lacks what a reference leads to, or some files of it.
type NotCachedError struct {
	Ref   Ref
	Where string // file or folder that was looked for
	Lacks string // "" where it has nothing
}

// Place is where the cache keeps what the reference leads to: a file, or a folder that can be copied whole.
func (e *NotCachedError) Place() string {
	place, _, _ := strings.Cut(e.Where, string(filepath.Separator)+"snapshots"+string(filepath.Separator))
	return place
}

func (e *NotCachedError) Error() string {
	if e.Lacks != "" {
		return fmt.Sprintf("%s is incomplete in the cache, %s (%s)", e.Ref, e.Lacks, e.Where)
	}
	return fmt.Sprintf("%s is not in the cache (%s)", e.Ref, e.Where)
}

// Cached finds what text refers to (see [Parse]) in the cache, and uses no network. Where it is not there, or not
// all of it, the error is a [NotCachedError].
func Cached(text string) (*Result, error) {
	ref, err := Parse(text)
	if err != nil {
		return nil, err
	}
	if ref.URL == "" {
		cache, _, err := cacheDir()
		if err != nil {
			return nil, err
		}
		return cached(repoDir(cache, ref.Repo), ref)
	}
	path, err := plainPath(ref, "")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, &NotCachedError{Ref: ref, Where: path}
	}
	if from := originOf(path); from != "" && from != ref.origin() { // another file of this name
		return nil, &NotCachedError{Ref: ref, Where: path}
	}
	return &Result{Path: path, License: ref.Known.License, Offline: true}, nil
}

// repoDir is the folder of a repository in the cache.
func repoDir(cache, repo string) string {
	return filepath.Join(cache, "models--"+strings.ReplaceAll(repo, "/", "--"))
}

var inCache = regexp.MustCompile(`/models--([^/]+)--([^/]+)/snapshots/`)

// NameOf is the name, known or ORG/REPO, of the repository that a path in the cache of huggingface_hub belongs to, ""
// for other paths.
func NameOf(path string) string {
	m := inCache.FindStringSubmatch(filepath.ToSlash(path) + "/")
	if m == nil {
		return ""
	}
	ref, err := Parse("hf:" + m[1] + "/" + m[2])
	if err != nil {
		return ""
	}
	return cmp.Or(ref.Known.Name, ref.Repo)
}

// offline is cached where why says why the network was not used.
func offline(base string, ref Ref, why error) (*Result, error) {
	r, err := cached(base, ref)
	if missing := (*NotCachedError)(nil); errors.As(err, &missing) {
		err = fmt.Errorf("%w: %w", err, why)
	}
	return r, err
}

// cached finds a repository, or a file of it, in its folder base of the cache.
func cached(base string, ref Ref) (*Result, error) {
	commit := ref.Revision
	if text, err := os.ReadFile(filepath.Join(base, "refs", ref.Revision)); err == nil {
		commit = strings.TrimSpace(string(text))
	}
	if !plain(commit) {
		return nil, fmt.Errorf("hf:%s: the cache names revision %q", ref.Repo, commit)
	}
	result := &Result{Path: filepath.Join(base, "snapshots", commit, filepath.FromSlash(ref.File)),
		License: ref.Known.License, Offline: true}
	if _, err := os.Stat(base); err != nil {
		return nil, &NotCachedError{Ref: ref, Where: base}
	}
	if _, err := os.Stat(result.Path); err != nil {
		return nil, &NotCachedError{Ref: ref, Where: result.Path}
	}
	if ref.File != "" {
		return result, nil
	}
	files, err := readList(base, commit)
	if errors.Is(err, fs.ErrNotExist) {
		if !hasWeights(result.Path) { // the other program fetched a configuration alone
			return nil, &NotCachedError{Ref: ref, Where: result.Path, Lacks: "no weight file is there"}
		}
		result.Unlisted = true
		return result, nil
	} else if err != nil {
		return nil, err
	}
	files = Needed(files)
	var missing []string
	for _, name := range files {
		if _, err := os.Stat(filepath.Join(result.Path, filepath.FromSlash(name))); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, &NotCachedError{Ref: ref, Where: result.Path, Lacks: fmt.Sprintf(
			"it lacks %d of %s, the first %q", len(missing), names.Plural(len(files), "file"), missing[0])}
	}
	return result, nil
}

// hasWeights says whether there is a weight file in dir or in a folder of it.
func hasWeights(dir string) bool {
	for _, pattern := range []string{"*.safetensors", "*.bin", "*.pt"} {
		for _, below := range []string{"", "*/"} {
			if found, err := fs.Glob(os.DirFS(dir), below+pattern); err == nil && len(found) > 0 {
				return true
			}
		}
	}
	return false
}

// listPath is where the names of all files of a revision are kept, so that without a network it is known whether the
// cache has what a model needs. Python's client passes over the folder.
func listPath(base, commit string) string { return filepath.Join(base, "ditrun-files", commit+".json") }

func keepList(base, commit string, names []string) error {
	text, err := json.Marshal(names)
	if err != nil {
		return err
	}
	path := listPath(base, commit)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	disk.Sweep(path)
	return disk.WriteBytes(path, text)
}

func readList(base, commit string) ([]string, error) {
	path := listPath(base, commit)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var names []string
	if err := json.Unmarshal(text, &names); err != nil {
		return nil, fmt.Errorf("%s: %w: remove it, or fetch with the network", path, err)
	}
	return names, nil
}
