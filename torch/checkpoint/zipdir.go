package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// A record is a member of a zip archive, stored as it is.
type record struct {
	name         string
	offset, size int64 // of its data
	local        int64 // offset of its local header
}

const maxZipDirectory = 32 << 20

// readZip returns the members of the archive behind r by name. It is stricter than archive/zip: members
// are stored, not compressed or encrypted, do not overlap and have different names. Local headers may
// leave sizes out, so the central directory counts.
func readZip(r io.ReaderAt, size int64) (map[string]record, error) {
	entries, begin, length, err := endOfZip(r, size)
	if err != nil {
		return nil, err
	}
	if begin < 0 || length < 0 || begin > size-length || length > maxZipDirectory || entries < 0 ||
		entries > maxEntries || entries*46 > length {
		return nil, fmt.Errorf("zip directory of %d entries, %d bytes at %d in a file of %d", entries, length, begin,
			size)
	}
	dir := make([]byte, length)
	if err := readFull(r, dir, begin); err != nil {
		return nil, err
	}
	var list []record
	out := make(map[string]record, entries)
	for i := range entries {
		rec, rest, err := zipEntry(dir, begin)
		if err != nil {
			return nil, fmt.Errorf("zip entry %d: %w", i+1, err)
		}
		dir = rest
		var head [30]byte
		if err := readFull(r, head[:], rec.local); err != nil {
			return nil, fmt.Errorf("record %.100q: %w", rec.name, err)
		}
		if binary.LittleEndian.Uint32(head[:]) != 0x04034b50 {
			return nil, fmt.Errorf("record %.100q: no local header at %d", rec.name, rec.local)
		}
		name := make([]byte, len(rec.name))
		if int(binary.LittleEndian.Uint16(head[26:])) != len(name) || readFull(r, name, rec.local+30) != nil ||
			string(name) != rec.name {
			return nil, fmt.Errorf("record %.100q: its local header has another name", rec.name)
		}
		rec.offset = rec.local + 30 + int64(binary.LittleEndian.Uint16(head[26:])) +
			int64(binary.LittleEndian.Uint16(head[28:]))
		if rec.offset > begin || rec.size > begin-rec.offset {
			return nil, fmt.Errorf("record %.100q: %d bytes at %d run into the directory at %d", rec.name, rec.size,
				rec.offset, begin)
		}
		if _, twice := out[rec.name]; twice {
			return nil, fmt.Errorf("two records are called %.100q", rec.name)
		}
		out[rec.name] = rec
		list = append(list, rec)
	}
	slices.SortFunc(list, func(a, b record) int { return int(min(max(a.local-b.local, -1), 1)) })
	for i := 1; i < len(list); i++ {
		if a, b := list[i-1], list[i]; a.offset+a.size > b.local {
			return nil, fmt.Errorf("records %.100q and %.100q overlap", a.name, b.name)
		}
	}
	return out, nil
}

// endOfZip finds the central directory.
func endOfZip(r io.ReaderAt, size int64) (entries, begin, length int64, err error) {
	le := binary.LittleEndian
	tail := make([]byte, min(size, 22+math.MaxUint16))
	if err := readFull(r, tail, size-int64(len(tail))); err != nil {
		return 0, 0, 0, err
	}
	at := len(tail) - 22
	for ; at >= 0; at-- {
		if le.Uint32(tail[at:]) == 0x06054b50 && int(le.Uint16(tail[at+20:])) == len(tail)-22-at {
			break
		}
	}
	if at < 0 {
		return 0, 0, 0, errors.New("zip archive without an end: the file is cut off")
	}
	end := tail[at:]
	entries, length, begin = int64(le.Uint16(end[10:])), int64(le.Uint32(end[12:])), int64(le.Uint32(end[16:]))
	if le.Uint16(end[4:]) != 0 && le.Uint16(end[4:]) != math.MaxUint16 {
		return 0, 0, 0, errors.New("zip archive in several files")
	}
	if at >= 20 && le.Uint32(tail[at-20:]) == 0x07064b50 { // zip64
		var end64 [56]byte
		where := le.Uint64(tail[at-12:])
		if where > uint64(size) {
			return 0, 0, 0, errors.New("zip64 directory outside the file")
		}
		if err := readFull(r, end64[:], int64(where)); err != nil {
			return 0, 0, 0, err
		}
		if le.Uint32(end64[:]) != 0x06064b50 {
			return 0, 0, 0, errors.New("zip64 directory missing")
		}
		entries, length, begin = int64(le.Uint64(end64[32:])), int64(le.Uint64(end64[40:])),
			int64(le.Uint64(end64[48:]))
	}
	return entries, begin, length, nil
}

// zipEntry reads one entry of the central directory, which begins at byte limit of the file.
func zipEntry(dir []byte, limit int64) (rec record, rest []byte, err error) {
	le := binary.LittleEndian
	if len(dir) < 46 || le.Uint32(dir) != 0x02014b50 {
		return rec, nil, errors.New("no entry where one was expected")
	}
	n, extra, comment := int(le.Uint16(dir[28:])), int(le.Uint16(dir[30:])), int(le.Uint16(dir[32:]))
	if len(dir) < 46+n+extra+comment {
		return rec, nil, errors.New("the directory is cut off")
	}
	rec.name = string(dir[46 : 46+n])
	flags, method := le.Uint16(dir[8:]), le.Uint16(dir[10:])
	packed, size, local := uint64(le.Uint32(dir[20:])), uint64(le.Uint32(dir[24:])), uint64(le.Uint32(dir[42:]))
	for x := dir[46+n : 46+n+extra]; len(x) >= 4; {
		id, k := le.Uint16(x), int(le.Uint16(x[2:]))
		if len(x) < 4+k {
			return rec, nil, fmt.Errorf("%.100q: damaged extra field", rec.name)
		}
		if body := x[4 : 4+k]; id == 1 { // zip64: those that did not fit, in this order
			for _, v := range []*uint64{&size, &packed, &local} {
				if *v == math.MaxUint32 && len(body) >= 8 {
					*v, body = le.Uint64(body), body[8:]
				}
			}
		}
		x = x[4+k:]
	}
	switch {
	case !utf8.ValidString(rec.name) || strings.ContainsAny(rec.name, "\\\x00") ||
		strings.Contains("/"+rec.name+"/", "/../") || strings.HasPrefix(rec.name, "/"):
		return rec, nil, fmt.Errorf("record name %.100q", rec.name)
	case flags&1 != 0:
		return rec, nil, fmt.Errorf("record %.100q is encrypted", rec.name)
	case method != 0:
		return rec, nil, fmt.Errorf("record %.100q is compressed: save the file again with torch.save, which stores",
			rec.name)
	case packed != size:
		return rec, nil, fmt.Errorf("record %.100q has %d bytes for %d", rec.name, packed, size)
	case local > uint64(limit) || size > uint64(limit):
		return rec, nil, fmt.Errorf("record %.100q: %d bytes at %d, outside the file", rec.name, size, local)
	}
	rec.size, rec.local = int64(size), int64(local)
	return rec, dir[46+n+extra+comment:], nil
}
