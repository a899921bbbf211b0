// Command emoji unpacks the pictures of npm's package emoji-datasource-google into class folders:
//
//	go run ./bench/demo/emoji -out FOLDER emoji-datasource-google-16.0.0.tgz
//
// A class is one or more of the package's subcategories. The pictures are transparent; they are drawn over white,
// because decoders that follow Pillow drop the transparency and show what colour lies below it.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// classes has the subcategories of each class: those whose pictures have their parts in the same places, as heads do,
// because a model learns these in minutes.
var classes = map[string][]string{
	"clock": {"time"},
	"face": {"face-smiling", "face-affection", "face-tongue", "face-hand", "face-neutral-skeptical", "face-sleepy",
		"face-unwell", "face-hat", "face-glasses", "face-concerned", "face-negative"},
	"flag":    {"country-flag", "subdivision-flag"},
	"gesture": {"person-gesture"},
	"head":    {"person"},
	"worker":  {"person-role"},
}

// leftOut are pictures of these subcategories that do not show what the class is called.
var leftOut = []string{"hourglass", "hourglass_flowing_sand", "skull", "skull_and_crossbones"}

// An emoji is an entry of emoji.json, or a variation of one with another colour of skin.
type emoji struct {
	ShortName   string `json:"short_name"`
	Subcategory string
	Image       string           // its file
	HasImage    bool             `json:"has_img_google"`
	Variations  map[string]emoji `json:"skin_variations"`
}

// pictures returns the files of e and of its variations.
func (e emoji) pictures() []string {
	var names []string
	if e.HasImage {
		names = append(names, e.Image)
	}
	for _, variation := range e.Variations {
		names = append(names, variation.pictures()...)
	}
	return names
}

// classesOf maps the file of each picture that is wanted to its class.
func classesOf(emojiJSON []byte) (map[string]string, error) {
	var all []emoji
	if err := json.Unmarshal(emojiJSON, &all); err != nil {
		return nil, fmt.Errorf("emoji.json: %w", err)
	}
	class := map[string]string{}
	for name, subcategories := range classes {
		for _, e := range all {
			if slices.Contains(subcategories, e.Subcategory) && !slices.Contains(leftOut, e.ShortName) {
				for _, picture := range e.pictures() {
					class[picture] = name
				}
			}
		}
	}
	return class, nil
}

// readPackage returns the package's emoji.json and its pictures of 64 pixels by file name.
func readPackage(file string) (emojiJSON []byte, pictures map[string][]byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	if err != nil {
		return nil, nil, err
	}
	pictures = map[string][]byte{}
	for members := tar.NewReader(unpacked); ; {
		member, err := members.Next()
		if errors.Is(err, io.EOF) {
			return emojiJSON, pictures, nil
		} else if err != nil {
			return nil, nil, err
		}
		folder, name := path.Split(member.Name)
		switch {
		case member.Name == "package/emoji.json":
			emojiJSON, err = io.ReadAll(members)
		case folder == "package/img/google/64/":
			pictures[name], err = io.ReadAll(members)
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

// overWhite returns a PNG file without transparency.
func overWhite(file []byte) ([]byte, error) {
	picture, err := png.Decode(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	flat := image.NewRGBA(picture.Bounds())
	draw.Draw(flat, flat.Bounds(), image.White, image.Point{}, draw.Src)
	draw.Draw(flat, flat.Bounds(), picture, picture.Bounds().Min, draw.Over)
	var b bytes.Buffer
	err = png.Encode(&b, flat)
	return b.Bytes(), err
}

// unpack writes the wanted pictures of the package into folders of their classes below out, and returns their number.
func unpack(file, out string) (int, error) {
	emojiJSON, pictures, err := readPackage(file)
	if err != nil {
		return 0, err
	}
	class, err := classesOf(emojiJSON)
	if err != nil {
		return 0, err
	}
	for name := range class {
		flat, err := overWhite(pictures[name])
		if err != nil {
			return 0, fmt.Errorf("img/google/64/%s: %w", name, err)
		}
		folder := filepath.Join(out, class[name])
		if err := os.MkdirAll(folder, 0o777); err != nil {
			return 0, err
		}
		if err := os.WriteFile(filepath.Join(folder, name), flat, 0o666); err != nil {
			return 0, err
		}
	}
	return len(class), nil
}

func main() {
	out := flag.String("out", "", "`folder` of the class folders")
	flag.Parse()
	if *out == "" || flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: emoji -out FOLDER PACKAGE.tgz")
		os.Exit(2)
	}
	n, err := unpack(flag.Arg(0), *out)
	if err != nil {
		fmt.Fprintf(os.Stderr, "emoji: error: %s: %v\n", flag.Arg(0), err)
		os.Exit(1)
	}
	fmt.Printf("%d pictures in %d classes\n", n, len(classes))
}
