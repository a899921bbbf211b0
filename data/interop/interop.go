// Package interop reads and writes latents as other programs for Diffusion Transformers keep them.
//
//	fast-dit      chuanyangjin/fast-DiT: NAME_features/I.npy, float32 [1, C, h, w], and NAME_labels/I.npy, int64 [1]
//	lightningdit  hustvl/LightningDiT: latents_rank00_shard000.safetensors ..., tensors latents, latents_flip,
//	              labels
//	edm2          NVlabs/edm2 and sihyun-yu/REPA: a folder or zip of 00000/img-mean-std-00000000.npy ..., float32
//	              [2C, h, w], and dataset.json with the labels
//
// The first two hold latents that were drawn from their posteriors once; fast-DiT's are scaled by the autoencoder's
// factor, and only edm2's keep the posterior. None of them keeps the names of pictures and classes.
package interop

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/numpy"
)

// A Kind is a layout.
type Kind string

// The layouts.
const (
	FastDiT      Kind = "fast-dit"
	LightningDiT Kind = "lightningdit"
	EDM2         Kind = "edm2"
)

// Kinds lists the layouts.
func Kinds() []Kind { return []Kind{FastDiT, LightningDiT, EDM2} }

// Loses says what a layout does not keep of a set of latents.
func (k Kind) Loses() string {
	switch k {
	case FastDiT:
		return "the posteriors (each latent is drawn once), the mirrored views, the names of classes"
	case LightningDiT:
		return "the posteriors (each latent is drawn once), the names of classes"
	}
	return "the mirrored views, the names of classes"
}

// A Set is an open set of latents in a layout.
type Set struct {
	Kind                    Kind
	Channels, Height, Width int // of a latent
	Flip                    bool
	Labels                  []int64

	scaled  bool     // values are multiplied by the scaling factor
	std     bool     // records are means and standard deviations, else samples
	names   []string // that identify the set
	read    func(i int, flip bool, dst []float32) error
	closers []func() error
}

// Close closes the files.
func (s *Set) Close() error {
	var errs []error
	for _, f := range s.closers {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// recordLen is the number of values of a record.
func (s *Set) recordLen() int {
	n := s.Channels * s.Height * s.Width
	if s.std {
		n *= 2
	}
	return n
}

// Limits on what a set may ask for.
const (
	maxSide     = 1 << 12
	maxChannels = 1 << 10
	maxRecord   = 1 << 24 // values
)

// setShape takes the shape [C, h, w] of a latent, or of mean and deviation together.
func (s *Set) setShape(shape []int64) error {
	if len(shape) != 3 {
		return fmt.Errorf("latents of shape %v: want [channels, height, width]", shape)
	}
	c := shape[0]
	if s.std {
		if c%2 != 0 {
			return fmt.Errorf("latents of shape %v: want an even number of channels, mean and deviation", shape)
		}
		c /= 2
	}
	if c < 1 || c > maxChannels || shape[1] < 1 || shape[1] > maxSide || shape[2] < 1 || shape[2] > maxSide ||
		shape[0]*shape[1]*shape[2] > maxRecord {
		return fmt.Errorf("latents of shape %v: want 1 to %d channels and sides of 1 to %d", shape, maxChannels,
			maxSide)
	}
	s.Channels, s.Height, s.Width = int(c), int(shape[1]), int(shape[2])
	return nil
}

// Open opens a set in whatever layout it is.
func Open(ctx context.Context, path string) (*Set, error) {
	s, err := open(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open latents %s: %w", path, err)
	}
	for i, label := range s.Labels {
		if label < 0 || label > maxLabel {
			s.Close()
			return nil, fmt.Errorf("open latents %s: label %d of record %d: want 0 to %d", path, label, i, maxLabel)
		}
	}
	return s, nil
}

const maxLabel = 1 << 20

func open(ctx context.Context, path string) (*Set, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, disk.Bare(err)
	}
	if !info.IsDir() {
		return openZip(ctx, path)
	}
	has := func(pattern string) bool {
		names, _ := filepath.Glob(filepath.Join(escaped(path), pattern))
		return len(names) > 0
	}
	switch {
	case has(datasetJSON):
		return openFolder(ctx, path)
	case has("latents_rank*.safetensors"):
		return openLightning(path)
	case has("*" + featuresEnd):
		return openFast(ctx, path)
	}
	return nil, fmt.Errorf("no latents in it: want a folder *%s beside one *%s (fast-DiT), "+
		"latents_rank*.safetensors (LightningDiT) or %s (edm2, REPA)", featuresEnd, labelsEnd, datasetJSON)
}

// escaped is a path for filepath.Glob.
func escaped(path string) string {
	out := ""
	for _, r := range path {
		if r == '*' || r == '?' || r == '[' || r == '\\' {
			out += "\\"
		}
		out += string(r)
	}
	return out
}

// An Import says what the layout does not.
type Import struct {
	VAE       latents.VAE // that made the latents
	ImageSize picture.Size
	Tool      string // name and version of the program
}

// logVariance is that of a latent which was drawn already: a deviation of 3e-7.
const logVariance = -30

// Write writes the set into the folder out as a set of ours, in float32. A call that was cut short is continued by the
// next. A drawn latent becomes a posterior without width.
func (s *Set) Write(ctx context.Context, out string, o Import) (*latents.Manifest, error) {
	classes := make([]string, 1)
	for _, label := range s.Labels {
		for int(label) >= len(classes) {
			classes = append(classes, "")
		}
	}
	for i := range classes {
		classes[i] = strconv.Itoa(i)
	}
	w, err := latents.NewWriter(out, latents.Plan{
		Dataset: latents.Dataset{Samples: len(s.Labels), Hash: s.hash(), Order: "position", Classes: classes},
		VAE:     o.VAE, Channels: s.Channels, Height: s.Height, Width: s.Width, DType: checkpoint.F32, Flip: s.Flip,
		ImageSize: o.ImageSize, Crop: "unknown", Decoder: "imported from " + string(s.Kind), Tool: o.Tool,
	})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	for claim, err := range w.Claims(ctx, 0, 1) {
		if err != nil {
			return nil, err
		}
		if err := s.add(ctx, claim, o.VAE.ScalingFactor); err != nil {
			claim.Abandon()
			return nil, err
		}
		if err := claim.Commit(); err != nil {
			return nil, err
		}
	}
	return w.Finish(ctx)
}

// add writes the records of one shard.
func (s *Set) add(ctx context.Context, claim *latents.Claim, factor float64) error {
	n := s.Channels * s.Height * s.Width
	record := make([]float32, s.recordLen())
	moments := func(i int, flip bool) ([]float32, error) {
		if err := s.read(i, flip, record); err != nil {
			return nil, err
		}
		out := make([]float32, 2*n)
		for j := range n {
			out[j] = record[j]
			if s.scaled {
				out[j] = float32(float64(record[j]) / factor)
			}
			out[n+j] = logVariance
			if s.std {
				if !(record[n+j] >= 0) {
					return nil, fmt.Errorf("record %d: a standard deviation of %v: want 0 or more", i, record[n+j])
				}
				out[n+j] = float32(min(max(2*math.Log(float64(record[n+j])), -30), 20))
			}
		}
		return out, nil
	}
	for i := claim.Lo; i < claim.Hi; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, err := moments(i, false)
		if err != nil {
			return err
		}
		var flip []float32
		if s.Flip {
			if flip, err = moments(i, true); err != nil {
				return err
			}
		}
		if err := claim.Add([]int{i}, m, flip, s.Labels[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// hash identifies the set by what its records are called and their labels.
func (s *Set) hash() string {
	h := sha256.New()
	fmt.Fprintln(h, s.Kind, s.Channels, s.Height, s.Width, s.Flip, s.Labels)
	for _, name := range s.names {
		fmt.Fprintln(h, name)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// readFile reads a file of at most limit bytes.
func readFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a file", name)
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s: %d bytes, want at most %d", name, info.Size(), limit)
	}
	return fs.ReadFile(fsys, name)
}

// readArray reads a .npy file of float32 values, of the given shape where that is not nil.
func readArray(fsys fs.FS, name string, shape []int64) (checkpoint.Tensor, error) {
	b, err := readFile(fsys, name, 4*maxRecord+1<<16)
	if err != nil {
		return checkpoint.Tensor{}, err
	}
	a, err := numpy.ParseNPY(b)
	switch {
	case err != nil:
		return a, fmt.Errorf("%s: %w", name, err)
	case a.DType != checkpoint.F32:
		return a, fmt.Errorf("%s: elements of type %s, want float32", name, a.DType)
	case shape != nil && !slices.Equal(a.Shape, shape):
		return a, fmt.Errorf("%s: shape %v, that of the first record is %v", name, a.Shape, shape)
	}
	return a, nil
}

// arrayReader reads records that are files each, of one shape.
func arrayReader(fsys fs.FS, names []string, shape []int64) func(i int, flip bool, dst []float32) error {
	return func(i int, _ bool, dst []float32) error {
		a, err := readArray(fsys, names[i], shape)
		if err != nil {
			return err
		}
		return floats(dst, a.Data, names[i])
	}
}

// floats decodes float32 values, all of which must be finite.
func floats(dst []float32, b []byte, name string) error {
	for j := range dst {
		v := math.Float32frombits(uint32(b[4*j]) | uint32(b[4*j+1])<<8 | uint32(b[4*j+2])<<16 | uint32(b[4*j+3])<<24)
		if v-v != 0 {
			return fmt.Errorf("%s: value %d is %v", name, j, v)
		}
		dst[j] = v
	}
	return nil
}
