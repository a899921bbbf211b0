package stream

import (
	"bytes"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/store/storetest"
)

// TestRangesOfContainers: the same data set in every container yields the same crops. That it has the same ids, names,
// pictures and hash is a test of catalog, TestContainersAgree, with the same containers.
func TestRangesOfContainers(t *testing.T) {
	set := datatest.SmallSet(t)
	server := &storetest.Server{}
	server.Serve(t)
	for _, c := range datatest.Containers(t) {
		t.Run(c.Name, func(t *testing.T) {
			o := catalog.Options{CacheDir: t.TempDir(), Labels: c.Labels}
			server.Change(func() { server.Objects = datatest.Below("some/where", c.Files) })
			local := filepath.Join(datatest.WriteFiles(t, c.Files), c.Path)
			remote := "s3://bucket/" + path.Join("some/where", c.Path)
			for round, location := range map[string]string{
				"first": local, "again, from the index": local, "from S3": remote, "again from S3": remote,
			} {
				src, err := catalog.Open(t.Context(), location, o)
				if err != nil {
					t.Fatal(err)
				}
				defer src.Close()
				if src.Len() != len(set) {
					t.Fatalf("%s: %d samples, want %d", round, src.Len(), len(set))
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
						img, err := picture.Decode(set[id].Content)
						if err != nil {
							t.Fatal(err)
						}
						want, err := picture.CenterCrop(img, size)
						if err != nil || !bytes.Equal(b.Pix[k*n:(k+1)*n], want.Pix) ||
							b.Labels[k] != int64(set[id].Label) {
							t.Errorf("%s: another crop of sample %d", round, id)
						}
						seen++
					}
				}
				if seen != len(set) {
					t.Errorf("%s: %d crops, want %d", round, seen, len(set))
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
