// Command pictures writes the stand-ins for a reader's pictures: five class folders in DIR, with the names that the
// pages use.
//
//	pictures DIR
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/internal/album"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: pictures DIR")
	}
	for class, name := range []string{"bag", "cat", "dog", "red apple", "sneaker"} {
		dir := filepath.Join(os.Args[1], name)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			log.Fatal(err)
		}
		for i := range 8 {
			path := filepath.Join(dir, fmt.Sprintf("%s-%d.png", name, i))
			if err := sheet.WritePNG(path, album.Draw(class, i)); err != nil {
				log.Fatal(err)
			}
		}
	}
}
