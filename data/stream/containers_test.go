package stream

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/store/storetest"
)

// below returns files with a folder before their names.
func below(folder string, files map[string][]byte) map[string][]byte {
	m := map[string][]byte{}
	for name, b := range files {
		m[folder+"/"+name] = b
	}
	return m
}

// TestRangesOfContainers: the same data set in every container yields the same crops. That it has the same ids, names,
// pictures and hash is a test of catalog, TestContainersAgree, with the same containers.
func TestRangesOfContainers(t *testing.T) {
	synsets := []string{"n01440764", "n01443537", "n01484850"}
	var keys []string // in the order of the ids
	var labels []int
	var pictures [][]byte
	for label, n := range []int{4, 2, 3} {
		of := make([]string, n)
		for i := range of {
			of[i] = fmt.Sprintf("%s_%d", synsets[label], []int{10026, 7, 100, 9999}[i])
		}
		slices.SortFunc(of, func(a, b string) int { return strings.Compare(a+".JPEG", b+".JPEG") })
		for i, key := range of {
			keys, labels = append(keys, key), append(labels, label)
			pictures = append(pictures, datatest.PNG(t, 3+i, 2+label))
		}
	}

	tree, flatFiles := map[string][]byte{}, map[string][]byte{}
	inTree := []datatest.File{{"data/", nil}, {"data/train/", nil}}
	var wds, wdsJSON, flat []datatest.File
	classTars := map[string][]datatest.File{}
	var rows []datatest.TableRow
	lines := "ImageId,PredictionString\n"
	for _, i := range []int{5, 0, 8, 3, 1, 7, 2, 6, 4} {
		key, class, b := keys[i], synsets[labels[i]], pictures[i]
		file := key + ".JPEG"
		tree[class+"/"+file], flatFiles[file] = b, b
		inTree = append(inTree, datatest.File{"data/train/" + class + "/" + file, b})
		classTars[class] = append(classTars[class], datatest.File{file, b})
		wds = append(wds, datatest.File{"./" + key + ".cls", []byte(strconv.Itoa(labels[i]))},
			datatest.File{"./" + key + ".jpg", b}, datatest.File{"./" + key + ".mask.png", []byte("x")})
		wdsJSON = append(wdsJSON, datatest.File{"a/" + key + ".jpg", b},
			datatest.File{"a/" + key + ".json", fmt.Appendf(nil, `{"label": %d, "text": "x"}`, labels[i])})
		flat = append(flat, datatest.File{"val/" + file, b})
		lines += fmt.Sprintf("%s,%s 1 2 3 4\n", key, class)
		name := key + "_" + class + ".JPEG"
		row := datatest.TableRow{Label: int64(labels[i])}
		row.Image.Bytes, row.Image.Path = b, &name
		rows = append(rows, row)
	}
	var nested []datatest.File
	classDir := map[string][]byte{}
	for _, class := range []string{synsets[1], synsets[2], synsets[0]} {
		b := datatest.Tar(t, classTars[class])
		nested = append(nested, datatest.File{class + ".tar", b})
		classDir[class+".tar"] = b
	}
	train, val := datatest.Tar(t, nested), datatest.Tar(t, flat)
	half, rest := datatest.Tar(t, wds[:12]), datatest.Tar(t, wds[12:])
	side := filepath.Join(t.TempDir(), "labels.csv")
	if err := os.WriteFile(side, []byte(lines), 0o666); err != nil {
		t.Fatal(err)
	}

	server := &storetest.Server{}
	server.Serve(t)
	type named = map[string][]byte
	for _, c := range []struct {
		name   string
		files  named
		path   string
		labels string
	}{
		{"folder", tree, "", ""},
		{"archive of class archives", named{"ILSVRC2012_img_train.tar": train}, "ILSVRC2012_img_train.tar", ""},
		{"folder of class archives", classDir, "", ""},
		{"train beside val", named{"ILSVRC2012_img_train.tar": train, "ILSVRC2012_img_val.tar": val}, "", ""},
		{"archive of a tree", named{"a.tar": datatest.Tar(t, inTree)}, "a.tar", ""},
		{"webdataset", named{"x-000.tar": half, "x-001.tar": rest}, "", ""},
		{"pattern", named{"x-000.tar": half, "x-001.tar": rest, "other.txt": nil}, "x-*.tar", ""},
		{"webdataset with json", named{"x.tar": datatest.Tar(t, wdsJSON)}, "", ""},
		{"gzip", named{"x-000.tar.gz": datatest.Gzip(t, half), "x-001.tgz": datatest.Gzip(t, rest)}, "", ""},
		{"zstd", named{"x-000.tar.zst": datatest.Zstd(t, datatest.Tar(t, wds))}, "", ""},
		{"parquet", named{
			"data/train-00000-of-00002.parquet": datatest.Table(t, rows[:5]),
			"data/train-00001-of-00002.parquet": datatest.Table(t, rows[5:]),
			"data/test-00000-of-00001.parquet":  []byte("PAR1"),
		}, "", ""},
		{"flat archive", named{"val.tar": val}, "val.tar", side},
		{"flat folder", flatFiles, "", side},
		{"Kaggle", below("ILSVRC/Data/CLS-LOC/train", tree), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := catalog.Options{CacheDir: t.TempDir(), Labels: c.labels}
			server.Change(func() { server.Objects = below("some/where", c.files) })
			local := filepath.Join(datatest.WriteFiles(t, c.files), c.path)
			remote := "s3://bucket/" + path.Join("some/where", c.path)
			for round, location := range map[string]string{
				"first": local, "again, from the index": local, "from S3": remote, "again from S3": remote,
			} {
				src, err := catalog.Open(t.Context(), location, o)
				if err != nil {
					t.Fatal(err)
				}
				defer src.Close()
				if src.Len() != len(pictures) {
					t.Fatalf("%s: %d samples, want %d", round, src.Len(), len(pictures))
				}
				size := picture.Square(8)
				n := 3 * size.Pixels()
				seen := 0
				ranges := ImageRange(t.Context(), src, 0, src.Len(), ImageOptions{Size: size, Batch: 4, Workers: 2})
				for b, err := range ranges {
					if err != nil {
						t.Fatal(err)
					}
					for k, id := range b.IDs {
						img, err := picture.Decode(pictures[id])
						if err != nil {
							t.Fatal(err)
						}
						want, err := picture.CenterCrop(img, size)
						if err != nil || !bytes.Equal(b.Pix[k*n:(k+1)*n], want.Pix) ||
							b.Labels[k] != int64(labels[id]) {
							t.Errorf("%s: another crop of sample %d", round, id)
						}
						seen++
					}
				}
				if seen != len(pictures) {
					t.Errorf("%s: %d crops, want %d", round, seen, len(pictures))
				}
			}
		})
	}
}

// TestRangeOfRowsWithoutPicture: rows of a table that have no picture are listed as bad pictures, the others are read.
func TestRangeOfRowsWithoutPicture(t *testing.T) {
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
	src, err := catalog.Open(t.Context(), dir, catalog.Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var skipped []string
	o := ImageOptions{Size: picture.Square(2), Batch: 4, Workers: 1, KeepGoing: true}
	for b, err := range ImageRange(t.Context(), src, 0, src.Len(), o) {
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range b.Bad {
			skipped = append(skipped, bad.Err.Error())
		}
	}
	if len(skipped) != 2 || !slices.ContainsFunc(skipped, func(s string) bool {
		return strings.Contains(s, "row 3 has no picture")
	}) {
		t.Errorf("skipped: %q", skipped)
	}
}
