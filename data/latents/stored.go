package latents

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/ditrun/ditrun/internal/mmap"
)

// RecordsHash identifies the records of a set: which samples of the catalogue they are.
func (l *Set) RecordsHash() string {
	h := sha256.New()
	var b [8]byte
	for _, id := range l.ids {
		binary.LittleEndian.PutUint64(b[:], uint64(id))
		h.Write(b[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// RecordBytes is the size of a stored record of one view.
func (l *Set) RecordBytes() int { return l.RecordLen() * l.m.DType.Size() }

// Fetch reads records lo to hi-1 into the page cache through buf. The advice of madvise would do less: where a disk
// takes only small requests, the system cuts the advice down to one of them.
func (l *Set) Fetch(buf []byte, lo, hi int, flip bool) {
	size := l.RecordBytes()
	for k := sort.SearchInts(l.starts, lo+1) - 1; lo < hi; k++ {
		end := min(hi, l.starts[k+1])
		f, err := os.Open(filepath.Join(l.dir, l.m.Shards[k].File))
		if err != nil {
			return
		}
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM) // else more would be read than is asked for
		s := l.shards[k]
		views := s.tensors[:1]
		if flip {
			views = s.tensors[:2]
		}
		for _, v := range views {
			_, _ = f.ReadAt(buf[:(end-lo)*size], v.Offset+int64((lo-l.starts[k])*size))
		}
		_ = f.Close()
		lo = end
	}
}

// ReadStored fills p with the stored records of one view, all of them one behind the other, from byte off on: what a
// reader that keeps the whole set elsewhere needs.
func (l *Set) ReadStored(p []byte, flip bool, off int64) error {
	if flip && !l.m.Flip || off < 0 || off+int64(len(p)) > int64(l.Len())*int64(l.RecordBytes()) {
		return fmt.Errorf("read %s: %d bytes at %d of %d, mirrored %v", l.dir, len(p), off,
			int64(l.Len())*int64(l.RecordBytes()), flip)
	}
	for k, s := range l.shards {
		start := int64(l.starts[k]) * int64(l.RecordBytes())
		from := s.moments
		if flip {
			from = s.flip
		}
		if off < start || off >= start+int64(len(from)) || len(p) == 0 {
			continue
		}
		err := mmap.Guard(func() error {
			n := copy(p, from[off-start:])
			p, off = p[n:], off+int64(n)
			return nil
		})
		if err != nil {
			return l.readError(k, err)
		}
	}
	return nil
}
