package interop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// openLightning opens a folder of shards. Samples are numbered through the files, sorted by name, as LightningDiT
// does it.
func openLightning(dir string) (*Set, error) {
	paths, err := filepath.Glob(filepath.Join(escaped(dir), "latents_rank*.safetensors"))
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	s := &Set{Kind: LightningDiT, Flip: true}
	var files []*checkpoint.File
	starts := []int{0}
	fail := func(path string, err error) (*Set, error) {
		s.Close()
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	for k, path := range paths {
		f, err := checkpoint.OpenSafetensors(path)
		if err != nil {
			return fail(path, disk.Bare(err))
		}
		files = append(files, f)
		s.closers = append(s.closers, f.Close)
		latents, ok := f.Lookup("latents")
		labels, ok2 := f.Lookup("labels")
		flip, hasFlip := f.Lookup("latents_flip")
		switch {
		case !ok || !ok2:
			return fail(path, fmt.Errorf("want tensors latents and labels"))
		case latents.DType != checkpoint.F32 || len(latents.Shape) != 4:
			return fail(path, fmt.Errorf("latents %s %v, want F32 [n, channels, height, width]", latents.DType,
				latents.Shape))
		case labels.DType != checkpoint.I64 || !slices.Equal(labels.Shape, latents.Shape[:1]):
			return fail(path, fmt.Errorf("labels %s %v, want I64 [%d]", labels.DType, labels.Shape, latents.Shape[0]))
		case hasFlip && (flip.DType != latents.DType || !slices.Equal(flip.Shape, latents.Shape)):
			return fail(path, fmt.Errorf("latents_flip %s %v, latents are F32 %v", flip.DType, flip.Shape,
				latents.Shape))
		}
		if k == 0 {
			s.Flip = hasFlip
			if err := s.setShape(latents.Shape[1:]); err != nil {
				return fail(path, err)
			}
		}
		if want := []int64{int64(s.Channels), int64(s.Height), int64(s.Width)}; !slices.Equal(latents.Shape[1:],
			want) || hasFlip != s.Flip {
			return fail(path, fmt.Errorf("latents of shape %v, mirrored ones %v; the first file has %v, %v",
				latents.Shape[1:], hasFlip, want, s.Flip))
		}
		b, err := f.Read("labels")
		if err != nil {
			return fail(path, err)
		}
		for i := range latents.Shape[0] {
			s.Labels = append(s.Labels, int64(binary.LittleEndian.Uint64(b[8*i:])))
		}
		starts = append(starts, len(s.Labels))
		s.names = append(s.names, fmt.Sprint(filepath.Base(path), latents.Shape[0]))
	}
	if len(s.Labels) == 0 {
		return fail(dir, fmt.Errorf("no samples"))
	}
	buf := make([]byte, 4*s.recordLen())
	s.read = func(i int, flip bool, dst []float32) error {
		k, found := slices.BinarySearch(starts, i)
		if !found {
			k--
		}
		for starts[k+1] == i { // of an empty file
			k++
		}
		name := "latents"
		if flip {
			name = "latents_flip"
		}
		if err := files[k].ReadAt(buf, name, int64(i-starts[k])*int64(len(buf))); err != nil {
			return err
		}
		return floats(dst, buf, fmt.Sprintf("%s: %s of record %d", filepath.Base(paths[k]), name, i-starts[k]))
	}
	return s, nil
}

// lightningShard is how many samples LightningDiT puts into a file.
const lightningShard = 10000

// until lists tensors for writing that ends with the exporter's context: a file of them takes seconds.
func (e *exporter) until(tensors []checkpoint.Tensor) []checkpoint.Tensor {
	return checkpoint.From(checkpoint.Until(e.ctx, checkpoint.Memory(tensors)))
}

// writeLightning writes unscaled samples of both views, and the statistics that LightningDiT normalises with.
func (e *exporter) writeLightning(dir string) error {
	m, n := e.latents.Manifest(), e.latents.Len()
	if !m.Flip {
		return errors.New("LightningDiT trains on both views, and these latents hold no mirrored one: encode with " +
			"--flip both")
	}
	for lo := 0; lo < n; lo += lightningShard {
		hi := min(lo+lightningShard, n)
		shape := []int64{int64(hi - lo), int64(m.Channels), int64(m.Height), int64(m.Width)}
		tensors := []checkpoint.Tensor{
			{Info: checkpoint.Info{Name: "latents", DType: checkpoint.F32, Shape: shape}},
			{Info: checkpoint.Info{Name: "latents_flip", DType: checkpoint.F32, Shape: shape}},
		}
		labels := checkpoint.Tensor{Info: checkpoint.Info{Name: "labels", DType: checkpoint.I64, Shape: shape[:1]}}
		for i := lo; i < hi; i++ {
			for v := range tensors {
				x, err := e.sample(i, v == 1)
				if err != nil {
					return err
				}
				tensors[v].Data = append(tensors[v].Data, floatBytes(x)...)
			}
			labels.Data = binary.LittleEndian.AppendUint64(labels.Data, uint64(e.latents.Label(i)))
			if err := e.tick(i); err != nil {
				return err
			}
		}
		path := filepath.Join(dir, fmt.Sprintf("latents_rank00_shard%03d.safetensors", lo/lightningShard))
		tensors = e.until(append(tensors, labels))
		if err := checkpoint.Write(path, tensors, map[string]string{"format": "pt"}); err != nil {
			return err
		}
	}
	stats := make([]checkpoint.Tensor, 2)
	for i, values := range [][]float64{m.Mean, m.Std} {
		var x []float32
		for _, v := range values {
			x = append(x, float32(v))
		}
		stats[i] = checkpoint.Tensor{Info: checkpoint.Info{Name: []string{"mean", "std"}[i], DType: checkpoint.F32,
			Shape: []int64{1, int64(m.Channels), 1, 1}}, Data: floatBytes(x)}
	}
	return checkpoint.WritePyTorch(filepath.Join(dir, "latents_stats.pt"), stats)
}
