package latents

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/internal/datatest"
)

const (
	composed   = "caf\u00e9"  // as Linux and Windows write it
	decomposed = "cafe\u0301" // as macOS does
)

// Folders whose names are not UTF-8 stay two classes in all that is written of them, and the same set is the same
// again, also out of an archive whose index is kept.
func TestNamesOfBytes(t *testing.T) {
	picture := datatest.PNG(t, 8, 8)
	classes := []string{"a\xffb", "caf\xe8", "caf\xe9", `d\xe9`} // the last one has a backslash in its name
	want := []string{`a\xffb`, `caf\xe8`, `caf\xe9`, `d\x5cxe9`}
	var members []datatest.File
	files := map[string][]byte{}
	for _, class := range classes {
		files[class+"/p\xe9.png"] = picture
		members = append(members, datatest.File{class + "/p\xe9.png", picture})
	}
	folder := datatest.WriteFiles(t, files)
	archive := datatest.WriteFiles(t, map[string][]byte{"set.tar": datatest.Tar(t, members)})
	cache := t.TempDir()
	hash := ""
	for _, location := range []string{folder, archive, archive} {
		src, err := catalog.Open(t.Context(), location, catalog.Options{CacheDir: cache})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		if !slices.Equal(src.Classes(), want) {
			t.Errorf("%s: classes %q, want %q", location, src.Classes(), want)
		}
		if notes := src.Notes(); len(notes) > 0 {
			t.Errorf("%s: notes %q about names that nothing is wrong with", location, notes)
		}
		if hash == "" {
			hash = src.Hash()
		}
		if src.Hash() != hash || src.Sample(0).Name != "p\xe9.png" {
			t.Errorf("%s: hash %.12s, first sample %q: want %.12s and its bytes", location, src.Hash(),
				src.Sample(0).Name, hash)
		}
		plan := testPlan(src.Len())
		plan.ShardSize = 4
		plan.Dataset = DatasetOf(src)
		dir := filepath.Join(t.TempDir(), "set")
		w, err := NewWriter(dir, plan)
		if err != nil {
			t.Fatal(err)
		}
		for c, err := range w.Claims(t.Context(), 0, 1) {
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Skip(0, src.Sample(0), "torn"); err != nil {
				t.Fatal(err)
			}
			var flip []float32
			if plan.Flip {
				flip = testRecords(&plan, 1, c.Hi, true)
			}
			records := testRecords(&plan, 1, c.Hi, false)
			if err := c.Add(idsFrom(1, c.Hi), records, flip, testLabels(1, c.Hi)); err != nil {
				t.Fatal(err)
			}
			if err := c.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
		m, err := ReadManifest(dir)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(m.Dataset.Classes, want) || m.Skipped[0].Name != `p\xe9.png` {
			t.Errorf("%s: the manifest has classes %q, first skipped %q", location, m.Dataset.Classes,
				m.Skipped[0].Name)
		}
		if d := plan.differs(&m.Plan); d != "" {
			t.Errorf("%s: the same set again is %s", location, d)
		}
	}
}

// The names of a set that was made before bytes were escaped open, and sets of a name with a backslash are the same.
func TestOldNames(t *testing.T) {
	old, now := testPlan(10), testPlan(10)
	old.Dataset.Classes = []string{"caf\ufffd", "caf\ufffd", "b"}
	if l, err := Open(testLatents(t, old)); err != nil || !slices.Equal(l.Classes(), old.Dataset.Classes) {
		t.Errorf("%v", err)
	}
	old.Dataset.Classes, now.Dataset.Classes = []string{`a\xe9`, "b", "c"}, []string{`a\x5cxe9`, "b", "c"}
	if d := now.differs(&old); d != "" {
		t.Error(d)
	}
}

// A set that was begun where names are decomposed goes on where they are not, with the names that it has.
func TestPlanOfTheOtherForm(t *testing.T) {
	mac, linux := testPlan(10), testPlan(10)
	mac.Dataset.Classes = []string{"ant", decomposed, "dog"}
	linux.Dataset.Classes = []string{"ant", composed, "dog"}
	dir := t.TempDir()
	w, err := NewWriter(dir, mac)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := encodeAll(context.Background(), dir, linux); err != nil {
		t.Fatal(err)
	}
	before := datatest.Contents(t, dir)
	if _, err := encodeAll(context.Background(), dir, mac); err != nil {
		t.Error(err)
	}
	datatest.SameContents(t, datatest.Contents(t, dir), before)
	linux.Dataset.Classes = []string{"ant", "cafe", "dog"}
	const want = "made with other class names: class 1 was called \"caf\u00e9\", and is now \"cafe\""
	if _, err := NewWriter(dir, linux); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
}

// A manifest that an editor saved with a byte order mark is read without it, and UTF-16 is named.
func TestByteOrderMarks(t *testing.T) {
	set := testLatents(t, testPlan(10))
	path := filepath.Join(set, ManifestName)
	manifest, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	datatest.CheckMarks(t, "manifest", path, string(manifest), func() ([]string, error) {
		m, err := ReadManifest(set)
		if err != nil {
			return nil, err
		}
		return m.Dataset.Classes, nil
	}, []string{"a", "b", "c"})
}
