package main

import (
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/internal/disk"
)

// outsideOf refuses a folder to write into, given by a flag, that is the folder of the pictures or lies in it: what is
// written there would be taken for pictures, or for a class, the next time. Links are followed.
func outsideOf(pictures, flag, dir string) error {
	in, err := os.Stat(pictures)
	if err != nil || !in.IsDir() {
		return nil // an archive, a pattern, or remote
	}
	at, err := filepath.Abs(dir)
	if err != nil {
		return nil // as below
	}
	at = disk.Existing(at)
	if real, err := filepath.EvalSymlinks(at); err == nil {
		at = real
	}
	for first := true; ; at, first = filepath.Dir(at), false {
		switch here, err := os.Stat(at); {
		case err != nil:
			return nil // whoever makes the folder says why that fails
		case !os.SameFile(here, in):
		case first && sameFile(dir, pictures):
			return usagef("--%s %s: holds the pictures, want a folder of its own", flag, dir)
		default:
			return usagef("--%s %s: lies in %s, which holds the pictures: want a folder outside of it",
				flag, dir, pictures)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

func sameFile(a, b string) bool {
	sa, err := os.Stat(a)
	sb, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(sa, sb)
}
