package catalog

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/store/storetest"
)

// TestUnsorted: pictures that nobody sorted into class folders are a set without classes, at once where there are no
// such folders, else where the caller says so.
func TestUnsorted(t *testing.T) {
	server := &storetest.Server{}
	server.Serve(t)
	const none = "no class folders: the pictures are used without classes, for an unconditional model; " +
		"class folders or --labels give them classes"
	for name, c := range map[string]struct {
		files     string
		noClasses bool
		names     string
		notes     string
	}{
		"flat": {"b.jpg a.JPG a.heic .DS_Store a.xmp a.AAE a.mov Thumbs.db", false, "a.JPG b.jpg",
			"left out: 1 .aae, 1 .db, 1 .heic, 1 .mov, 1 .xmp, 1 hidden\n" + none},
		"flat beside a folder without pictures": {"b.jpg a.jpg videos/1.mp4 @eaDir/a.jpg/THUMB.jpg", false,
			"a.jpg b.jpg",
			"left out: 1 .mp4, 1 in @eaDir\n" + none},
		"flat, as wanted": {"b.jpg a.jpg", true, "a.jpg b.jpg", ""},
		"years": {"2024/06/2.jpg 2023/05/1.jpg loose.jpg 2024/05/9.jpg 2022/a.mp4", true,
			"loose.jpg 2023/05/1.jpg 2024/05/9.jpg 2024/06/2.jpg", "left out: 1 .mp4"},
		"a folder among loose pictures": {"a.jpg b.jpg best/c.jpg", true, "a.jpg b.jpg best/c.jpg", ""},
		"parts": {"train/1.jpg test/2.jpg", true, "test/2.jpg train/1.jpg",
			"the pictures of several parts of the data set are taken together: test, train"},
		"a name composed twice": {"M\u00e4use/1.jpg Ma\u0308use/1.jpg", true,
			"Ma\u0308use/1.jpg M\u00e4use/1.jpg", ""},
	} {
		t.Run(name, func(t *testing.T) {
			src, notes, err := openBoth(t, server, treeOf(c.files), Options{NoClasses: c.noClasses})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for i := range src.Len() {
				s := src.Sample(i)
				if names = append(names, s.Name); s.Label != 0 {
					t.Errorf("%s has label %d", s.Name, s.Label)
				}
			}
			if classes := src.Classes(); len(classes) != 1 || classes[0] != "" {
				t.Errorf("classes %q, want one without a name", classes)
			}
			if got := strings.Join(names, " "); got != c.names || notes != c.notes {
				t.Errorf("pictures %q, notes %q, want %q and %q", got, notes, c.names, c.notes)
			}
		})
	}
	if src, notes, err := openBoth(t, server, treeOf("2023/05/1.jpg 2024-06/2.jpg 20240507/3.jpg"),
		Options{}); err != nil ||
		len(src.Classes()) != 3 || notes != "each year or date is a class (2023, 2024-06, 20240507): "+
		"--unconditional takes the pictures without classes" {
		t.Errorf("years: notes %q, error %v", notes, err)
	}
	if _, _, err := openBoth(t, server, treeOf("a.heic b.HEIC c.mov"), Options{}); err == nil ||
		!strings.HasSuffix(err.Error(), "; left out: 2 .heic, 1 .mov: convert the .heic files to JPEG or PNG") {
		t.Errorf("HEIC alone: error %v", err)
	}
	for name, files := range map[string]string{"no picture": "a.heic b/c.mov", "nothing": ".DS_Store"} {
		if _, _, err := openBoth(t, server, treeOf(files), Options{NoClasses: true}); err == nil ||
			!strings.Contains(err.Error(), "no pictures: want a folder of pictures") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// unlabelled is a table of pictures, made from files of the given names, without a column of labels.
func unlabelled(t *testing.T, names ...string) []byte {
	t.Helper()
	type row struct {
		Image struct {
			Bytes []byte `parquet:"bytes"`
			Path  string `parquet:"path"`
		} `parquet:"image"`
	}
	rows := make([]row, len(names))
	for i, name := range names {
		rows[i].Image.Bytes, rows[i].Image.Path = datatest.PNG(t, 2+i, 2), name
	}
	var b bytes.Buffer
	if err := parquet.Write(&b, rows); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestShardsWithoutLabels: the shards of a data set without labels are no classes; archives of classes are.
func TestShardsWithoutLabels(t *testing.T) {
	p := datatest.PNG(t, 2, 2)
	shard := datatest.Tar(t, []datatest.File{{"a.png", p}, {"a.txt", []byte("a cat")}, {"b.png", p}})
	table := unlabelled(t, "x/a.png", "b.png")
	const note = "no labels in the 2 shards: the pictures are used without classes, for an unconditional model; " +
		"--labels gives them classes"
	const doubt = ": --unconditional takes the pictures without classes"
	for name, c := range map[string]struct {
		files string
		of    []byte
		want  string
	}{
		"tables": {"train-00000-of-00002.parquet train-00001-of-00002.parquet", table,
			" | train-00000-of-00002/a.png:0 train-00000-of-00002/b.png:0 train-00001-of-00002/a.png:0 " +
				"train-00001-of-00002/b.png:0 | " + note},
		"tables with hashes": {"train-00000-of-00002-ab1c.parquet train-00001-of-00002-d22e.parquet",
			unlabelled(t, ""),
			" | train-00000-of-00002-ab1c/00000000.png:0 train-00001-of-00002-d22e/00000000.png:0 | " + note},
		"rows of one name": {"x.parquet", unlabelled(t, "a.png", "a.png"), " | a.png:0 a.png:0 | " + noFolders},
		"numbered archives": {"00000.tar 00001.tar", shard,
			" | 00000/a.png:0 00000/b.png:0 00001/a.png:0 00001/b.png:0 | " + note},
		"named archives": {"part-9.tar part-10.tar", shard,
			" | part-10/a.png:0 part-10/b.png:0 part-9/a.png:0 part-9/b.png:0 | " + note},
		"an empty one": {"x-0.tar x-1.tar:empty", shard,
			" | x-0/a.png:0 x-0/b.png:0 | " + note + " | empty archives and tables are left out: x-1.tar"},
		"classes": {"cat.tar dog.tar", shard, "cat dog | a.png:0 b.png:0 a.png:1 b.png:1"},
		"synsets": {"n01440764.tar n01443537.tar", shard, "n01440764 n01443537 | a.png:0 b.png:0 a.png:1 b.png:1"},
		"numbers": {"0.tar 1.tar", shard, "0 1 | a.png:0 b.png:0 a.png:1 b.png:1 | each archive is a class, though " +
			"some differ by a number alone (0, 1)" + doubt},
		"shards of classes": {"cat-0.tar cat-1.tar dog-0.tar", shard, "cat-0 cat-1 dog-0 | a.png:0 b.png:0 a.png:1 " +
			"b.png:1 a.png:2 b.png:2 | each archive is a class, though some differ by a number alone (cat-0, cat-1, " +
			"dog-0)" + doubt},
	} {
		files := map[string][]byte{}
		for _, file := range strings.Fields(c.files) {
			if file, empty := strings.CutSuffix(file, ":empty"); empty {
				files[file] = make([]byte, 1024)
			} else {
				files[file] = c.of
			}
		}
		dir := datatest.WriteFiles(t, files)
		if got := summary(t, dir, Options{}); got != c.want {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
		// Where they are asked for without classes, they are the same but for what is said.
		cache := t.TempDir()
		var hashes []string
		for _, o := range []Options{{}, {}, {NoClasses: true}, {NoClasses: true}} { // first without, then by an index
			o.CacheDir = cache
			src, err := Open(t.Context(), dir, o)
			if err != nil {
				t.Fatal(err)
			}
			hashes = append(hashes, src.Hash())
			if text := strings.Join(src.Notes(), " "); o.NoClasses && (strings.Contains(text, "shards") ||
				strings.Contains(text, "class")) {
				t.Errorf("%s, asked for without classes: %s", name, text)
			}
			src.Close()
		}
		if len(slices.Compact(hashes)) > 1 {
			t.Errorf("%s: hashes %q", name, hashes)
		}
	}
}

// TestNoClassesKeepsIDs: a set of class folders that is opened without classes has the same ids and hash, so that runs
// which never looked at the classes go on. Archives and IDX files too lose their classes.
func TestNoClassesKeepsIDs(t *testing.T) {
	p := datatest.PNG(t, 2, 2)
	dir := datatest.WriteFiles(t, map[string][]byte{"a-b/1.png": p, "a/z.png": p, "a/b/c.png": p, "\u732b/3.png": p})
	sorted, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	unsorted, err := Open(t.Context(), dir, Options{NoClasses: true})
	if err != nil {
		t.Fatal(err)
	}
	if sorted.Hash() != unsorted.Hash() {
		t.Error("the hash depends on whether the classes are looked at")
	}
	for i := range sorted.Len() {
		s, u := sorted.Sample(i), unsorted.Sample(i)
		if want := sorted.Classes()[s.Label] + "/" + s.Name; u.Name != want {
			t.Errorf("sample %d is %s, want %s", i, u.Name, want)
		}
	}

	flat := datatest.Tar(t, []datatest.File{{"b.png", p}, {"a.png", p}})
	mixed := datatest.Tar(t, []datatest.File{{"a.png", p}, {"x/b.png", p}})
	partly := datatest.Tar(t, []datatest.File{{"a.png", p}, {"a.cls", []byte("1")}, {"b.png", p}})
	files := datatest.WriteFiles(t, map[string][]byte{"flat.tar": flat, "mixed.tar": mixed, "partly.tar": partly,
		"idx/train-images-idx3-ubyte": idxFile([]int{2, 1, 1}, []byte{5, 6}),
		"idx/train-labels-idx1-ubyte": idxFile([]int{2}, []byte{1, 0})})
	for _, c := range []struct{ path, want string }{
		{"mixed.tar", " | a.png:0 x/b.png:0"},
		{"partly.tar", " | a.png:0 b.png:0"},
		{"idx", " | 00000001:0 00000000:0"},
	} {
		if got := summary(t, filepath.Join(files, c.path), Options{NoClasses: true}); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", c.path, got, c.want)
		}
	}
	if got := summary(t, filepath.Join(files, "flat.tar"), Options{}); got != " | a.png:0 b.png:0 | "+noFolders {
		t.Errorf("flat.tar: %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "loose.png"), p, 0o666); err != nil {
		t.Fatal(err)
	}
	if more, err := Open(t.Context(), dir, Options{NoClasses: true}); err != nil || more.Len() != sorted.Len()+1 {
		t.Errorf("with a picture in no folder: %v", err)
	}
}
