// Package store reads the files of a data set where they are: a folder on this machine, or a bucket of
// S3-compatible storage. Reading is at random offsets, so that archives need not be unpacked.
//
//	set, err := store.Open(ctx, "s3://bucket/imagenet/train-*.tar")
//	for i, o := range set.Objects {
//		f, err := set.File(i)
//		_, err = f.ReadAt(p, off)
//	}
package store

import (
	"context"
	"io"
	"path"
	"strings"
)

// Object is one file.
type Object struct {
	Name string // slash-separated path below the root of its set
	Size int64  // bytes
	// Version changes when the content does: the entity tag of an object, size and time of a file.
	Version string
	// Err says why the file cannot be read (a dead link, a pipe); Size and Version are then not known.
	Err error
}

// File is an open object. Reads may run at the same time. A read that ends early for any reason but the end of the
// file has an error that names the file.
type File interface {
	io.ReaderAt
	io.Closer
}

// Set is what a location holds.
type Set struct {
	// Location is what was opened, as the user wrote it; Root is the folder that the names are relative to.
	Location, Root string
	// Remote says that each read is a request to another machine, so that many should be under way at once.
	Remote bool
	// Single says that the location named one file, the only object.
	Single bool
	// Objects are all files at any depth below Root, in byte order of their names. For a pattern they are those that
	// match.
	Objects []Object
	// Folders are the names of the folders directly in Root, empty ones included where the storage knows of them.
	Folders []string
	// Unlisted are the folders at any depth whose files could not be listed, each with the reason in Err.
	Unlisted []Object
	// Twins are those of Folders that are the same folder as an earlier one, whose name is the value.
	Twins map[string]string

	open   func(o *Object) (File, error)
	prefix string // of the keys of remote objects
}

// Open lists what is at location: the path of a file or a folder, a pattern as of path.Match whose last element has
// wildcards (pictures/train-*.tar), or any of these as s3://bucket/key. Links are followed.
func Open(ctx context.Context, location string) (*Set, error) {
	if strings.Contains(location, "://") {
		return openRemote(ctx, location, defaultLimits)
	}
	return openLocal(ctx, location)
}

// File opens object i.
func (s *Set) File(i int) (File, error) {
	o := &s.Objects[i]
	if o.Err != nil {
		return nil, o.Err
	}
	return s.open(o)
}

// Path says where an object is, for messages.
func (s *Set) Path(name string) string {
	if strings.HasSuffix(s.Root, "/") {
		return s.Root + name
	}
	return s.Root + "/" + name
}

// Select returns the set without the objects that keep refuses.
func (s *Set) Select(keep func(o *Object) bool) *Set {
	t := *s
	t.Objects = nil
	for i := range s.Objects {
		if keep(&s.Objects[i]) {
			t.Objects = append(t.Objects, s.Objects[i])
		}
	}
	return &t
}

// Below returns the set of one folder of s.
func (s *Set) Below(folder string) *Set {
	t := &Set{Location: s.Path(folder), Root: s.Path(folder), Remote: s.Remote}
	for _, o := range s.Unlisted {
		if name, ok := strings.CutPrefix(o.Name, folder+"/"); ok {
			t.Unlisted = append(t.Unlisted, Object{Name: name, Err: o.Err})
		}
	}
	full := map[string]string{}
	for _, o := range s.Objects {
		name, ok := strings.CutPrefix(o.Name, folder+"/")
		if !ok {
			continue
		}
		full[name] = o.Name
		o.Name = name
		t.Objects = append(t.Objects, o)
		if dir, _, deeper := strings.Cut(name, "/"); deeper &&
			(len(t.Folders) == 0 || t.Folders[len(t.Folders)-1] != dir) {
			t.Folders = append(t.Folders, dir)
		}
	}
	t.open = func(o *Object) (File, error) {
		p := *o
		p.Name = full[o.Name]
		return s.open(&p)
	}
	return t
}

// isPattern says whether the last element of a location has wildcards.
func isPattern(location string) bool {
	return strings.ContainsAny(path.Base(location), "*?[")
}
