package catalog

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/disk"
)

// member is a picture in a tar archive.
type member struct {
	entry
	labelled bool
	class    string // where the label is a name, of which no number is known yet
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
	others   []other         // members that are neither
	folders  map[string]bool // of which the archive says that they are there, or of members that are left out
	left     filename.LeftOut
	differ   int  // labels of which .cls and .json say different ones
	empty    bool // it has no members at all
}

// labelRecord is the PAX record with which archives of our own (see unpack) label their pictures.
const labelRecord = "DITRUN.label"

// maxLabelBytes bounds what is read of a member that may hold a label.
const maxLabelBytes = 1 << 20

// listTar lists the pictures of an uncompressed tar archive, which is size bytes from offset of r, by reading the
// headers alone. What labels them in WebDataset archives, the members .cls and .json, is for listing.resolve.
func listTar(ctx context.Context, r io.ReaderAt, offset, size int64, file int32) (*listing, error) {
	l := &listing{folders: map[string]bool{}, left: filename.LeftOut{}}
	section := io.NewSectionReader(r, offset, size)
	t := tar.NewReader(section)
	for n := 0; ; n++ {
		if n%1000 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				if l.empty = isEmptyTar(r, offset, size); !l.empty {
					return nil, errors.New("not a tar archive")
				}
				return l, nil
			}
			if !ended(section) {
				return nil, fmt.Errorf("truncated: %d bytes end without the mark at the end of a tar archive", size)
			}
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
		switch kind := filename.WhyLeftOut(name); h.Typeflag {
		case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
			if kind != "" && (filename.IsSystem(path.Base(name)) || strings.HasPrefix(kind, "in ")) {
				l.left.Count(kind)
				continue
			}
		case tar.TypeDir:
			l.folders[name] = true
			continue
		case tar.TypeLink, tar.TypeSymlink:
			if kind == "" {
				option := "--dereference"
				if h.Typeflag == tar.TypeLink {
					option = "--hard-dereference"
				}
				return nil, fmt.Errorf("%s is a link to %s: pack the archive with %s", name, h.Linkname, option)
			}
			l.left.Count("links")
			continue
		default:
			l.left.Count("pipes or devices")
			continue
		}
		if h.Size > size-at {
			return nil, fmt.Errorf("truncated: %s of %d bytes does not fit into the %d bytes of the archive", name,
				h.Size, size)
		}
		ext := strings.ToLower(path.Ext(name))
		switch {
		case filename.IsPicture(name):
			if _, ok := h.PAXRecords["GNU.sparse.major"]; ok || h.Typeflag == tar.TypeGNUSparse {
				return nil, fmt.Errorf("%s is stored with holes: pack the archive without --sparse", name)
			}
			m := member{entry: entry{name: name, file: file, offset: offset + at, length: h.Size}}
			if text, ok := h.PAXRecords[labelRecord]; ok {
				lab, err := parseLabel(text)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				m.label, m.class, m.labelled = lab.number, lab.class, true
			}
			l.pictures = append(l.pictures, m)
		case ext == ".tar":
			l.inner = append(l.inner, inner{name, offset + at, h.Size})
		case ext == ".cls" || ext == ".json":
			o := other{name: name, err: fmt.Errorf("%d bytes: want at most %d", h.Size, maxLabelBytes)}
			if h.Size <= maxLabelBytes {
				text := make([]byte, h.Size)
				if _, err := io.ReadFull(io.NewSectionReader(r, offset+at, h.Size), text); err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				text = bytes.TrimPrefix(text, []byte("\ufeff"))
				if o.err = nil; ext == ".cls" {
					o.label, o.err = parseLabel(string(text))
					o.found = o.err == nil
				} else {
					o.label, o.found, o.err = labelOfJSON(text)
				}
			} else if ext == ".json" {
				o.err = &otherLabel{fmt.Sprintf("in %d bytes", h.Size)}
			}
			l.others = append(l.others, o)
		default:
			l.others = append(l.others, other{name: name})
		}
	}
}

// isEmptyTar says whether what stands from offset of r is what tar writes where there is nothing to pack: zeros, at
// most two of its records, or no byte at all.
func isEmptyTar(r io.ReaderAt, offset, size int64) bool {
	const most = 2 * 10240
	if size > most {
		return false
	}
	b := make([]byte, size)
	n, _ := r.ReadAt(b, offset)
	return n == len(b) && len(bytes.Trim(b, "\x00")) == 0
}

// isEmptyObject says whether object i of a set holds what is written where there is nothing to pack.
func isEmptyObject(set *store.Set, i int) (bool, error) {
	f, err := set.File(i)
	if err != nil {
		return false, disk.OpenError(set.Path(set.Objects[i].Name), err)
	}
	defer f.Close()
	return isEmptyTar(f, 0, set.Objects[i].Size), nil
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
