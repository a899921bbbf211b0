// Command pictures writes the stand-ins for a reader's pictures: five class folders in DIR, with the names that the
// pages use.
//
//	pictures DIR
package main

import (
	"fmt"
	"image/png"
	"log"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/internal/album"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: pictures DIR")
	}
	for class, name := range []string{"bag", "cat", "dog", "red apple", "sneaker"} {
		for i := range 8 {
			if err := write(filepath.Join(os.Args[1], name, fmt.Sprintf("%s-%d.png", name, i)), class, i); err != nil {
				log.Fatal(err)
			}
		}
	}
}

// write draws picture i of a class into a file.
func write(path string, class, i int) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := png.Encode(f, album.Draw(class, i)); err != nil {
		return err
	}
	return f.Close()
}
