package catalog

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/store/storetest"
)

// places are where a container can be opened, each twice.
func places(t *testing.T, server *storetest.Server, c *datatest.Container) map[string]string {
	t.Helper()
	server.Change(func() { server.Objects = datatest.Below("some/where", c.Files) })
	local := filepath.Join(datatest.WriteFiles(t, c.Files), c.Path)
	remote := "s3://bucket/" + path.Join("some/where", c.Path)
	return map[string]string{"first": local, "again, from the index": local, "from S3": remote, "again from S3": remote}
}

// The same data set in every container has the same ids, names, pictures and hash.
func TestContainersAgree(t *testing.T) {
	set := datatest.SmallSet(t)
	server := &storetest.Server{}
	server.Serve(t)
	hash := ""
	for _, c := range datatest.Containers(t) {
		t.Run(c.Name, func(t *testing.T) {
			o := Options{CacheDir: t.TempDir(), Labels: c.Labels}
			for round, location := range places(t, server, &c) {
				src, err := Open(t.Context(), location, o)
				if err != nil {
					t.Fatal(err)
				}
				defer src.Close()
				if src.Len() != len(set) {
					t.Fatalf("%s: %d samples, want %d", round, src.Len(), len(set))
				}
				if !slices.Equal(src.Classes()[:3], datatest.Synsets()) || len(src.Classes()) != 3 && o.Labels == "" {
					t.Errorf("%s: classes %q", round, src.Classes()[:3])
				}
				for i, want := range set {
					if got := src.Sample(i); filename.Stem(got.Name) != want.Key || got.Label != want.Label {
						t.Errorf("%s: sample %d is %v, want %s of class %d", round, i, got, want.Key, want.Label)
					}
					img, err := src.Image(i)
					if err != nil {
						t.Fatal(err)
					}
					if want, err := picture.Decode(want.Content); err != nil || !bytes.Equal(img.Pix, want.Pix) {
						t.Errorf("%s: sample %d is another picture", round, i)
					}
				}
				if hash == "" {
					hash = src.Hash()
				}
				if src.Hash() != hash {
					t.Errorf("%s: another hash than the folder's", round)
				}
			}
		})
	}
}

// Pictures of a table that gives them no names are called by their rows.
func TestNamelessTable(t *testing.T) {
	var rows []datatest.TableRow
	for _, label := range []int64{1, 0, 2, 0, 0} {
		row := datatest.TableRow{Label: label}
		row.Image.Bytes = datatest.PNG(t, 2, 2)
		rows = append(rows, row)
	}
	server := &storetest.Server{}
	server.Serve(t)
	cache := t.TempDir()
	table := datatest.Container{Files: map[string][]byte{"a.parquet": datatest.Table(t, rows)}}
	for round, location := range places(t, server, &table) {
		src, err := Open(t.Context(), location, Options{CacheDir: cache})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		if s := src.Sample(0); src.Len() != len(rows) || s != (Sample{"00000001.png", 0}) {
			t.Errorf("%s: %d samples, the first is %v", round, src.Len(), s)
		}
	}
}

// Class names of tables that have no WordNet ids are those in the metadata of Hugging Face's datasets.
func TestParquetClassNames(t *testing.T) {
	row := datatest.TableRow{Label: 1}
	row.Image.Bytes = datatest.PNG(t, 1, 1)
	meta := `{"info": {"features": {"image": {"_type": "Image"}, ` +
		`"label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}}}}`
	dir := datatest.WriteFiles(t,
		map[string][]byte{"a.parquet": datatest.Table(t, []datatest.TableRow{row},
			parquet.KeyValueMetadata("huggingface", meta))})
	src, err := Open(t.Context(), dir, Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"cat", "dog", "emu"}; !slices.Equal(src.Classes(), want) {
		t.Errorf("classes %q, want %q", src.Classes(), want)
	}
}

func TestArchiveBadInput(t *testing.T) {
	p := datatest.PNG(t, 1, 1)
	good := datatest.Tar(t, []datatest.File{{"a/a.png", p}, {"b/b.png", p}})
	var link bytes.Buffer
	w := tar.NewWriter(&link)
	if err := w.WriteHeader(&tar.Header{Name: "a/a.png", Linkname: "b/b.png", Typeflag: tar.TypeLink}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	bomb := bytes.Repeat(datatest.Gzip(t, make([]byte, 1<<20)), 128) // 200 times its own size and 64 MiB are 95 MB
	unlabelled := datatest.TableRow{Label: -1}
	unlabelled.Image.Bytes = p
	table := datatest.Table(t, []datatest.TableRow{unlabelled})
	for name, c := range map[string]struct {
		files map[string][]byte
		path  string
		want  string
	}{
		"truncated":       {map[string][]byte{"a.tar": good[:700]}, "a.tar", "truncated: "},
		"cut in a header": {map[string][]byte{"a.tar": good[:1100]}, "a.tar", "truncated: "},
		"no pictures": {map[string][]byte{"a.tar": datatest.Tar(t, []datatest.File{{"a.txt", p}})}, "a.tar",
			"no pictures: want"},
		"flat in part": {
			map[string][]byte{"a.tar": datatest.Tar(t, []datatest.File{{"a.png", p}, {"x/b.png", p}})}, "a.tar",
			"a.png is in no class: want .cls"},
		"some unlabelled": {
			map[string][]byte{"a.tar": datatest.Tar(t,
				[]datatest.File{{"a.png", p}, {"a.cls", []byte("0")}, {"b.png", p}})}, "a.tar",
			"b.png has no label: want a member b.cls"},
		"half a label": {
			map[string][]byte{"a.tar": datatest.Tar(t, []datatest.File{{"a.png", p}, {"a.cls", []byte("1.5")}})},
			"a.tar", `a.cls: label "1.5": want a number`},
		"enormous label": {
			map[string][]byte{"a.tar": datatest.Tar(t,
				[]datatest.File{{"a.png", p}, {"a.cls", []byte("99999999999")}})}, "a.tar", "want a number"},
		"link": {map[string][]byte{"a.tar": link.Bytes()}, "a.tar", "a/a.png is a link to b/b.png"},
		"three deep": {
			map[string][]byte{"a.tar": datatest.Tar(t,
				[]datatest.File{{"n.tar", datatest.Tar(t, []datatest.File{{"m.tar", good}})}})}, "a.tar",
			"archives nested three deep"},
		"mixed": {
			map[string][]byte{"a.tar": datatest.Tar(t, []datatest.File{{"n.tar", good}, {"a.png", p}})}, "a.tar",
			"side by side"},
		"truncated inner": {map[string][]byte{"a.tar": datatest.Tar(t, []datatest.File{{"n.tar", good[:1000]}})},
			"a.tar", "n.tar in "},
		"gzip bomb": {map[string][]byte{"a.tar.gz": bomb}, "a.tar.gz", "unpack to more than"},
		"truncated gzip": {map[string][]byte{"a.tar.gz": datatest.Gzip(t, good)[:100]}, "a.tar.gz",
			"truncated: the compressed data of 100 bytes end early"},
		"truncated zstd": {map[string][]byte{"a.tar.zst": datatest.Zstd(t, good)[:60]}, "a.tar.zst",
			"truncated: the compressed data of 60 bytes end early"},
		"not an archive":     {map[string][]byte{"a.tar": []byte("hello")}, "", "not a tar archive or parquet file"},
		"parquet, no labels": {map[string][]byte{"a.parquet": table}, "", "label -1: want a number from 0"},
		"truncated parquet":  {map[string][]byte{"a.parquet": table[:len(table)-20]}, "", "a.parquet"},
		"parts, not classes": {map[string][]byte{"train/a/a.png": p, "val/a/b.png": p}, "",
			"it holds parts of a data set (train, val), not classes: name one"},
		"labels that are file": {map[string][]byte{"manifest.json": p, "a/a.png": p}, "", "holds encoded latents"},
	} {
		cache := t.TempDir()
		location := filepath.Join(datatest.WriteFiles(t, c.files), c.path)
		_, err := Open(t.Context(), location, Options{CacheDir: cache})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
		if left, _ := filepath.Glob(filepath.Join(cache, "unpacked", "*")); len(left) > 0 {
			t.Errorf("%s: left %v in the cache", name, left)
		}
	}
}

// A picture that changes, or an archive that is cut short, after it was listed.
func TestSourceVanishes(t *testing.T) {
	p := datatest.PNG(t, 2, 2)
	dir := datatest.WriteFiles(t, map[string][]byte{"a/a.png": p, "a/b.png": p})
	src, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "a/a.png")); err != nil {
		t.Fatal(err)
	}
	if _, err := src.Image(0); err == nil || !strings.Contains(err.Error(), "a/a.png: no such file") {
		t.Errorf("removed: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a/b.png"), p[:10], 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := src.Image(1); err == nil || !strings.Contains(err.Error(), "changed since it was listed") {
		t.Errorf("changed: %v", err)
	}
	dir = datatest.WriteFiles(t,
		map[string][]byte{"a.tar": datatest.Tar(t, []datatest.File{{"a/a.png", p}, {"b/b.png", p}})})
	src, err = Open(t.Context(), dir, Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := src.Image(0); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "a.tar"), 600); err != nil {
		t.Fatal(err)
	}
	if _, err := src.Image(1); err == nil || !strings.Contains(err.Error(), "b.png of class \"b\" in ") ||
		!strings.Contains(err.Error(), "cut short") {
		t.Errorf("cut: %v", err)
	}
}

// An archive of the shape of ILSVRC2012_img_train.tar, at full size under DITRUN_SOAK: 1,281,167 pictures in 1,000
// class archives.
func TestIndexManyPictures(t *testing.T) {
	classes, total := 20, 4000
	if os.Getenv("DITRUN_SOAK") != "" {
		classes, total = 1000, 1281167
	}
	name := filepath.Join(t.TempDir(), "train.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	p := datatest.PNG(t, 2, 2)
	outer := tar.NewWriter(f)
	for label := range classes {
		var files []datatest.File
		synset := fmt.Sprintf("n%08d", label)
		for i := label; i < total; i += classes {
			files = append(files, datatest.File{fmt.Sprintf("%s_%d.JPEG", synset, i), p})
		}
		b := datatest.Tar(t, files)
		if err := outer.WriteHeader(&tar.Header{Name: synset + ".tar", Size: int64(len(b)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := outer.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := outer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	hash := ""
	for _, round := range []string{"by reading headers", "from the index"} {
		runtime.GC()
		start := time.Now()
		src, err := Open(t.Context(), name, Options{CacheDir: cache})
		if err != nil {
			t.Fatal(err)
		}
		taken := time.Since(start)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		t.Logf("%d pictures in %d classes %s: %.1f s, %d MB of heap, %d MB from the system", src.Len(),
			len(src.Classes()), round, taken.Seconds(), m.HeapAlloc>>20, m.Sys>>20)
		if src.Len() != total || len(src.Classes()) != classes {
			t.Errorf("%d pictures in %d classes, want %d in %d", src.Len(), len(src.Classes()), total, classes)
		}
		if hash == "" {
			hash = src.Hash()
		} else if src.Hash() != hash {
			t.Error("another hash")
		}
		if s := src.Sample(total - 1); path.Ext(s.Name) != ".JPEG" || s.Label != classes-1 {
			t.Errorf("the last sample is %v", s)
		}
		if _, err := src.Image(total / 2); err != nil {
			t.Error(err)
		}
		src.Close()
	}
}
