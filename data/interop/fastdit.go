package interop

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/numpy"
)

// The folders of fast-DiT end so.
const (
	featuresEnd = "_features"
	labelsEnd   = "_labels"
)

// openFast opens a folder with one NAME_features and its NAME_labels. Files are paired as fast-DiT does it: both
// folders sorted by name.
func openFast(ctx context.Context, dir string) (*Set, error) {
	folders, err := filepath.Glob(filepath.Join(escaped(dir), "*"+featuresEnd))
	if err != nil {
		return nil, err
	}
	if len(folders) > 1 {
		return nil, fmt.Errorf("%d folders *%s: want one", len(folders), featuresEnd)
	}
	features := filepath.Base(folders[0])
	labels := strings.TrimSuffix(features, featuresEnd) + labelsEnd
	fsys := os.DirFS(dir)
	files, err := arrays(fsys, features)
	if err != nil {
		return nil, err
	}
	labelNames, err := arrays(fsys, labels)
	if err != nil {
		return nil, err
	}
	if len(files) != len(labelNames) {
		return nil, fmt.Errorf("%s in %s, %d in %s", names.Plural(len(files), "file"), features, len(labelNames),
			labels)
	}
	s := &Set{Kind: FastDiT, scaled: true}
	for i, name := range labelNames {
		if ctx.Err() != nil { // a million small files take minutes
			return nil, context.Cause(ctx)
		}
		if path.Base(name) != path.Base(files[i]) {
			return nil, fmt.Errorf("%s and %s make a pair: is a file missing?", files[i], name)
		}
		label, err := readLabel(fsys, name)
		if err != nil {
			return nil, err
		}
		s.Labels = append(s.Labels, label)
		s.names = append(s.names, path.Base(name))
	}
	first, err := readArray(fsys, files[0], nil)
	if err != nil {
		return nil, err
	}
	if len(first.Shape) != 4 || first.Shape[0] != 1 {
		return nil, fmt.Errorf("%s: shape %v, want [1, channels, height, width]", files[0], first.Shape)
	}
	if err := s.setShape(first.Shape[1:]); err != nil {
		return nil, fmt.Errorf("%s: %w", files[0], err)
	}
	s.read = arrayReader(fsys, files, first.Shape)
	return s, nil
}

// arrays lists the .npy files of a folder, sorted by name.
func arrays(fsys fs.FS, dir string) ([]string, error) {
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".npy") {
			names = append(names, dir+"/"+e.Name())
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: no .npy files", dir)
	}
	slices.Sort(names)
	return names, nil
}

func readLabel(fsys fs.FS, name string) (int64, error) {
	b, err := readFile(fsys, name, 1<<16)
	if err != nil {
		return 0, err
	}
	a, err := numpy.ParseNPY(b)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	if a.DType != checkpoint.I64 || len(a.Data) != 8 {
		return 0, fmt.Errorf("%s: %s %v, want one int64", name, a.DType, a.Shape)
	}
	return int64(binary.LittleEndian.Uint64(a.Data)), nil
}

// writeFast writes scaled samples of the plain view.
func (e *exporter) writeFast(dir string) error {
	m := e.latents.Manifest()
	const features, labels = "imagenet256_features", "imagenet256_labels"
	if err := errors.Join(os.Mkdir(filepath.Join(dir, features), 0o777),
		os.Mkdir(filepath.Join(dir, labels), 0o777)); err != nil {
		return err
	}
	return e.each(func(i int) error {
		x, err := e.sample(i, false)
		if err != nil {
			return err
		}
		for j := range x {
			x[j] = float32(float64(x[j]) * m.VAE.ScalingFactor)
		}
		name := fmt.Sprintf("%d.npy", i)
		shape := []int64{1, int64(m.Channels), int64(m.Height), int64(m.Width)}
		if err := writeNPY(filepath.Join(dir, features, name), checkpoint.F32, shape, floatBytes(x)); err != nil {
			return err
		}
		return writeNPY(filepath.Join(dir, labels, name), checkpoint.I64, []int64{1},
			binary.LittleEndian.AppendUint64(nil, uint64(e.latents.Label(i))))
	})
}

// writeNPY writes a file of an export, whose folder is renamed and synced as a whole.
func writeNPY(path string, dtype checkpoint.DType, shape []int64, data []byte) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return encodeNPY(f, dtype, shape, data)
}

func encodeNPY(w io.Writer, dtype checkpoint.DType, shape []int64, data []byte) error {
	return numpy.EncodeNPY(w, checkpoint.Tensor{Info: checkpoint.Info{DType: dtype, Shape: shape}, Data: data})
}
