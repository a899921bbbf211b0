package data

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

// Claim is the right to write one shard, of samples Lo to Hi-1.
type Claim struct {
	Shard  int
	Lo, Hi int

	w             *ShardWriter
	unlock        func()
	committed     bool
	moments, flip []byte
	labels, index []byte
}

// claim locks shard k; nil if somebody else holds it.
func (w *ShardWriter) claim(k int) (*Claim, error) {
	name := w.plan.file(k)
	unlock, err := lock(filepath.Join(w.dir, name+".lock"))
	if err != nil || unlock == nil {
		return nil, err
	}
	if err := w.removeTemporary(name); err != nil {
		unlock()
		return nil, err
	}
	lo, hi := w.plan.Range(k)
	return &Claim{Shard: k, Lo: lo, Hi: hi, w: w, unlock: unlock}, nil
}

// removeTemporary removes what killed processes left of a file. Only the holder of its lock may.
func (w *ShardWriter) removeTemporary(name string) error {
	names, err := w.names("."+name+".", ".tmp")
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := os.Remove(filepath.Join(w.dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (c *Claim) offer(yield func(*Claim, error) bool) bool {
	defer c.unlock() // also when the loop body panics
	return yield(c, nil)
}

// maxLogvar and minLogvar are where DiagonalGaussianDistribution clamps the log variance.
const (
	minLogvar = -30
	maxLogvar = 20
)

// Add appends the next samples: moments [n, 2C, h, w], unscaled, for as many samples as there are labels, and
// flip, the same of the mirrored pictures, nil if the plan keeps none. The log variance is clamped to [-30, 20];
// moments that are not finite, or too large for float16, are an error.
func (c *Claim) Add(moments, flip []float32, labels []int64) error {
	p := &c.w.plan
	n := len(labels)
	have := len(c.labels) / 8
	fail := func(format string, args ...any) error {
		return fmt.Errorf("shard %s: %w", p.file(c.Shard), fmt.Errorf(format, args...))
	}
	switch {
	case have+n > c.Hi-c.Lo:
		return fail("%d samples more than its %d", have+n-(c.Hi-c.Lo), c.Hi-c.Lo)
	case len(moments) != n*p.recordLen():
		return fail("%d moments for %d samples, want %d", len(moments), n, n*p.recordLen())
	case p.Flip && len(flip) != n*p.recordLen():
		return fail("%d mirrored moments for %d samples, want %d", len(flip), n, n*p.recordLen())
	case !p.Flip && flip != nil:
		return fail("mirrored moments, the plan keeps none")
	}
	for i, l := range labels {
		if l < 0 || l >= int64(len(p.Dataset.Classes)) {
			return fail("sample %d: label %d, want 0 to %d", c.Lo+have+i, l, len(p.Dataset.Classes)-1)
		}
	}
	total := (c.Hi - c.Lo) * p.recordSize()
	var err error
	if c.moments, err = p.appendMoments(room(c.moments, total), moments); err != nil {
		return fail("sample %w", sampleError(err, c.Lo+have))
	}
	if p.Flip {
		if c.flip, err = p.appendMoments(room(c.flip, total), flip); err != nil {
			return fail("mirrored sample %w", sampleError(err, c.Lo+have))
		}
	}
	for i, l := range labels {
		c.labels = binary.LittleEndian.AppendUint64(c.labels, uint64(l))
		c.index = binary.LittleEndian.AppendUint64(c.index, uint64(c.Lo+have+i))
	}
	return nil
}

func room(b []byte, n int) []byte {
	if b == nil {
		return make([]byte, 0, n)
	}
	return b
}

// momentError is a moment that cannot be stored, of the i-th record given.
type momentError struct {
	i     int
	value float32
}

func (e momentError) Error() string { return fmt.Sprintf("%d: moment %v", e.i, e.value) }

// sampleError numbers the sample of a momentError by its id.
func sampleError(err error, first int) error {
	var m momentError
	if errors.As(err, &m) {
		return fmt.Errorf("%d: moment %v cannot be stored: does the VAE fit the pictures and the precision?", first+m.i, m.value)
	}
	return err
}

func (p *Plan) appendMoments(b []byte, moments []float32) ([]byte, error) {
	size := p.recordLen()
	for i := 0; i*size < len(moments); i++ {
		record := moments[i*size : (i+1)*size]
		for j, v := range record {
			if j >= size/2 {
				// Comparisons that leave NaN as it is, to be refused below.
				if v < minLogvar {
					v = minLogvar
				} else if v > maxLogvar {
					v = maxLogvar
				}
			}
			if p.DType == checkpoint.F32 {
				if v-v != 0 {
					return b, momentError{i, v}
				}
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
				continue
			}
			h := float16(v)
			if h&0x7c00 == 0x7c00 {
				return b, momentError{i, v}
			}
			b = append(b, byte(h), byte(h>>8))
		}
	}
	return b, nil
}

// Commit writes the shard, whole or not at all.
func (c *Claim) Commit() error {
	p := &c.w.plan
	n := c.Hi - c.Lo
	if have := len(c.labels) / 8; have != n {
		return fmt.Errorf("shard %s: %d samples, want %d", p.file(c.Shard), have, n)
	}
	data := map[string][]byte{tensorMoments: c.moments, tensorMomentsFlip: c.flip, tensorLabels: c.labels, tensorIndex: c.index}
	var tensors []checkpoint.Tensor
	for _, info := range p.tensors(n) {
		tensors = append(tensors, checkpoint.Tensor{Info: info, Data: data[info.Name]})
	}
	// A manifest describes shards that are all there. If this one has to be made again it is no longer true.
	if err := os.Remove(filepath.Join(c.w.dir, ManifestName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	path := filepath.Join(c.w.dir, p.file(c.Shard))
	// Pages of 4096 bytes let a reader fetch single records with O_DIRECT.
	if err := checkpoint.WriteOptions(path, tensors, p.metadata(c.Shard), checkpoint.Options{KeepOrder: true, Align: 4096}); err != nil {
		return err
	}
	c.moments, c.flip, c.committed = nil, nil, true
	return nil
}
