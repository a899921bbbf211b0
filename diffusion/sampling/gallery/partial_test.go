package gallery

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/ditrun/ditrun/internal/disk"
)

// What a command has drawn stays where the next one cannot begin, whatever the reason: the one after that continues.
func TestFailedBeginKeepsPictures(t *testing.T) {
	for name, spoil := range map[string]string{"lock": joinLock, "state": partialFile} {
		for _, kind := range kinds {
			path := filepath.Join(t.TempDir(), kind)
			out := open(t, path, "a")
			add(t, out, 2)
			if kept := out.Close(); kept != 6 {
				t.Fatalf("%s: %d pictures are kept", kind, kept)
			}
			// A folder in the place of a file cannot be opened, as where there is no place for another open file.
			at := filepath.Join(Partials(path)[0].Dir, spoil)
			aside := filepath.Join(t.TempDir(), "aside")
			if err := os.Rename(at, aside); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(at, 0o777); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(context.Background(), path, setOf("a")); err == nil {
				t.Fatalf("%s, %s: it began", name, kind)
			}
			if err := os.Remove(at); err != nil {
				t.Fatalf("%s, %s: %v", name, kind, err)
			}
			if err := os.Rename(aside, at); err != nil {
				t.Fatal(err)
			}
			out = open(t, path, "a")
			if done := out.Done(); done != 6 {
				t.Errorf("%s, %s: %d pictures are left, want 6", name, kind, done)
			}
			out.Close()
		}
	}
}

// A state that cannot be read while pictures are drawn is an error, not that of nothing, and costs no pictures.
func TestUnreadableStateWhileDrawing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	out := open(t, path, "a")
	add(t, out, 2)
	at := filepath.Join(Partials(path)[0].Dir, partialFile)
	aside := filepath.Join(t.TempDir(), "aside")
	if err := os.Rename(at, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, _, err := out.Next(t.Context()); err == nil {
		t.Error("Next has read a folder")
	}
	if err := out.Add(2, pictures(6, 8)); err == nil {
		t.Error("Add has read a folder")
	}
	if err := out.Finish(t.Context()); err == nil {
		t.Error("Finish has read a folder")
	}
	out.Close()
	if err := os.Remove(at); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, at); err != nil {
		t.Fatal(err)
	}
	out = open(t, path, "a")
	if done := out.Done(); done != 6 {
		t.Errorf("%d pictures are left, want 6", done)
	}
	out.Close()
}

// A folder in which nothing was drawn does not stay where a command cannot begin.
func TestFailedBeginLeavesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	dir := filepath.Join(filepath.Dir(path), ".x.npz.aaaaaaaaaaaa.partial")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	lock, err := disk.TryLock(filepath.Join(dir, joinLock))
	if err != nil || !lock.Held() {
		t.Skip("the file system has no locks")
	}
	defer lock.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Open(ctx, path, setOf("a")); err == nil {
		t.Fatal("it began without the lock")
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the folder stays")
	}
}
