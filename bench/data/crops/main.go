// Command crops prints the SHA-256 of the centre crop of each picture, or why it was refused. parity.py compares the
// output with the original's pixels.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"

	"github.com/ditrun/ditrun/data/picture"
)

func main() {
	size, err := picture.ParseSize(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "usage: crops SIZE PICTURE...")
		os.Exit(2)
	}
	for _, name := range os.Args[2:] {
		sum, err := cropSum(name, size)
		if err != nil {
			sum = "refused: " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Println(sum)
	}
}

func cropSum(name string, size picture.Size) (string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	img, err := picture.Decode(b)
	if err != nil {
		return "", err
	}
	crop, err := picture.CenterCrop(img, size)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sha256.Sum256(crop.Pix)), nil
}
