package datatest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Synsets are the first classes of ImageNet.
func Synsets() []string { return []string{"n01440764", "n01443537", "n01484850"} }

// A Sample is one of [SmallSet]: a picture in a file.
type Sample struct {
	Key     string // its name without extension
	Label   int    // index into Synsets
	Content []byte
}

// SmallSet is a data set in the order of its ids: nine pictures of three classes.
func SmallSet(t testing.TB) []Sample {
	t.Helper()
	var set []Sample
	for label, n := range []int{4, 2, 3} {
		keys := make([]string, n)
		for i := range keys {
			keys[i] = fmt.Sprintf("%s_%d", Synsets()[label], []int{10026, 7, 100, 9999}[i])
		}
		slices.SortFunc(keys, func(a, b string) int { return strings.Compare(a+".JPEG", b+".JPEG") })
		for i, key := range keys {
			set = append(set, Sample{key, label, PNG(t, 3+i, 2+label)})
		}
	}
	return set
}

// A Container holds [SmallSet].
type Container struct {
	Name   string
	Files  map[string][]byte
	Path   string // what to open of them, "" for the folder
	Labels string // a file of labels that is needed, else ""
}

// Containers are all that can hold [SmallSet], with its samples in another order than that of their ids.
func Containers(t testing.TB) []Container {
	t.Helper()
	set := SmallSet(t)
	type files = map[string][]byte
	tree, flatFiles := files{}, files{}
	inTree := []File{{"data/", nil}, {"data/train/", nil}}
	var wds, wdsJSON, flat []File
	classTars := map[string][]File{}
	var rows []TableRow
	lines := "ImageId,PredictionString\n"
	for _, i := range []int{5, 0, 8, 3, 1, 7, 2, 6, 4} {
		key, class, b := set[i].Key, Synsets()[set[i].Label], set[i].Content
		file := key + ".JPEG"
		tree[class+"/"+file], flatFiles[file] = b, b
		inTree = append(inTree, File{"data/train/" + class + "/" + file, b})
		classTars[class] = append(classTars[class], File{file, b})
		wds = append(wds, File{"./" + key + ".cls", []byte(strconv.Itoa(set[i].Label))}, File{"./" + key + ".jpg", b},
			File{"./" + key + ".mask.png", []byte("x")})
		wdsJSON = append(wdsJSON, File{"a/" + key + ".jpg", b},
			File{"a/" + key + ".json", fmt.Appendf(nil, `{"label": %d, "text": "x"}`, set[i].Label)})
		flat = append(flat, File{"val/" + file, b})
		lines += fmt.Sprintf("%s,%s 1 2 3 4\n", key, class)
		name := key + "_" + class + ".JPEG"
		row := TableRow{Label: int64(set[i].Label)}
		row.Image.Bytes, row.Image.Path = b, &name
		rows = append(rows, row)
	}
	var nested []File
	classDir := files{}
	for _, i := range []int{1, 2, 0} {
		name := Synsets()[i] + ".tar"
		b := Tar(t, classTars[Synsets()[i]])
		nested = append(nested, File{name, b})
		classDir[name] = b
	}
	train, val := Tar(t, nested), Tar(t, flat)
	first, second := Tar(t, wds[:12]), Tar(t, wds[12:])
	labels := filepath.Join(t.TempDir(), "labels.csv")
	if err := os.WriteFile(labels, []byte(lines), 0o666); err != nil {
		t.Fatal(err)
	}
	return []Container{
		{"folder", tree, "", ""},
		{"archive of class archives", files{"ILSVRC2012_img_train.tar": train}, "ILSVRC2012_img_train.tar", ""},
		{"folder of class archives", classDir, "", ""},
		{"train beside val", files{"ILSVRC2012_img_train.tar": train, "ILSVRC2012_img_val.tar": val}, "", ""},
		{"archive of a tree", files{"a.tar": Tar(t, inTree)}, "a.tar", ""},
		{"webdataset", files{"x-000.tar": first, "x-001.tar": second}, "", ""},
		{"pattern", files{"x-000.tar": first, "x-001.tar": second, "other.txt": nil}, "x-*.tar", ""},
		{"webdataset with json", files{"x.tar": Tar(t, wdsJSON)}, "", ""},
		{"gzip", files{"x-000.tar.gz": Gzip(t, first), "x-001.tgz": Gzip(t, second)}, "", ""},
		{"zstd", files{"x-000.tar.zst": Zstd(t, Tar(t, wds))}, "", ""},
		{"parquet", files{
			"data/train-00000-of-00002.parquet": Table(t, rows[:5]),
			"data/train-00001-of-00002.parquet": Table(t, rows[5:]),
			"data/test-00000-of-00001.parquet":  []byte("PAR1"),
		}, "", ""},
		{"flat archive", files{"val.tar": val}, "val.tar", labels},
		{"flat folder", flatFiles, "", labels},
		{"Kaggle", Below("ILSVRC/Data/CLS-LOC/train", tree), "", ""},
	}
}

// Below returns files with a folder before their names.
func Below(folder string, files map[string][]byte) map[string][]byte {
	below := map[string][]byte{}
	for name, b := range files {
		below[folder+"/"+name] = b
	}
	return below
}
