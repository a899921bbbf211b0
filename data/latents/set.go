package latents

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sort"
	"sync"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/mmap"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// A Set is a finished set of encoded pictures, open for reading. Records are numbered 0 to Len()-1 in the order
// of their sample ids. All methods but Close may be called from several goroutines at once.
type Set struct {
	dir    string
	m      *Manifest
	shards []*shard
	starts []int // first record of each shard, and Len() at the end
	labels []int64
	ids    []int64

	comparing   sync.Mutex
	comparisons []*Comparison // that were begun

	partOnce sync.Once
	part     Part
	partErr  error
}

// A Part belongs to a set and is kept beside its shards, such as captions.
type Part interface {
	NumFiles() int
	// VerifyFile compares a file with its checksum.
	VerifyFile(k int) error
	Close() error
}

// Part returns the part of the set, which open opens at the first call; it may be nil. It is compared and closed
// with the set.
func (l *Set) Part(open func() (Part, error)) (Part, error) {
	l.partOnce.Do(func() { l.part, l.partErr = open() })
	return l.part, l.partErr
}

// shard is one mapped file.
type shard struct {
	n       int // samples
	data    []byte
	tensors []checkpoint.Info
	crc     map[string]string // checksums by tensor as of when it was written; nil in older files
	skipped []Skipped
	moments []byte
	flip    []byte
	dtype   checkpoint.DType
}

// Open opens the set in dir. It refuses a folder without manifest, a manifest of another version, and shards
// whose size, header, labels or ids are not what the manifest says; Verify checks their moments. The files are
// mapped, so memory is used for what is read only.
func Open(dir string) (*Set, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, disk.OpenError(dir, err)
	}
	m, err := readManifest(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open %s: no %s%w: not a folder of latents, or encoding has not finished", dir,
			ManifestName, disk.Quiet(err))
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	l := &Set{dir: dir, m: m, starts: []int{0}}
	for k, info := range m.Shards {
		if err := l.add(k, info); err != nil {
			l.Close()
			return nil, fmt.Errorf("open %s: %s: %w", dir, info.File, err)
		}
	}
	return l, nil
}

func (l *Set) add(k int, info ShardInfo) error {
	s, err := openShard(filepath.Join(l.dir, info.File), &l.m.Plan, k)
	if err != nil {
		return err
	}
	if s.n != info.Samples {
		s.close()
		return fmt.Errorf("%s, the manifest says %d", names.Plural(s.n, "sample"), info.Samples)
	}
	l.shards = append(l.shards, s)
	if int64(len(s.data)) != info.Bytes {
		return fmt.Errorf("%d bytes, the manifest says %d", len(s.data), info.Bytes)
	}
	return mmap.Guard(func() error {
		labels, ids := s.tensors[len(s.tensors)-2], s.tensors[len(s.tensors)-1]
		for _, t := range []checkpoint.Info{labels, ids} { // all of them are read here anyway
			if err := s.compare(context.Background(), &info, t, nil); err != nil {
				return fmt.Errorf("damaged: %w: %s", err, shardWayOut)
			}
		}
		next := int64(info.First)
		for i := range int64(info.Samples) {
			label := int64(binary.LittleEndian.Uint64(s.data[labels.Offset+8*i:]))
			id := int64(binary.LittleEndian.Uint64(s.data[ids.Offset+8*i:]))
			if label < 0 || label >= int64(len(l.m.Dataset.Classes)) {
				return fmt.Errorf("record %d: label %d, want 0 to %d", i, label, len(l.m.Dataset.Classes)-1)
			}
			if id < next || id >= int64(info.End) {
				return fmt.Errorf("record %d: sample id %d, want %d to %d", i, id, next, info.End-1)
			}
			next = id + 1
			l.labels = append(l.labels, label)
			l.ids = append(l.ids, id)
		}
		l.starts = append(l.starts, len(l.ids))
		return nil
	})
}

// openShard maps shard k of a plan after checking that it is whole.
func openShard(path string, p *Plan, k int) (*shard, error) {
	f, err := checkpoint.OpenSafetensors(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("missing%w: encode again, finished shards are kept", disk.Quiet(err))
	}
	if disk.OfMachine(err) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("truncated or damaged: %w: encode again, finished shards are kept",
			checkpoint.WithoutPath(err))
	}
	defer f.Close()
	skipped, err := p.checkShard(f, k)
	if err != nil {
		return nil, err
	}
	lo, hi := p.Range(k)
	s := &shard{n: hi - lo - len(skipped), tensors: f.Tensors(), dtype: p.DType, skipped: skipped}
	if text, ok := f.Metadata()[metaCRC32C]; ok {
		if err := json.Unmarshal([]byte(text), &s.crc); err != nil {
			return nil, fmt.Errorf("metadata %q: %w", metaCRC32C, err)
		}
	}
	last := s.tensors[len(s.tensors)-1]
	if s.data, err = mmap.Map(path, last.Offset+last.Size); err != nil {
		return nil, err
	}
	s.moments = s.bytes(s.tensors[0])
	if p.Flip {
		s.flip = s.bytes(s.tensors[1])
	}
	return s, nil
}

func (s *shard) close() error {
	err := mmap.Unmap(s.data)
	*s = shard{} // a read after Close gives an index error, not a fault
	return err
}

func (s *shard) bytes(t checkpoint.Info) []byte {
	return s.data[t.Offset : t.Offset+t.Size]
}

func (s *shard) sha256() string {
	sum := sha256.Sum256(s.data)
	return hex.EncodeToString(sum[:])
}

func (s *shard) crc32c(t checkpoint.Info) string { return crc32c(s.bytes(t)) }

func crc32c(b []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// read decodes record i of the shard.
func (s *shard) read(i int, flip bool, dst []float32) {
	b := s.record(i, flip, s.dtype.Size()*len(dst))
	if s.dtype == checkpoint.F32 {
		for j := range dst {
			dst[j] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*j:]))
		}
		return
	}
	for j := range dst {
		dst[j] = checkpoint.FromFloat16(binary.LittleEndian.Uint16(b[2*j:]))
	}
}

// record is record i of the shard, of size bytes.
func (s *shard) record(i int, flip bool, size int) []byte {
	from := s.moments
	if flip {
		from = s.flip
	}
	return from[i*size : (i+1)*size]
}

// Dir returns the folder of the set.
func (l *Set) Dir() string { return l.dir }

// Len returns the number of records.
func (l *Set) Len() int { return len(l.ids) }

// Manifest returns the manifest, not to be modified.
func (l *Set) Manifest() *Manifest { return l.m }

// Classes returns the class names, indexed by label.
func (l *Set) Classes() []string { return l.m.Dataset.Classes }

// Label returns the label of record i.
func (l *Set) Label(i int) int64 { return l.labels[i] }

// LabelsByID returns the labels by the ids of the catalogue that the set was made from, -1 for what was skipped.
func (l *Set) LabelsByID() []int32 {
	labels := make([]int32, l.m.Dataset.Samples)
	for i := range labels {
		labels[i] = -1
	}
	for r, id := range l.ids {
		labels[id] = int32(l.labels[r])
	}
	return labels
}

// ID returns the sample id of record i in the catalogue it was made from.
func (l *Set) ID(i int) int { return int(l.ids[i]) }

// RecordLen returns the number of moments of one record: 2C * h * w.
func (l *Set) RecordLen() int { return l.m.recordLen() }

// Read decodes the moments [2C, h, w] of record i, unscaled, into dst; flip asks for those of the mirrored picture.
func (l *Set) Read(i int, flip bool, dst []float32) error {
	return l.record(i, flip, len(dst), func(s *shard, i int) { s.read(i, flip, dst) })
}

// ReadRecord is Read without the decoding: the moments as they are stored, little-endian, of the manifest's type. p has
// RecordBytes.
func (l *Set) ReadRecord(i int, flip bool, p []byte) error {
	return l.record(i, flip, len(p)/l.m.DType.Size(), func(s *shard, i int) {
		copy(p, s.record(i, flip, len(p)))
	})
}

// record calls read with the shard of record i and its number there. There has to be room for n moments.
func (l *Set) record(i int, flip bool, n int, read func(s *shard, i int)) error {
	switch {
	case i < 0 || i >= l.Len():
		return fmt.Errorf("read %s: record %d, want 0 to %d", l.dir, i, l.Len()-1)
	case flip && !l.m.Flip:
		return fmt.Errorf("read %s: no mirrored latents in this set: encode with --flip both", l.dir)
	case n != l.RecordLen():
		return fmt.Errorf("read %s: room for %d moments, want %d", l.dir, n, l.RecordLen())
	}
	k := sort.SearchInts(l.starts, i+1) - 1
	err := mmap.Guard(func() error {
		read(l.shards[k], i-l.starts[k])
		return nil
	})
	if err != nil {
		return l.readError(k, err)
	}
	return nil
}

// readError is that of reading shard k.
func (l *Set) readError(k int, err error) error {
	file := &l.m.Shards[k]
	return fmt.Errorf("read %s: %s: %w", l.dir, file.File,
		mmap.Explain(err, filepath.Join(l.dir, file.File), file.Bytes))
}

// CheckVAE returns an error unless the set was made with the VAE whose weights have the given hex SHA-256.
func (l *Set) CheckVAE(sum string) error {
	if sum == l.m.VAE.SHA256 {
		return nil
	}
	return fmt.Errorf("latents %s: made with VAE %s (sha256 %.12s...), this one has sha256 %.12s...: use the VAE "+
		"that made them, or encode again with this one",
		l.dir, l.m.VAE.Name, l.m.VAE.SHA256, sum)
}

// Close unmaps the files. No read or iteration may be under way.
func (l *Set) Close() error {
	l.comparing.Lock()
	for _, c := range l.comparisons {
		c.Stop()
	}
	l.comparisons = nil
	l.comparing.Unlock()
	var errs []error
	for _, s := range l.shards {
		errs = append(errs, s.close())
	}
	l.shards = nil
	if l.part != nil {
		errs = append(errs, l.part.Close())
	}
	return errors.Join(errs...)
}
