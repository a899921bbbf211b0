package archive

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
	"github.com/ditrun/ditrun/data/labels"
)

// A Listing is what a tar archive holds. Names are paths within it.
type Listing struct {
	Pictures  []Picture
	Archives  []File          // tar archives within the archive
	Folders   map[string]bool // that the archive lists, or that hold members which are left out
	LeftOut   filename.LeftOut
	Conflicts int  // samples of which .cls and .json say different labels
	Empty     bool // it has no members at all

	others []other
}

// A Picture is a member that is called like one.
type Picture struct {
	File
	Labelled bool
	Label    labels.Label
}

// A File is a stretch of an archive.
type File struct {
	Name         string
	Offset, Size int64
}

// other is a member that is neither a picture nor an archive.
type other struct {
	name  string
	label labels.Label
	found bool  // it has a label
	err   error // why it has none that can be used

	differs bool // a member .json beside it says another
}

// labelRecord is the PAX record that labels a picture in the archives of [Write].
const labelRecord = "DITRUN.label"

// maxLabelBytes bounds what is read of a member that may hold a label.
const maxLabelBytes = 1 << 20

// List lists the pictures of an uncompressed tar archive, which is size bytes from offset of r, by reading its headers
// alone. The labels of WebDataset archives, which are members .cls and .json, are for [Listing.MatchMembers].
func List(ctx context.Context, r io.ReaderAt, offset, size int64) (*Listing, error) {
	l := &lister{Listing{Folders: map[string]bool{}, LeftOut: filename.LeftOut{}}, r, offset, size}
	section := io.NewSectionReader(r, offset, size)
	t := tar.NewReader(section)
	for n := 0; ; n++ {
		if n%1000 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return &l.Listing, l.end(section, n)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("truncated: %d bytes end within a member", size)
		}
		if err != nil {
			return nil, err
		}
		at, err := section.Seek(0, io.SeekCurrent) // archive/tar reads headers and no further
		if err != nil {
			return nil, err
		}
		if err := l.add(h, at); err != nil {
			return nil, err
		}
	}
}

// lister fills a listing.
type lister struct {
	Listing
	r            io.ReaderAt
	offset, size int64
}

// end checks that an archive of n members is whole.
func (l *lister) end(section *io.SectionReader, n int) error {
	switch {
	case n == 0:
		if l.Empty = IsEmpty(l.r, l.offset, l.size); !l.Empty {
			return errors.New("not a tar archive")
		}
	case !ended(section):
		return fmt.Errorf("truncated: %d bytes end without the mark at the end of a tar archive", l.size)
	}
	return nil
}

// add takes a member whose content is at a place of the archive.
func (l *lister) add(h *tar.Header, at int64) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if filename.BelongsToSystem(name) {
			l.LeftOut.Count(filename.WhyLeftOut(name))
			return nil
		}
		return l.addFile(h, File{name, l.offset + at, h.Size}, l.size-at)
	case tar.TypeDir:
		l.Folders[name] = true
	case tar.TypeLink, tar.TypeSymlink:
		if filename.WhyLeftOut(name) != "" {
			l.LeftOut.Count(filename.Link)
			return nil
		}
		option := "--dereference"
		if h.Typeflag == tar.TypeLink {
			option = "--hard-dereference"
		}
		return fmt.Errorf("%s is a link to %s: pack the archive with %s", name, h.Linkname, option)
	default:
		l.LeftOut.Count(filename.Device)
	}
	return nil
}

// addFile takes a file, for which the archive has so much room.
func (l *lister) addFile(h *tar.Header, f File, room int64) error {
	if f.Size > room {
		return fmt.Errorf("truncated: %s of %d bytes does not fit into the %d bytes of the archive", f.Name, f.Size,
			l.size)
	}
	switch ext := strings.ToLower(path.Ext(f.Name)); {
	case filename.IsPicture(f.Name):
		return l.addPicture(h, f)
	case ext == ".tar":
		l.Archives = append(l.Archives, f)
	case ext == ".cls" || ext == ".json":
		return l.addLabel(f, ext)
	default:
		l.others = append(l.others, other{name: f.Name})
	}
	return nil
}

func (l *lister) addPicture(h *tar.Header, f File) (err error) {
	if _, ok := h.PAXRecords["GNU.sparse.major"]; ok || h.Typeflag == tar.TypeGNUSparse {
		return fmt.Errorf("%s is stored with holes: pack the archive without --sparse", f.Name)
	}
	p := Picture{File: f}
	if text, ok := h.PAXRecords[labelRecord]; ok {
		if p.Label, err = labels.Parse(text); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		p.Labelled = true
	}
	l.Pictures = append(l.Pictures, p)
	return nil
}

// addLabel reads a member .cls or .json, which may hold a label.
func (l *lister) addLabel(f File, ext string) error {
	o := other{name: f.Name}
	switch {
	case f.Size <= maxLabelBytes:
		text := make([]byte, f.Size)
		if _, err := io.ReadFull(io.NewSectionReader(l.r, f.Offset, f.Size), text); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		text = bytes.TrimPrefix(text, []byte("\ufeff"))
		if ext == ".cls" {
			o.label, o.err = labels.Parse(string(text))
			o.found = o.err == nil
		} else {
			o.label, o.found, o.err = labels.FromJSON(text)
		}
	case ext == ".cls":
		o.err = fmt.Errorf("%d bytes: want at most %d", f.Size, maxLabelBytes)
	default:
		o.err = &labels.NoLabelError{Text: fmt.Sprintf("in %d bytes", f.Size)}
	}
	l.others = append(l.others, o)
	return nil
}

// Write adds a picture to an archive, for [List] to find, with its label if that is not nil.
func Write(t *tar.Writer, name string, l *labels.Label, picture []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(picture)), Mode: 0o644, Format: tar.FormatPAX}
	if l != nil {
		h.PAXRecords = map[string]string{labelRecord: l.String()}
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err := t.Write(picture)
	return err
}

// IsTar says whether a file begins as a tar archive does.
func IsTar(head []byte) bool {
	return len(head) >= 512 && (string(head[257:262]) == "ustar" || oldTar(head))
}

// oldTar knows headers from before ustar by their checksum.
func oldTar(head []byte) bool {
	if head[0] == 0 {
		return false
	}
	sum := int64(0)
	for i, b := range head[:512] {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int64(b)
	}
	want := int64(0)
	for _, c := range strings.Trim(string(head[148:156]), " \x00") {
		if c < '0' || c > '7' {
			return false
		}
		want = want*8 + int64(c-'0')
	}
	return want == sum
}

// IsEmpty says whether what stands from offset of r is what tar writes where there is nothing to pack: zeros, at most
// two of its records, or no byte at all.
func IsEmpty(r io.ReaderAt, offset, size int64) bool {
	const most = 2 * 10240
	if size > most {
		return false
	}
	b := make([]byte, size)
	n, _ := r.ReadAt(b, offset)
	return n == len(b) && len(bytes.Trim(b, "\x00")) == 0
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
