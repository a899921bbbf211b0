package data

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

// member is a picture in a tar archive.
type member struct {
	entry
	labelled bool
}

// inner is an archive within an archive.
type inner struct {
	name         string
	offset, size int64
}

// listing is what a tar archive holds.
type listing struct {
	pictures []member // names are whole paths
	inner    []inner
}

// labelRecord is the PAX record with which archives of our own (see unpack) label their pictures.
const labelRecord = "DITRUN.label"

// maxLabelBytes bounds what is read of a member that may hold a label.
const maxLabelBytes = 1 << 20

// listTar lists the pictures of an uncompressed tar archive, which is size bytes from offset of r, by reading the
// headers alone. In WebDataset archives, where the members of a sample follow each other and share the name up to the
// first dot, a member .cls or .json labels the picture.
func listTar(ctx context.Context, r io.ReaderAt, offset, size int64, file int32) (*listing, error) {
	l := &listing{}
	section := io.NewSectionReader(r, offset, size)
	t := tar.NewReader(section)
	var g group
	for n := 0; ; n++ {
		if n%1000 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return nil, errors.New("an empty tar archive")
			}
			if !ended(section) {
				return nil, fmt.Errorf("truncated: %d bytes end without the mark at the end of a tar archive", size)
			}
			g.close(l)
			return l, nil
		}
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("truncated: %d bytes end within a member", size)
			}
			return nil, err
		}
		at, err := section.Seek(0, io.SeekCurrent) // archive/tar reads headers and no further
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if h.Typeflag == tar.TypeLink && isPicture(name) {
			return nil, fmt.Errorf("%s is a link to %s: pack the archive with --hard-dereference", name, h.Linkname)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > size-at {
			return nil, fmt.Errorf("truncated: %s of %d bytes does not fit into the %d bytes of the archive", name, h.Size, size)
		}
		ext := strings.ToLower(path.Ext(name))
		if key := sampleKey(name); key != g.key {
			g.close(l)
			g = group{key: key, first: len(l.pictures)}
		}
		switch {
		case isPicture(name):
			if _, ok := h.PAXRecords["GNU.sparse.major"]; ok {
				return nil, fmt.Errorf("%s is stored with holes: pack the archive without --sparse", name)
			}
			m := member{entry: entry{name: name, file: file, offset: offset + at, length: h.Size}}
			if label, ok := h.PAXRecords[labelRecord]; ok {
				if m.label, err = parseLabel(label); err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				m.labelled = true
			}
			l.pictures = append(l.pictures, m)
		case ext == ".tar":
			l.inner = append(l.inner, inner{name, offset + at, h.Size})
		case ext == ".cls" || ext == ".json" && !g.labelled:
			if h.Size > maxLabelBytes {
				continue
			}
			text := make([]byte, h.Size)
			if _, err := io.ReadFull(io.NewSectionReader(r, offset+at, h.Size), text); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if err := g.read(ext, text); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
}

// ended says whether the last block read was the zeros that end an archive. One that is cut short between two members
// would else be taken for a smaller one.
func ended(section *io.SectionReader) bool {
	const block = 512
	at, err := section.Seek(0, io.SeekCurrent)
	var b [block]byte
	if err != nil || at < block {
		return false
	}
	n, _ := section.ReadAt(b[:], at-block)
	return n == block && b == [block]byte{}
}

// sampleKey is the name up to the first dot of its base, which the members of a WebDataset sample share.
func sampleKey(name string) string {
	base := strings.LastIndexByte(name, '/') + 1
	if dot := strings.IndexByte(name[base:], '.'); dot >= 0 {
		return name[:base+dot]
	}
	return name
}

// group is the sample that is being read.
type group struct {
	key      string
	first    int // index of its first picture
	label    int32
	labelled bool
}

func (g *group) read(ext string, text []byte) (err error) {
	if ext == ".cls" {
		g.label, err = parseLabel(strings.TrimSpace(string(text)))
		g.labelled = err == nil
		return err
	}
	var fields map[string]any
	if json.Unmarshal(text, &fields) != nil {
		return nil // not for us
	}
	for _, key := range []string{"label", "cls", "class_id"} {
		if v, ok := fields[key].(float64); ok {
			g.label, err = parseLabel(strconv.FormatFloat(v, 'f', -1, 64))
			g.labelled = err == nil
			return err
		}
	}
	return nil
}

// close labels the picture of the sample. Where it has several, such as image.jpg and image.mask.png, the first one
// whose extension is the whole rest of its name is taken.
func (g *group) close(l *listing) {
	if !g.labelled || g.first == len(l.pictures) {
		return
	}
	pick := l.pictures[g.first]
	for _, m := range l.pictures[g.first:] {
		if isPicture(m.name) && sampleKey(m.name)+path.Ext(m.name) == m.name {
			pick = m
			break
		}
	}
	pick.label, pick.labelled = g.label, true
	l.pictures = append(l.pictures[:g.first], pick)
}

// maxLabel bounds the number of classes that a file may ask for.
const maxLabel = 1 << 20

func parseLabel(text string) (int32, error) {
	v, err := strconv.Atoi(text)
	if err != nil || v < 0 || v > maxLabel {
		return 0, fmt.Errorf("label %.40q: want a number from 0 to %d", text, maxLabel)
	}
	return int32(v), nil
}
