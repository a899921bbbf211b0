package picture

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// An Orientation says what becomes of pictures that a camera stored turned, with a note in their EXIF data of how to
// show them. TIFF files are not concerned: they are turned as they are opened, as Pillow does it.
type Orientation string

const (
	// AsStored leaves the pixels as they are in the file, as DiT's original does. It is the default.
	AsStored Orientation = "as-stored"
	// ByEXIF turns pictures upright, as Pillow's ImageOps.exif_transpose does.
	ByEXIF Orientation = "exif"
)

// Validate returns an error for what is neither; "" stands for AsStored.
func (o Orientation) Validate() error {
	if o != "" && o != AsStored && o != ByEXIF {
		return fmt.Errorf("orientation %q: want %s or %s", o, ByEXIF, AsStored)
	}
	return nil
}

// upright is the orientation of a picture that needs no turn.
const upright = 1

// exifOrientation returns the orientation, 1 to 8, that the EXIF data of a JPEG, PNG or WebP file give; upright where
// there are none, for other formats, and where they are damaged.
func exifOrientation(format string, b []byte) int {
	switch format {
	case "JPEG":
		return orientationIn(exifOfJPEG(b))
	case "PNG":
		return orientationIn(exifOfPNG(b))
	case "WebP":
		return orientationIn(exifOfWebP(b))
	}
	return upright
}

// exifMark begins EXIF data in a JPEG segment; in other formats it may be there too.
const exifMark = "Exif\x00\x00"

// exifOfJPEG joins the APP1 segments with EXIF data that come before the first scan.
func exifOfJPEG(b []byte) []byte {
	const scan, end, app1 = 0xda, 0xd9, 0xe1
	var exif []byte
	for at := 2; at+4 <= len(b); {
		marker := b[at+1]
		switch {
		case b[at] != 0xff, marker == 0, marker == 0xff: // garbage between segments, or fill bytes
			at++
			continue
		case marker == 0x01, marker >= 0xd0 && marker <= 0xd8: // without content
			at += 2
			continue
		case marker == scan, marker == end:
			return exif
		}
		length := int(binary.BigEndian.Uint16(b[at+2:])) // counts itself
		if length < 2 || at+2+length > len(b) {
			return exif
		}
		content := b[at+4 : at+2+length]
		if marker == app1 && bytes.HasPrefix(content, []byte(exifMark)) {
			exif = append(exif, content[len(exifMark):]...)
		}
		at += 2 + length
	}
	return exif
}

// exifOfPNG returns the content of the eXIf chunk, which may come after the pixels.
func exifOfPNG(b []byte) []byte {
	for at := int64(8); at+12 <= int64(len(b)); {
		length := int64(binary.BigEndian.Uint32(b[at:]))
		if at+12+length > int64(len(b)) {
			return nil
		}
		switch string(b[at+4 : at+8]) {
		case "eXIf":
			return b[at+8 : at+8+length]
		case "IEND":
			return nil
		}
		at += 12 + length
	}
	return nil
}

// exifOfWebP returns the content of the EXIF chunk, where the VP8X chunk, which is the first, announces one.
func exifOfWebP(b []byte) []byte {
	const header, announced = 12, 0x08
	if len(b) < header+9 || string(b[header:header+4]) != "VP8X" || b[header+8]&announced == 0 {
		return nil
	}
	for at := int64(header); at+8 <= int64(len(b)); {
		length := int64(binary.LittleEndian.Uint32(b[at+4:]))
		if at+8+length > int64(len(b)) {
			return nil
		}
		if string(b[at:at+4]) == "EXIF" {
			return b[at+8 : at+8+length]
		}
		at += 8 + length + length&1
	}
	return nil
}

// orientationIn reads the tag of EXIF data, which are a TIFF file without pixels: the first value of the
// last such entry in the first directory.
func orientationIn(exif []byte) int {
	const header, entry, tag = 8, 12, 274
	b := bytes.TrimPrefix(exif, []byte(exifMark))
	if len(b) < header {
		return upright
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch string(b[:4]) {
	case "II\x2a\x00", "II\x00\x2a":
	case "MM\x00\x2a", "MM\x2a\x00":
		order = binary.BigEndian
	default:
		return upright
	}
	at := int64(order.Uint32(b[4:]))
	if at+2 > int64(len(b)) {
		return upright
	}
	found := upright
	for i := range int64(order.Uint16(b[at:])) {
		e := at + 2 + entry*i
		if e+entry > int64(len(b)) {
			break
		}
		if order.Uint16(b[e:]) != tag {
			continue
		}
		const short, long, signedShort, signedLong = 3, 4, 8, 9
		size := int64(4)
		switch order.Uint16(b[e+2:]) {
		case short, signedShort:
			size = 2
		case long, signedLong:
		default:
			found = upright
			continue
		}
		value, count := e+8, int64(order.Uint32(b[e+4:]))
		if count*size > 4 { // they are elsewhere
			value = int64(order.Uint32(b[value:]))
		}
		switch {
		case count == 0, value+count*size > int64(len(b)):
		case size == 2:
			found = int(order.Uint16(b[value:]))
		default:
			found = int(min(order.Uint32(b[value:]), 1<<16))
		}
	}
	if found < upright || found > 8 {
		return upright
	}
	return found
}
