package latents

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// Claim is the right to write one shard, of samples Lo to Hi-1. Each ends with Commit or Abandon.
type Claim struct {
	Shard  int
	Lo, Hi int

	w             *Writer
	lock          *disk.Lock
	moments, flip []byte
	labels, index []byte
	next          int // the sample after the last that was added
	skipped       []Skipped
}

// Abandon gives the claim back with nothing written. After Commit it does nothing.
func (c *Claim) Abandon() {
	if c.lock != nil {
		c.lock.Remove()
		c.lock, c.moments, c.flip = nil, nil, nil
	}
}

// Skip leaves sample id out, which the manifest will record with the reason. Samples are skipped in ascending order.
func (c *Claim) Skip(id int, s catalog.Sample, reason string) error {
	after := c.Lo
	if n := len(c.skipped); n > 0 {
		after = c.skipped[n-1].ID + 1
	}
	if id < after || id >= c.Hi {
		return fmt.Errorf("shard %s: skipped sample %d, want %d to %d, ascending", c.w.plan.file(c.Shard), id, after,
			c.Hi-1)
	}
	c.skipped = append(c.skipped, Skipped{ID: id, Name: names.Text(s.Name), Label: s.Label,
		Reason: strings.ToValidUTF8(reason, "?")})
	return nil
}

// claim locks shard k; nil if somebody else holds it.
func (w *Writer) claim(k int) (*Claim, error) {
	name := w.plan.file(k)
	lock, err := disk.TryLock(filepath.Join(w.dir, name+".lock"))
	if errors.Is(err, disk.ErrLocked) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	disk.Sweep(filepath.Join(w.dir, name))
	lo, hi := w.plan.Range(k)
	return &Claim{Shard: k, Lo: lo, Hi: hi, w: w, lock: lock, next: lo}, nil
}

// maxLogvar and minLogvar are where DiagonalGaussianDistribution clamps the log variance.
const (
	minLogvar = -30
	maxLogvar = 20
)

// Add appends samples: their ids, moments [n, 2C, h, w], unscaled, their labels, and flip, the moments of the mirrored
// pictures, nil if the plan keeps none. The log variance is clamped to [-30, 20]; moments that are not finite, or too
// large for float16, are an [Unstorable] error.
func (c *Claim) Add(ids []int, moments, flip []float32, labels []int64) error {
	p := &c.w.plan
	n := len(ids)
	fail := func(format string, args ...any) error {
		return fmt.Errorf("shard %s: %w", p.file(c.Shard), fmt.Errorf(format, args...))
	}
	switch {
	case len(labels) != n:
		return fail("%s for %s", names.Plural(len(labels), "label"), names.Plural(n, "sample"))
	case len(moments) != n*p.recordLen():
		return fail("%d moments for %s, want %d", len(moments), names.Plural(n, "sample"), n*p.recordLen())
	case p.Flip && len(flip) != n*p.recordLen():
		return fail("%d mirrored moments for %s, want %d", len(flip), names.Plural(n, "sample"), n*p.recordLen())
	case !p.Flip && flip != nil:
		return fail("mirrored moments, the plan keeps none")
	}
	next := c.next
	for i, l := range labels {
		if ids[i] < next || ids[i] >= c.Hi {
			return fail("sample %d: want ids from %d to %d, ascending", ids[i], next, c.Hi-1)
		}
		next = ids[i] + 1
		if l < 0 || l >= int64(len(p.Dataset.Classes)) {
			return fail("sample %d: label %d, want 0 to %d", ids[i], l, len(p.Dataset.Classes)-1)
		}
	}
	total := (c.Hi - c.Lo) * p.recordSize()
	var err error
	if c.moments, err = p.appendMoments(room(c.moments, total), moments, ids, false); err != nil {
		return fail("%w", err)
	}
	if p.Flip {
		if c.flip, err = p.appendMoments(room(c.flip, total), flip, ids, true); err != nil {
			return fail("%w", err)
		}
	}
	for i, l := range labels {
		c.labels = binary.LittleEndian.AppendUint64(c.labels, uint64(l))
		c.index = binary.LittleEndian.AppendUint64(c.index, uint64(ids[i]))
	}
	c.next = next
	return nil
}

func room(b []byte, n int) []byte {
	if b == nil {
		return make([]byte, 0, n)
	}
	return b
}

// Unstorable says that moments cannot be stored: they are no finite numbers, or too large for float16.
type Unstorable struct {
	IDs      []int // the samples, of Of that were added at once
	Of       int
	Value    float32 // the first such moment
	Mirrored bool    // of the mirrored view
}

func (u *Unstorable) Error() string {
	view := ""
	if u.Mirrored {
		view = "mirrored "
	}
	return fmt.Sprintf("%ssample %d: moment %v cannot be stored: does the VAE fit the pictures and the precision?",
		view, u.IDs[0], u.Value)
}

// appendMoments encodes the records of the samples of the given ids.
func (p *Plan) appendMoments(b []byte, moments []float32, ids []int, mirrored bool) ([]byte, error) {
	size := p.recordLen()
	bad := &Unstorable{Of: len(ids), Mirrored: mirrored}
	for i, id := range ids {
		b = slices.Grow(b, p.recordSize())
		at := b[len(b) : len(b)+p.recordSize()]
		if v, ok := p.encodeRecord(at, moments[i*size:(i+1)*size]); !ok {
			if bad.IDs = append(bad.IDs, id); len(bad.IDs) == 1 {
				bad.Value = v
			}
		}
		b = b[:len(b)+len(at)]
	}
	if len(bad.IDs) > 0 {
		return b, bad
	}
	return b, nil
}

// encodeRecord stores the moments of one sample. One that cannot be stored is returned instead.
func (p *Plan) encodeRecord(at []byte, record []float32) (unstorable float32, ok bool) {
	for j, v := range record {
		if j >= len(record)/2 {
			// Comparisons that leave NaN as it is, to be refused below.
			if v < minLogvar {
				v = minLogvar
			} else if v > maxLogvar {
				v = maxLogvar
			}
		}
		if p.DType == checkpoint.F32 {
			if v-v != 0 {
				return v, false
			}
			binary.LittleEndian.PutUint32(at[4*j:], math.Float32bits(v))
			continue
		}
		h := checkpoint.Float16(v)
		if h&0x7c00 == 0x7c00 {
			return v, false
		}
		binary.LittleEndian.PutUint16(at[2*j:], h)
	}
	return 0, true
}

// Commit writes the shard, whole or not at all, and ends the claim. An error ends it too.
func (c *Claim) Commit() error {
	defer c.Abandon()
	p := &c.w.plan
	n := len(c.labels) / 8
	if n+len(c.skipped) != c.Hi-c.Lo {
		return fmt.Errorf("shard %s: %s and %d skipped, want %d", p.file(c.Shard), names.Plural(n, "sample"),
			len(c.skipped), c.Hi-c.Lo)
	}
	for i := range n {
		id := int(binary.LittleEndian.Uint64(c.index[8*i:]))
		if _, ok := slices.BinarySearchFunc(c.skipped, id, func(s Skipped, id int) int { return s.ID - id }); ok {
			return fmt.Errorf("shard %s: sample %d was both added and skipped", p.file(c.Shard), id)
		}
	}
	data := map[string][]byte{tensorMoments: c.moments, tensorMomentsFlip: c.flip, tensorLabels: c.labels,
		tensorIndex: c.index}
	var tensors []checkpoint.Tensor
	sums := map[string]string{}
	for _, info := range p.tensors(n) {
		tensors = append(tensors, checkpoint.Tensor{Info: info, Data: data[info.Name]})
		sums[info.Name] = crc32c(data[info.Name])
	}
	meta := p.metadata(c.Shard)
	for key, v := range map[string]any{metaCRC32C: sums, metaSkipped: c.skipped} {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		meta[key] = string(b)
	}
	if len(c.skipped) == 0 {
		delete(meta, metaSkipped)
	}
	// A manifest describes shards that are all there. If this one has to be made again it is no longer true.
	if err := os.Remove(filepath.Join(c.w.dir, ManifestName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	path := filepath.Join(c.w.dir, p.file(c.Shard))
	// Pages of 4096 bytes let a reader fetch single records with O_DIRECT.
	return checkpoint.WriteOptions(path, tensors, meta, checkpoint.Options{KeepOrder: true, Align: 4096})
}
