package catalog_test

import (
	"context"
	"fmt"
	"image"
	"log"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture/sheet"
)

// Pictures in a folder for each class.
func Example() {
	dir, err := drawings("cat/1.png", "cat/2.png", "dog/1.png")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	src, err := catalog.Open(context.Background(), dir, catalog.Options{}) // or an archive, a table, an s3:// address
	if err != nil {
		log.Fatal(err)
	}
	defer src.Close()
	for i := range src.Len() {
		img, err := src.Image(i)
		if err != nil {
			log.Fatal(err)
		}
		sample := src.Sample(i)
		fmt.Println(sample.Name, src.Classes()[sample.Label], img.Bounds().Max)
	}
	// Output:
	// 1.png cat (8,8)
	// 2.png cat (8,8)
	// 1.png dog (8,8)
}

// drawings makes a folder with a picture at each path.
func drawings(paths ...string) (dir string, err error) {
	if dir, err = os.MkdirTemp("", "pictures"); err != nil {
		return "", err
	}
	for _, name := range paths {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return "", err
		}
		if err := sheet.WritePNG(path, image.NewRGBA(image.Rect(0, 0, 8, 8))); err != nil {
			return "", err
		}
	}
	return dir, nil
}
