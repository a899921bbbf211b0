// Album writes a folder of sixty photos as people have them, for the tutorial and for whoever wants to try ditrun
// without photos of their own:
//
//	go run ./bench/docs/album photos
package main

import (
	"fmt"
	"os"

	"github.com/ditrun/ditrun/internal/album"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: album DIR")
		os.Exit(2)
	}
	about, err := album.Write(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "album:", err)
		os.Exit(1)
	}
	fmt.Printf("%d photos in %d folders, %d of them turned by EXIF and one cut short, beside %d other files, in %s\n",
		about.Photos, len(album.Classes()), about.Oriented, len(about.Others), os.Args[1])
}
