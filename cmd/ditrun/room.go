package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/internal/disk"
)

// A writing is what a command is about to put on a disk.
type writing struct {
	flag, path string // where
	what       string // in the plural: "the latents"
	all        int64  // bytes of everything that it comes to
	least      int64  // bytes without which nothing comes of the work
	unit       string // what least is, where that is not everything: "the first shard"
	short      string // what happens where all of it finds no room, or what to do about that
}

// checkRoom compares what a command is about to write with what is free: where not even the least of it has room that
// is an error, where some of it has none a warning. It returns what is free in words, to end a line with.
func (e *env) checkRoom(w writing) (free string, err error) {
	n := e.free(w.path)
	if n < 0 {
		return "", nil
	}
	is := format.Bytes(n)
	switch {
	case n < w.least && w.unit != "":
		err = fmt.Errorf("--%s %s: %s %s, %s are free", w.flag, w.path, w.unit, format.Bytes(w.least), is)
	case n < w.least:
		err = fmt.Errorf("--%s %s: %s take %s, %s are free", w.flag, w.path, w.what, format.Bytes(w.least), is)
	case n < w.all:
		e.warn("--%s %s: %s take %s, %s are free: %s", w.flag, w.path, w.what, format.Bytes(w.all), is, w.short)
	}
	if err != nil {
		hint := "free space on the disk of " + disk.Existing(w.path)
		if w.flag != "resume" { // which has to stay where it is
			hint += ", or give another --" + w.flag
		}
		return "", withHint(err, "%s", hint)
	}
	return "; " + is + " are free", nil
}

// latentShards is the writing of latents into the folder out: so many bytes of them, in shards.
func latentShards(out string, left, shard int64) writing {
	w := writing{flag: "out", path: out, what: "the latents", all: left, least: shard,
		short: "shards that are whole by then are kept, and the same command continues"}
	if shard < left {
		w.unit = "one shard of latents takes"
	}
	return w
}

// A freeKey finds, in the context of a test, the function that says what is free on the disk of a path.
type freeKey struct{}

// freeOf returns the function that says what is free on the disk of a path, negative where that is not known.
func freeOf(ctx context.Context) func(path string) int64 {
	if free, ok := ctx.Value(freeKey{}).(func(string) int64); ok {
		return free
	}
	return disk.Free
}

// checkFolder refuses a folder to write into, given by a flag, that cannot be made or written, before the work instead
// of after it.
func checkFolder(flag, out string) error {
	err := disk.TryFolder(out)
	if at := (*fs.PathError)(nil); errors.Is(err, syscall.ENOTDIR) && errors.As(err, &at) {
		return fmt.Errorf("--%s %s: %s is a file, want a folder", flag, out, at.Path)
	}
	return cannotWrite(flag, out, err)
}

// checkFile is checkFolder for a file, or for a folder that is made beside its place and moved there.
func checkFile(flag, out string) error { return cannotWrite(flag, out, disk.Try(out)) }

func cannotWrite(flag, out string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("--%s %s: cannot be written: %w%w", flag, out, disk.Bare(err), disk.Quiet(err))
}
