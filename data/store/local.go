package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/ditrun/ditrun/internal/disk"
)

func openLocal(ctx context.Context, location string) (*Set, error) {
	info, err := os.Stat(location)
	switch {
	case errors.Is(err, fs.ErrNotExist) && isPattern(location):
		return matchLocal(ctx, location)
	case err != nil:
		return nil, err
	case !info.IsDir():
		s := newLocal(location, filepath.Dir(location))
		s.Single = true
		s.Objects = []Object{localObject(location, filepath.Base(location))}
		return s, nil
	}
	s := newLocal(location, location)
	top := []os.FileInfo{}
	if err := s.walk(ctx, "", nil, &top); err != nil {
		return nil, err
	}
	s.findTwins(top)
	slices.SortFunc(s.Objects, func(a, b Object) int { return cmp.Compare(a.Name, b.Name) })
	return s, nil
}

func newLocal(location, root string) *Set {
	return &Set{Location: location, Root: filepath.ToSlash(root), open: func(o *Object) (File, error) {
		return openFile(filepath.Join(root, filepath.FromSlash(o.Name)), o)
	}}
}

// matchLocal lists the files that a pattern matches.
func matchLocal(ctx context.Context, pattern string) (*Set, error) {
	dir := filepath.Dir(pattern)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	s := newLocal(pattern, dir)
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ok, err := path.Match(filepath.Base(pattern), e.Name())
		if err != nil {
			return nil, fmt.Errorf("pattern %s: %w", pattern, err)
		}
		if !ok {
			continue
		}
		if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && info.IsDir() {
			continue
		}
		s.Objects = append(s.Objects, localObject(filepath.Join(dir, e.Name()), e.Name()))
	}
	if len(s.Objects) == 0 {
		return nil, fmt.Errorf("no file matches %s", pattern)
	}
	return s, nil
}

// walk adds the files below dir. above are the folders that lead there: a link to one of them has no end. Where top is
// not nil it gets what each of s.Folders is, nil for those that could not be looked at.
func (s *Set) walk(ctx context.Context, dir string, above []os.FileInfo, top *[]os.FileInfo) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	full := filepath.Join(filepath.FromSlash(s.Root), filepath.FromSlash(dir))
	here, err := os.Stat(full)
	if err != nil {
		return err
	}
	for _, a := range above {
		if os.SameFile(a, here) {
			return errors.New("symbolic link to a folder above it")
		}
	}
	entries, err := os.ReadDir(full)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if !isFolder(full, e) {
			s.Objects = append(s.Objects, localObject(filepath.Join(full, e.Name()), name))
			continue
		}
		err := s.walk(ctx, name, append(slices.Clip(above), here), nil)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.Unlisted = append(s.Unlisted, Object{Name: name, Err: disk.Bare(err)})
		}
		if top != nil {
			info, _ := os.Stat(filepath.Join(full, e.Name()))
			s.Folders, *top = append(s.Folders, e.Name()), append(*top, info)
		}
	}
	return nil
}

// findTwins fills in s.Twins. top is what each of s.Folders is.
func (s *Set) findTwins(top []os.FileInfo) {
	first := map[string]string{}
	for i, info := range top {
		if info == nil {
			continue
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return
		}
		key := fmt.Sprint(st.Dev, " ", st.Ino)
		if _, known := first[key]; !known {
			first[key] = s.Folders[i]
			continue
		}
		if s.Twins == nil {
			s.Twins = map[string]string{}
		}
		s.Twins[s.Folders[i]] = first[key]
	}
}

func isFolder(dir string, e os.DirEntry) bool {
	if e.Type()&fs.ModeSymlink == 0 {
		return e.IsDir()
	}
	info, err := os.Stat(filepath.Join(dir, e.Name()))
	return err == nil && info.IsDir()
}

func localObject(path, name string) Object {
	info, err := os.Stat(path)
	if err != nil {
		return Object{Name: name, Err: statError(path, err)}
	}
	if kind := kindOf(info.Mode()); kind != "" {
		return Object{Name: name, Err: fmt.Errorf("%s, want a file", kind)}
	}
	return Object{Name: name, Size: info.Size(), Version: version(info)}
}

// statError words why a file that a folder lists cannot be looked at, without its path.
func statError(path string, err error) error {
	if to, linkErr := os.Readlink(path); linkErr == nil {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("a link to nothing: there is no %s", to)
		case errors.Is(err, syscall.ELOOP):
			return fmt.Errorf("a link that leads back to itself through %s", to)
		}
	}
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// kindOf names what is no regular file, "" for one.
func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return ""
	case mode&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	case mode.IsDir():
		return "a folder"
	}
	return "not a regular file"
}

func version(info os.FileInfo) string {
	return fmt.Sprintf("%d-%d", info.Size(), info.ModTime().UnixNano())
}

// localFile is a file that is noticed to have changed since it was listed.
type localFile struct {
	*os.File
}

func openFile(path string, o *Object) (File, error) {
	// a FIFO that took the place of a file would hold it up
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if v := version(info); v != o.Version {
		f.Close()
		return nil, fmt.Errorf("%s: changed since it was listed (%d bytes then, %d now): start again", path, o.Size,
			info.Size())
	}
	return localFile{f}, nil
}
