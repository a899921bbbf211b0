package catalog

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/ditrun/ditrun/data/internal/datatest"
)

// summary opens a source twice, the second time from the index of archives, and words what it holds: classes, pictures
// with their labels, notes; or the error.
func summary(t *testing.T, location string, o Options) string {
	t.Helper()
	if o.CacheDir == "" {
		o.CacheDir = t.TempDir()
	}
	var first string
	for round := range 2 {
		src, err := Open(t.Context(), location, o)
		if err != nil {
			return "error: " + err.Error()
		}
		text := strings.Join(src.Classes(), " ") + " |"
		for i := range src.Len() {
			text += fmt.Sprintf(" %s:%d", src.Sample(i).Name, src.Sample(i).Label)
		}
		for _, note := range src.Notes() {
			text += " | " + note
		}
		src.Close()
		if round == 0 {
			first = text
		} else if text != first {
			t.Errorf("from the index: %s\nfirst: %s", text, first)
		}
	}
	return first
}

// fits says whether a summary is the wanted one, or the wanted error.
func fits(got, want string) bool {
	return got == want || strings.HasPrefix(got, "error: ") && strings.Contains(got, want)
}

func memberOf(name, text string) datatest.File { return datatest.File{name, []byte(text)} }

// A sample has one picture and one label, wherever its members are in the archive; what else there is, is said.
func TestSamples(t *testing.T) {
	p := datatest.PNG(t, 2, 2)
	pic := func(name string) datatest.File { return datatest.File{name, p} }
	dots := func(n int) (files []datatest.File) {
		for i := range n {
			files = append(files, pic(fmt.Sprintf("shot 22.%02d.png", i)),
				memberOf(fmt.Sprintf("shot 22.%02d.cls", i), fmt.Sprint(i%2)))
		}
		return files
	}
	for name, c := range map[string]struct {
		files []datatest.File
		want  string
	}{
		"dots in names": {
			dots(6),
			`sample "shot 22" has 6 pictures (shot 22.00.png, shot 22.01.png, shot 22.02.png ` +
				`(and 3 others)) and 6 labels (`,
		},
		"dots, one sample": {dots(1), "0 | shot 22.00.png:0"},
		"pictures first": {
			[]datatest.File{pic("a.png"), pic("b.png"), memberOf("a.cls", "1"), memberOf("b.cls", "0")},
			"0 1 | b.png:0 a.png:1",
		},
		"by extension": {
			[]datatest.File{memberOf("a.cls", "1"), memberOf("b.cls", "0"), pic("a.png"), pic("b.png"),
				memberOf("a.txt", "x"), memberOf("b.txt", "y")},
			"0 1 | b.png:0 a.png:1",
		},
		"masks": {
			[]datatest.File{pic("a.png"), pic("a.mask.png"), memberOf("a.cls", "0"), pic("b.edges.png"), pic("b.png"),
				memberOf("b.cls", "0")},
			"0 | a.png:0 b.png:0 | left out: 2 further pictures of a sample",
		},
		"masks elsewhere": {
			[]datatest.File{pic("a.png"), memberOf("a.cls", "0"), pic("b.png"), memberOf("b.cls", "0"),
				pic("a.mask.png"),
				pic("b.mask.png")},
			"0 | a.png:0 b.png:0 | left out: 2 further pictures of a sample",
		},
		"two of a sample": {
			[]datatest.File{pic("a.png"), pic("a.jpg"), memberOf("a.cls", "0")},
			`sample "a" has 2 pictures (a.jpg, a.png) and 1 label (a.cls), want one of each`,
		},
		"two parts of a sample": {
			[]datatest.File{pic("a.left.png"), pic("a.right.png"), memberOf("a.cls", "0")},
			`sample "a" has 2 pictures`,
		},
		"two, apart": {
			[]datatest.File{pic("a.png"), memberOf("a.cls", "0"), pic("b.png"), memberOf("b.cls", "0"), pic("a.jpg")},
			`sample "a" has 2 pictures`,
		},
		"two labels": {
			[]datatest.File{pic("a.b.png"), memberOf("a.b.cls", "0"), memberOf("a.c.cls", "1")},
			"1 picture (a.b.png) and 2 labels (a.b.cls, a.c.cls)",
		},
		"a label of another picture": {
			[]datatest.File{pic("a.png"), pic("a.b.png"), memberOf("a.b.cls", "1")},
			"2 pictures (a.b.png, a.png) and 1 label",
		},
		"a picture twice": {
			[]datatest.File{pic("x/a.png"), memberOf("x/a.cls", "0"), pic("x/a.png")},
			"x/a.png is there twice: pack",
		},
		"a label twice": {
			[]datatest.File{pic("a.png"), memberOf("a.cls", "0"), memberOf("a.cls", "0")},
			"a.cls is there twice: pack",
		},
		"a picture of a tree twice": {
			[]datatest.File{pic("x/a.png"), pic("y/a.png"), pic("x/a.png")},
			"a.png of class \"x\" is there twice: pack",
		},
		"no label": {
			[]datatest.File{pic("a.png"), pic("b.png"), memberOf("b.cls", "0")},
			"a.png has no label: want a member a.cls",
		},
		"no label in json": {
			[]datatest.File{pic("a.png"), memberOf("a.json", `{"label": null}`), pic("b.png"),
				memberOf("b.json", `{"label": 0}`)},
			"a.png has no label: want a member a.cls",
		},
		"no json": {
			[]datatest.File{pic("a.png"), memberOf("a.json", `{"label": 1`), pic("b.png"),
				memberOf("b.json", `{"label": 0}`)},
			"a.json: label that is no JSON object",
		},
		"bool": {
			[]datatest.File{pic("a.png"), memberOf("a.json", `{"label": true}`), pic("b.png"),
				memberOf("b.json", `{"label": 0}`)},
			"a.json: label true: want a number",
		},
		"float": {
			[]datatest.File{pic("a.png"), memberOf("a.json", `{"label": 1.5}`)},
			`a.json: label "1.5": want a number`,
		},
		"minus one": {
			[]datatest.File{pic("a.png"), memberOf("a.json", `{"label": -1}`)},
			"a.json: label -1: want a number from 0 to 1048576: -1 stands for no label",
		},
		"minus one in cls": {
			[]datatest.File{pic("a.png"), memberOf("a.cls", "-1\n")},
			"a.cls: label -1: want a number",
		},
		"nan": {
			[]datatest.File{pic("a.png"), memberOf("a.cls", "nan")},
			`a.cls: label "nan": want a number`,
		},
		"empty": {
			[]datatest.File{pic("a.png"), memberOf("a.cls", "\n")},
			`a.cls: label "": want a number`,
		},
		"names in cls": {
			[]datatest.File{pic("a.png"), memberOf("a.cls", "dog\n"), pic("b.png"), memberOf("b.cls", "\ufeffcat")},
			"cat dog | b.png:0 a.png:1",
		},
		"names in json": {
			[]datatest.File{pic("a.png"), memberOf("a.json", `{"label": "dog"}`), pic("b.png"),
				memberOf("b.json", `{"class_name": "red cat"}`)},
			"dog red cat | a.png:0 b.png:1",
		},
		"numbers as text": {
			[]datatest.File{pic("a.png"), memberOf("a.json", `{"label": "10"}`), pic("b.png"),
				memberOf("b.json", `{"label": "2"}`)},
			"0 1 2 3 4 5 6 7 8 9 10 | b.png:2 a.png:10",
		},
		"a name and a number": {
			[]datatest.File{pic("a.png"), memberOf("a.json", `{"label": "dog", "cls": 3}`)},
			"0 1 2 3 | a.png:3",
		},
		"names and numbers": {
			[]datatest.File{pic("a.png"), memberOf("a.cls", "dog"), pic("b.png"), memberOf("b.cls", "1")},
			"a.png has label dog, b.png has label 1: want numbers in all",
		},
		"labels that differ": {
			[]datatest.File{pic("a.png"), memberOf("a.cls", "1"), memberOf("a.json", `{"label": 0}`)},
			"0 1 | a.png:1 | 1 sample with different labels in .json and .cls: the one in .cls is used",
		},
		"label without picture": {
			[]datatest.File{pic("a.png"), memberOf("a.cls", "0"), memberOf("b.cls", "5"), memberOf("b.heic", "x"),
				memberOf("readme.txt", "")},
			"0 | a.png:0 | left out: 1 .cls, 1 .heic, 1 .txt",
		},
		"hidden": {
			[]datatest.File{pic("a.png"), memberOf("a.cls", "0"), pic("._a.png"), memberOf("._a.cls", "9"),
				pic("__MACOSX/b.png"), memberOf("PaxHeaders/a.png", "x")},
			"0 | a.png:0 | left out: 2 hidden, 1 in PaxHeaders, 1 in __MACOSX",
		},
		"json that is not for us": {
			[]datatest.File{pic("x/a.png"), memberOf("x/a.json", `{"label": [1, 2]}`), pic("y/b.png"),
				memberOf("meta.json", `{"label": 3}`)},
			"x y | a.png:0 b.png:1 | left out: 1 .json",
		},
		"tree with captions": {
			[]datatest.File{pic("x/a.png"), memberOf("x/a.txt", "a"), pic("y/b.png"), memberOf("y/b.txt", "b")},
			"x y | a.png:0 b.png:1",
		},
		"tree with others": {
			[]datatest.File{memberOf("d/", ""), memberOf("d/z/", ""), pic("d/x/a.png"), pic("d/y/b.png"),
				memberOf("d/.ipynb_checkpoints/", ""), pic("d/.ipynb_checkpoints/a.png"), memberOf("d/w/a.heic", "")},
			"x y | a.png:0 b.png:1 | folders without pictures are not classes: w, z | left out: 1 .heic, 1 in " +
				".ipynb_checkpoints",
		},
		"parts": {
			[]datatest.File{pic("d/train/x/a.png"), pic("d/test/x/b.png")},
			"it holds parts of a data set (test, train), not classes: name one of them, such as an archive of ./train",
		},
		"nothing but left out members": {
			[]datatest.File{memberOf("a.heic", ""), memberOf("b.heic", "")},
			"left out: 2 .heic",
		},
	} {
		dir := datatest.WriteFiles(t, map[string][]byte{"a.tar": datatest.Tar(t, c.files)})
		if got := summary(t, filepath.Join(dir, "a.tar"), Options{}); !fits(got, c.want) {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
	}
}

// Links and stored holes in an archive are refused, what is no file is left out.
func TestTarMembers(t *testing.T) {
	p := datatest.PNG(t, 2, 2)
	for name, c := range map[string]struct {
		header tar.Header
		want   string
	}{
		"symbolic link": {
			tar.Header{Name: "y/c.png", Linkname: "../x/a.png", Typeflag: tar.TypeSymlink},
			"y/c.png is a link to ../x/a.png: pack the archive with --dereference",
		},
		"hard link": {
			tar.Header{Name: "y/c.png", Linkname: "x/a.png", Typeflag: tar.TypeLink},
			"pack the archive with --hard-dereference",
		},
		"link to a folder": {
			tar.Header{Name: "z", Linkname: "x", Typeflag: tar.TypeSymlink},
			"x y | a.png:0 b.png:1 | left out: 1 link",
		},
		"pipe": {
			tar.Header{Name: "y/c.png", Typeflag: tar.TypeFifo},
			"x y | a.png:0 b.png:1 | left out: 1 pipe or device",
		},
		"hidden symbolic link": {
			tar.Header{Name: "y/._c.png", Linkname: "x", Typeflag: tar.TypeSymlink},
			"x y | a.png:0 b.png:1 | left out: 1 link",
		},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, name := range []string{"x/a.png", "y/b.png"} {
			if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(p)), Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.WriteHeader(&c.header); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		dir := datatest.WriteFiles(t, map[string][]byte{"a.tar": b.Bytes()})
		if got := summary(t, filepath.Join(dir, "a.tar"), Options{}); !fits(got, c.want) {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
	}
}

// Empty archives and tables among others are left out and named; where all are empty that is an error.
func TestEmptyParts(t *testing.T) {
	p := datatest.PNG(t, 2, 2)
	some := func(key string) []byte {
		return datatest.Tar(t, []datatest.File{{key + ".png", p}, {key + ".cls", []byte("0")}})
	}
	row := datatest.TableRow{Label: 1}
	row.Image.Bytes = p
	table, none := datatest.Table(t, []datatest.TableRow{row}), datatest.Table(t, nil)
	const left = " | empty archives and tables are left out: "
	for name, c := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"shards": {map[string][]byte{"x-0.tar": some("a"), "x-1.tar": make([]byte, 1024),
			"x-2.tar": make([]byte, 10240), "x-3.tar": nil, "x-4.tar": some("b")}, "0 | a.png:0 b.png:0" + left +
			"x-1.tar, x-2.tar, x-3.tar"},
		"same keys": {map[string][]byte{"x-0.tar": some("a"), "x-1.tar": some("a")}, "0 | a.png:0 a.png:0"},
		"compressed": {map[string][]byte{"x-0.tar.gz": datatest.Gzip(t, some("a")),
			"x-1.tar.gz": datatest.Gzip(t, make([]byte, 10240))}, "0 | a.png:0" + left + "x-1.tar.gz"},
		"tables": {map[string][]byte{"x-0.parquet": none, "x-1.parquet": table, "x-2.parquet": nil},
			"0 1 | 00000000.png:1" + left + "x-0.parquet, x-2.parquet"},
		"all":       {map[string][]byte{"x-0.tar": nil, "x-1.tar": make([]byte, 1024)}, "no pictures: "},
		"one":       {map[string][]byte{"x-0.tar": make([]byte, 10240)}, "empty: x-0.tar"},
		"one table": {map[string][]byte{"x-0.parquet": none}, "empty: x-0.parquet"},
		"zeros": {
			map[string][]byte{"x-0.tar": some("a"), "x-1.tar": make([]byte, 1<<20)},
			"x-1.tar: not a tar archive",
		},
		"of a class": {
			map[string][]byte{"cat.tar": datatest.Tar(t, []datatest.File{{"a.png", p}}), "dog.tar": make([]byte, 1024)},
			"dog.tar, an archive of a class, holds no pictures",
		},
		"nothing to take": {
			map[string][]byte{"x-0.tar": some("a"), "x-1.tar": datatest.Tar(t, []datatest.File{{"readme.txt", p}})},
			"0 | a.png:0 | left out: 1 .txt",
		},
	} {
		dir := datatest.WriteFiles(t, c.files)
		if got := summary(t, dir, Options{}); !fits(got, c.want) {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
		if len(c.files) == 1 {
			for file := range c.files {
				if got := summary(t, filepath.Join(dir, file), Options{}); !strings.Contains(got, c.want) {
					t.Errorf("%s, the file: %s\nwant %s", name, got, c.want)
				}
			}
		}
	}
}

// textRow is a picture with a label of another type.
type textRow[T any] struct {
	Image []byte `parquet:"image,optional"`
	Label T      `parquet:"label"`
}

func tableWith[T any](t *testing.T, names []string, labels ...T) []byte {
	t.Helper()
	var rows []textRow[T]
	for i, l := range labels {
		rows = append(rows, textRow[T]{datatest.PNG(t, 2+i, 2), l})
	}
	var options []parquet.WriterOption
	if names != nil {
		list, err := json.Marshal(names)
		if err != nil {
			t.Fatal(err)
		}
		options = append(options,
			parquet.KeyValueMetadata("huggingface",
				fmt.Sprintf(`{"info": {"features": {"label": {"names": %s}}}}`, list)))
	}
	var b bytes.Buffer
	w := parquet.NewGenericWriter[textRow[T]](&b, options...)
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tableOfLists is a table with several pictures in a row.
func tableOfLists(t *testing.T) []byte {
	type row struct {
		Image [][]byte `parquet:"image,list"`
		Label int64    `parquet:"label"`
	}
	var b bytes.Buffer
	if err := parquet.Write(&b, []row{{[][]byte{datatest.PNG(t, 2, 2), datatest.PNG(t, 2, 2)}, 0}}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A label of a table is a number that the metadata have a name for, or text; all else is an error with its place.
func TestParquetLabels(t *testing.T) {
	one := int64(1)
	for name, c := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"names": {
			map[string][]byte{"a.parquet": tableWith(t, []string{"ant", "bee", "cat"}, int32(1), 0)},
			"ant bee cat | 00000001.png:0 00000000.png:1",
		},
		"beyond the names": {
			map[string][]byte{"a.parquet": tableWith(t, []string{"a", "b"}, int64(1), 1, 5, 1)},
			"row 2: label 5: the file names 2 classes, 0 to 1 (a, b)",
		},
		"other names": {
			map[string][]byte{"a.parquet": tableWith(t, []string{"a", "b"}, one),
				"b.parquet": tableWith(t, []string{"b", "a"}, one)},
			"b.parquet: it names 2 classes (b, a), and ",
		},
		"names in one": {
			map[string][]byte{"a.parquet": tableWith(t, nil, one), "b.parquet": tableWith(t, []string{"b", "a"}, one)},
			"b a | 00000000.png:1 00000000.png:1",
		},
		"beyond, in two": {
			map[string][]byte{"a.parquet": tableWith(t, nil, one, 7),
				"b.parquet": tableWith(t, []string{"b", "a"}, one)},
			"there are labels up to 7, but names of 2 classes (b, a)",
		},
		"an empty name": {
			map[string][]byte{"a.parquet": tableWith(t, []string{"a", ""}, one)},
			"the name of class 1 in the metadata is empty",
		},
		"names and numbers": {
			map[string][]byte{"a.parquet": tableWith(t, nil, one), "b.parquet": tableWith(t, nil, "x")},
			"has label 1, 00000000.png has label x",
		},
		"list of pictures": {
			map[string][]byte{"a.parquet": tableOfLists(t)},
			"columns image.list.element, label: want image {bytes, path}, and label for classes: column image holds " +
				"a list in a row",
		},
		"damaged names": {
			map[string][]byte{"a.parquet": datatest.Table(t, nil, parquet.KeyValueMetadata("huggingface", "{"))},
			"the metadata that name the classes (huggingface) cannot be read",
		},
		"archive beside": {map[string][]byte{"a.parquet": tableWith(t, []string{"a", "b"}, one),
			"b.tar": datatest.Tar(t, []datatest.File{{"x.png", datatest.PNG(t, 2, 2)}, {"x.cls", []byte("0")}})},
			"0 1 | x.png:0 00000000.png:1 | the class names in DIR/a.parquet are not used: there are archives " +
				"beside the tables"},
		"text": {
			map[string][]byte{"a.parquet": tableWith(t, nil, "dog", "red cat"), "b.parquet": tableWith(t, nil, "ant")},
			"ant dog red cat | 00000000.png:0 00000000.png:1 00000001.png:2",
		},
		"numbers as text": {
			map[string][]byte{"a.parquet": tableWith(t, nil, "2", "0")},
			"0 1 2 | 00000001.png:0 00000000.png:2",
		},
		"null": {
			map[string][]byte{"a.parquet": tableWith(t, nil, &one, nil)},
			"row 1: label is null: want a label in each row",
		},
		"minus one": {
			map[string][]byte{"a.parquet": tableWith(t, nil, one, -1)},
			"row 1: label -1: want a number from 0 to 1048576: -1 stands for no label",
		},
		"float": {
			map[string][]byte{"a.parquet": tableWith(t, nil, 1.0)},
			"label is of type DOUBLE: want a whole number or text (pandas",
		},
		"bool": {
			map[string][]byte{"a.parquet": tableWith(t, nil, true)},
			"label is of type BOOLEAN: want a whole number or text",
		},
		"list": {
			map[string][]byte{"a.parquet": tableWith(t, nil, []int64{1})},
			"column label has a list in a row: want one value",
		},
	} {
		dir := datatest.WriteFiles(t, c.files)
		if got, want := summary(t, dir, Options{}), strings.ReplaceAll(c.want, "DIR", dir); !fits(got, want) {
			t.Errorf("%s: %s\nwant %s", name, got, want)
		}
	}
}

// A row without picture is a bad picture, the others are read.
func TestParquetRowsWithoutPicture(t *testing.T) {
	var rows []datatest.TableRow
	name := "shots/b.png"
	for i := range 4 {
		row := datatest.TableRow{Label: int64(i)}
		if i < 2 {
			row.Image.Bytes = datatest.PNG(t, 2, 2)
		} else if i == 3 {
			row.Image.Path = &name
		}
		rows = append(rows, row)
	}
	dir := datatest.WriteFiles(t, map[string][]byte{"a.parquet": datatest.Table(t, rows)})
	src, err := Open(t.Context(), dir, Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for i, want := range []string{"", "", "row 2 has no picture", "row 3 has no picture, only the path shots/b.png"} {
		_, err := src.Image(i)
		var bad *BadPicture
		if want == "" && err != nil || want != "" && (!errors.As(err, &bad) || bad.Err.Error() != want) {
			t.Errorf("row %d: %v, want %q", i, err, want)
		}
	}
}

// Files of labels are CSV, with tabs, or apart by blanks; lines and pictures have to fit each other.
func TestLabelLines(t *testing.T) {
	p := datatest.PNG(t, 2, 2)
	for name, c := range map[string]struct {
		text     string
		pictures string
		want     string
	}{
		"blanks in CSV": {
			"a.png,golden retriever\nshot 22.png,Boeing 747\n", "a.png|shot 22.png",
			"Boeing 747 golden retriever | shot 22.png:0 a.png:1",
		},
		"commas": {
			"file,label\na.png,\"tench, Tinca tinca\"\nb.png,\"a \"\"b\"\"\"\n", "a.png|b.png",
			`a "b" tench, Tinca tinca | b.png:0 a.png:1`,
		},
		"blanks": {
			"a.png golden retriever\nb.png  cat\n", "a.png|b.png",
			"cat golden retriever | b.png:0 a.png:1",
		},
		"tabs": {"a b.png\tred cat\nb.png\tdog\n", "a b.png|b.png", "dog red cat | b.png:0 a b.png:1"},
		"columns": {
			"a.png,cat,train\nb.png,dog,test\n", "a.png|b.png",
			`cat dog | a.png:0 b.png:1 | LABELS: what follows the class is ignored in 2 lines, as "train" in line 1`,
		},
		"class and label": {
			"file,label,class,prompt\na.png,3,valley,\nb.png,1,slope,x\n", "a.png|b.png",
			"slope valley | b.png:0 a.png:1",
		},
		"columns in any order": {
			"label,split,filename\ncat,train,a.png\ndog,test,b.png\n", "a.png|b.png",
			"cat dog | a.png:0 b.png:1",
		},
		"a short line": {
			"split,filename,label\ntrain,a.png,cat\ntrain,b.png\n", "a.png|b.png",
			`line 3: "train,b.png": want a file name and a class`,
		},
		"boxes": {
			"a.png,cat 1 2 3 4\nb.png,dog\n", "a.png|b.png",
			`cat dog | a.png:0 b.png:1 | LABELS: what follows the class is ignored in 1 line, as "1 2 3 4" in line 1`,
		},
		"quote": {"a.png,\"cat\nb.png,dog\n", "a.png|b.png", `line 1: parse error`},
		"no class": {
			"a.png,\nb.png,dog\n", "a.png|b.png",
			`line 1: "a.png,": want a file name and a class`,
		},
		"unused": {
			"a.png,cat\nb.png,dog\nc.png,cat\nx/d.png,cat\n", "a.png|b.png",
			"cat dog | a.png:0 b.png:1 | 2 lines of LABELS without a picture, such as c.png",
		},
		"two of one stem": {
			"1.png,cat\n2.png,dog\n", "a/1.png|b/1.png|2.png",
			"has one line, 1.png, for a/1.png and b/1.png: want lines with their folders",
		},
		"two extensions":  {"1,cat\n", "1.png|1.jpg", "has one line, 1, for 1.jpg and 1.png"},
		"with extensions": {"1.png,cat\n1.jpg,dog\n", "1.png|1.jpg", "cat dog | 1.png:0 1.jpg:1"},
		"with folders": {
			"a/1.png,cat\nb/1.png,dog\n./c/1,emu\n", "a/1.png|b/1.png|x/c/1.png",
			"cat dog emu | a/1.png:0 b/1.png:1 x/c/1.png:2",
		},
		"of several": {
			"a/1.png,cat\nb/1.png,dog\n", "c/1.png",
			"has lines of several classes for pictures called 1, but none for c/1.png",
		},
		"byte order mark":     {"\ufefffile,class\na.png,cat\n", "a.png", "cat | a.png:0"},
		"another line ending": {"a.png,cat\r\nb.png,dog\r\n", "a.png|b.png", "cat dog | a.png:0 b.png:1"},
	} {
		side := filepath.Join(t.TempDir(), "labels.csv")
		if err := os.WriteFile(side, []byte(c.text), 0o666); err != nil {
			t.Fatal(err)
		}
		files := map[string][]byte{}
		var members []datatest.File
		for name := range strings.SplitSeq(c.pictures, "|") {
			files[name] = p
			members = append(members, datatest.File{name, p})
		}
		want := strings.ReplaceAll(c.want, "LABELS", side)
		if got := summary(t, datatest.WriteFiles(t, files), Options{Labels: side}); !fits(got, want) {
			t.Errorf("%s: %s\nwant %s", name, got, want)
		}
		got := summary(t, filepath.Join(datatest.WriteFiles(t, map[string][]byte{"a.tar": datatest.Tar(t, members)}),
			"a.tar"), Options{Labels: side})
		if name == "with folders" { // of the names in an archive the folders do not count
			want = "cat dog emu | 1.png:0 1.png:1 1.png:2"
		}
		if !fits(got, want) {
			t.Errorf("%s, in an archive: %s\nwant %s", name, got, want)
		}
	}
}
