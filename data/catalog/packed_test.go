package catalog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/store"
)

// What earlier versions unpacked a table to is not used, and goes.
func TestUnpackedByEarlierVersions(t *testing.T) {
	dir := datatest.WriteFiles(t, map[string][]byte{"a.parquet": tableWith(t, nil, "dog", "cat")})
	set, err := store.Open(t.Context(), filepath.Join(dir, "a.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	old := filepath.Join(cache, "unpacked", cacheKey("parquet", set, &set.Objects[0])+".tar")
	if err := os.MkdirAll(filepath.Dir(old), 0o777); err != nil {
		t.Fatal(err)
	}
	archive := datatest.Tar(t, []datatest.File{{"a.png", nil}, {"a.cls", []byte("0")}})
	if err := os.WriteFile(old, archive, 0o666); err != nil {
		t.Fatal(err)
	}
	want := "cat dog | 00000001.png:0 00000000.png:1"
	if got := summary(t, filepath.Join(dir, "a.parquet"), Options{CacheDir: cache}); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old archive: %v", err)
	}
}
