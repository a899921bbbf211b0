package interop

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// datasetJSON holds {"labels": [["00000/img-mean-std-00000000.npy", 3], ...]}.
const datasetJSON = "dataset.json"

// maxJSON is above that of ImageNet, 60 MB.
const maxJSON = 1 << 30

func openFolder(ctx context.Context, dir string) (*Set, error) {
	return openEDM2(ctx, os.DirFS(dir), nil)
}

func openZip(ctx context.Context, path string) (*Set, error) {
	z, err := zip.OpenReader(path)
	if err != nil {
		return nil, fmt.Errorf("neither a folder nor a zip archive: %w", disk.Bare(err))
	}
	s, err := openEDM2(ctx, z, z.Close)
	if err != nil {
		z.Close()
	}
	return s, err
}

func openEDM2(ctx context.Context, fsys fs.FS, closer func() error) (*Set, error) {
	text, err := readFile(fsys, datasetJSON, maxJSON)
	if err != nil {
		return nil, err
	}
	var list struct {
		Labels [][2]json.RawMessage `json:"labels"`
	}
	if text, err = disk.PlainText(text); err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", datasetJSON, err)
	}
	if len(list.Labels) == 0 {
		return nil, fmt.Errorf("%s: no labels", datasetJSON)
	}
	s := &Set{Kind: EDM2, std: true}
	listed := map[string]bool{}
	for i, pair := range list.Labels {
		var name string
		var label int64
		if json.Unmarshal(pair[0], &name) != nil || json.Unmarshal(pair[1], &label) != nil {
			return nil, fmt.Errorf("%s: label %d: want [name, number]", datasetJSON, i)
		}
		if !fs.ValidPath(name) { // it could lead out of the folder
			return nil, fmt.Errorf("%s: label %d: %.100q is no path within the set", datasetJSON, i, name)
		}
		if listed[name] {
			return nil, fmt.Errorf("%s: %.100q has two labels", datasetJSON, name)
		}
		listed[name] = true
		s.names, s.Labels = append(s.names, name), append(s.Labels, label)
	}
	// Their data sets take the records from the files, and want a label for each.
	if n, err := countArrays(ctx, fsys); err != nil {
		return nil, err
	} else if n != len(s.names) {
		return nil, fmt.Errorf("%s, %s has labels of %d", names.Plural(n, ".npy file"), datasetJSON, len(s.names))
	}
	first, err := readArray(fsys, s.names[0], nil)
	if err != nil {
		return nil, err
	}
	if err := s.setShape(first.Shape); err != nil {
		return nil, fmt.Errorf("%s: %w", s.names[0], err)
	}
	s.read = arrayReader(fsys, s.names, first.Shape)
	if closer != nil {
		s.closers = append(s.closers, closer)
	}
	return s, nil
}

// countArrays counts the .npy files of a set.
func countArrays(ctx context.Context, fsys fs.FS) (n int, err error) {
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && !d.IsDir() && strings.HasSuffix(name, ".npy") {
			n++
		}
		return err
	})
	return n, err
}

// writeEDM2 writes mean and standard deviation of the plain view, through create, which makes a file.
func (e *exporter) writeEDM2(create func(name string) (io.WriteCloser, error)) error {
	m := e.latents.Manifest()
	n := m.Channels * m.Height * m.Width
	shape := []int64{int64(2 * m.Channels), int64(m.Height), int64(m.Width)}
	record := make([]float32, 2*n)
	var list struct {
		Labels [][2]any `json:"labels"`
	}
	write := func(name string, to func(io.Writer) error) error {
		f, err := create(name)
		if err != nil {
			return err
		}
		return errors.Join(to(f), f.Close())
	}
	err := e.each(func(i int) error {
		if err := e.latents.Read(i, false, record); err != nil {
			return err
		}
		for j := n; j < 2*n; j++ {
			record[j] = float32(math.Exp(float64(record[j]) / 2))
		}
		name := fmt.Sprintf("%05d/img-mean-std-%08d.npy", i/1000, i)
		list.Labels = append(list.Labels, [2]any{name, e.latents.Label(i)})
		return write(name, func(w io.Writer) error { return encodeNPY(w, checkpoint.F32, shape, floatBytes(record)) })
	})
	if err != nil {
		return err
	}
	return write(datasetJSON, func(w io.Writer) error { return json.NewEncoder(w).Encode(list) })
}

// inFolder makes the files of an export below dir.
func inFolder(dir string) func(name string) (io.WriteCloser, error) {
	return func(name string) (io.WriteCloser, error) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return nil, err
		}
		return os.Create(path)
	}
}

// inZip makes them members of an archive, not compressed, as edm2 wants it.
func inZip(z *zip.Writer) func(name string) (io.WriteCloser, error) {
	return func(name string) (io.WriteCloser, error) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		return unclosed{w}, err
	}
}

type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }
