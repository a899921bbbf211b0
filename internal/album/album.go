// Package album writes a folder of photos as people have them: six class folders of names in several scripts, cameras'
// orientations, a photo that was cut short, and what phones, systems and programs leave beside photos. The photos are
// drawn, small, and the same every time; each class has its own shape on a sky above a ground, so that one sees whether
// a picture is upright.
//
//	about, err := album.Write("photos")
//	// about.Photos 60, about.Truncated photos/Hunde, Katzen/IMG_0007.JPG
package album

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"slices"
)

// Classes returns the names of the class folders, in the order in which ditrun numbers them. Those of two are
// spelled as macOS and as Linux do.
func Classes() []string {
	return []string{"Ho\u0308fe", "Hunde, Katzen", "M\u00e4use & V\u00f6gel", "my garden 2024", "\u00c4pfel",
		"\u732b"}
}

// About says what Write made.
type About struct {
	Photos    int      // all files called like pictures, the truncated one too
	Oriented  int      // those that are not stored upright, as their EXIF data say
	Truncated string   // the path of the one that is cut short
	Others    []string // the paths of all other files
}

// perClass is the number of photos in each class.
const perClass = 10

// Write makes the album in dir, which may be there, and says what is in it.
func Write(dir string) (About, error) {
	var about About
	write := func(content []byte, parts ...string) (path string, err error) {
		path = filepath.Join(append([]string{dir}, parts...)...)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return "", err
		}
		return path, os.WriteFile(path, content, 0o666)
	}
	for label, class := range Classes() {
		for i := range perClass {
			content, name, turn, err := photo(label, i)
			if err != nil {
				return about, err
			}
			cut := label == 1 && i == 7
			if cut {
				content = content[:len(content)*2/3]
			}
			path, err := write(content, class, name)
			if err != nil {
				return about, err
			}
			if about.Photos++; turn != 1 {
				about.Oriented++
			}
			if cut {
				about.Truncated = path
			}
		}
	}
	for _, o := range others() {
		path, err := write([]byte(o.content), o.parts...)
		if err != nil {
			return about, err
		}
		about.Others = append(about.Others, path)
	}
	return about, nil
}

type other struct {
	content string
	parts   []string
}

// others are the files that are no photos.
func others() []other {
	c := Classes()
	return []other{
		{"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", []string{c[0], "IMG_0900.HEIC"}},
		{"\x00\x00\x00\x14ftypqt  ", []string{c[0], "IMG_0901.MOV"}},
		{"<x:xmpmeta/>", []string{c[2], "IMG_0020.xmp"}},
		{"<plist/>", []string{c[2], "IMG_0021.AAE"}},
		{"\x00\x05\x16\x07", []string{c[3], "._IMG_0030.JPG"}},
		{"", []string{c[3], ".DS_Store"}},
		{"", []string{c[5], "@eaDir", "IMG_0050.JPG", "SYNOPHOTO_THUMB_M.jpg"}},
		{"{}", []string{".ipynb_checkpoints", "sort-checkpoint.ipynb"}},
		{"", []string{"Thumbs.db"}},
		{"", []string{"__MACOSX", c[0], "._IMG_0001.JPG"}},
	}
}

// photo draws photo i of a class and returns its file: JPEG as stored by a camera that was held in one of four ways, or
// PNG. turn is the EXIF orientation.
func photo(label, i int) (content []byte, name string, turn int, err error) {
	m := Draw(label, i)
	var b bytes.Buffer
	if i == 9 {
		err = png.Encode(&b, m)
		return b.Bytes(), fmt.Sprintf("Screenshot %d (\u00fcber).png", label), 1, err
	}
	turn = 1
	if i < 3 {
		turn = []int{6, 8, 3}[i]
		m = unturned(m, turn)
	}
	err = jpeg.Encode(&b, m, &jpeg.Options{Quality: 92})
	content = b.Bytes()
	if turn != 1 { // an APP1 segment whose one tag is the orientation
		exif := "\xff\xe1\x00\x22Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01" +
			"\x01\x12\x00\x03\x00\x00\x00\x01\x00" + string(rune(turn)) + "\x00\x00\x00\x00\x00\x00"
		content = slices.Concat(content[:2], []byte(exif), content[2:])
	}
	return content, fmt.Sprintf("IMG_%04d.JPG", 10*label+i), turn, err
}

// unturned is what a camera stores of a picture that is shown as m when it is turned by the EXIF orientation.
func unturned(m *image.NRGBA, turn int) *image.NRGBA {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	size := image.Rect(0, 0, h, w)
	if turn == 3 {
		size = image.Rect(0, 0, w, h)
	}
	stored := image.NewNRGBA(size)
	for y := range h {
		for x := range w {
			switch c := m.NRGBAAt(x, y); turn {
			case 3: // half a turn
				stored.SetNRGBA(w-1-x, h-1-y, c)
			case 6: // to be turned a quarter to the right
				stored.SetNRGBA(y, w-1-x, c)
			case 8: // and to the left
				stored.SetNRGBA(h-1-y, x, c)
			}
		}
	}
	return stored
}

// Draw returns the upright picture i of class 0 to 5: its shape before a sky and a ground, of sides of 64 to 96 pixels.
func Draw(label, i int) *image.NRGBA {
	w, h := 64+(i*7+label*5)%33, 64+(i*11+label*3)%33
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	colours := []color.NRGBA{{200, 60, 50, 255}, {230, 180, 60, 255}, {90, 70, 150, 255}, {240, 120, 170, 255},
		{180, 30, 60, 255}, {250, 250, 245, 255}}
	shape := colours[label]
	cx, cy := 0.5+0.12*float64(i%3-1), 0.5+0.06*float64(i%4-1)
	r := 0.2 + 0.02*float64(i%5)
	light := 0.8 + 0.05*float64(i%5)
	for y := range h {
		for x := range w {
			u, v := (float64(x)+0.5)/float64(w), (float64(y)+0.5)/float64(h)
			c := color.NRGBA{uint8(light * (90 + 110*v)), uint8(light * (140 + 80*v)), uint8(light * 240), 255}
			if v > 0.7 { // ground
				c = color.NRGBA{uint8(light * 90), uint8(light * (190 - 100*v)), uint8(light * 50), 255}
			}
			if inShape(label, (u-cx)/r, (v-cy)/r) {
				shade := light * (1 - 0.3*(v-cy+r)/(2*r))
				c = color.NRGBA{uint8(shade * float64(shape.R)), uint8(shade * float64(shape.G)),
					uint8(shade * float64(shape.B)), 255}
			}
			m.SetNRGBA(x, y, c)
		}
	}
	return m
}

// inShape says whether a point lies in the shape of a class, which fills -1 to 1.
func inShape(label int, x, y float64) bool {
	square := max(x, -x) < 1 && max(y, -y) < 1
	d := x*x + y*y
	switch label {
	case 0:
		return square // a house
	case 1:
		return d < 1 // a face
	case 2:
		return y > -1 && y < 1 && max(x, -x) < (y+1)/2 // a mountain
	case 3:
		return d < 1 && d > 0.35 // a wreath
	case 4:
		return max(x, -x)+max(y, -y) < 1 // a kite
	}
	return square && (max(x, -x) < 0.35 || max(y, -y) < 0.35) // a cross
}
