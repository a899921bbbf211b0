package evaluation

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/ditrun/ditrun/diffusion/metrics"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/numpy"
)

// most bounds what a file of features or statistics may ask for: rows, and numbers in all.
const (
	mostFeatures = 1 << 14 // of a picture
	mostNumbers  = 1 << 34
)

// openNPZ opens a file of pictures, of features or of statistics.
func (s *Set) openNPZ(path string) error {
	f, err := numpy.OpenNPZ(path)
	if err != nil {
		return err
	}
	kept := false
	defer func() {
		if !kept {
			f.Close()
		}
	}()
	list := f.Names()
	for _, n := range statisticNames {
		if !slices.Contains(list, n.mean) && !slices.Contains(list, n.cov) {
			continue
		}
		st, err := readStatistics(f, path, n.mean, n.cov)
		if err != nil {
			return err
		}
		s.statistics[n.kind] = st
	}
	for _, name := range []string{"arr_0", foreign} {
		if !slices.Contains(list, name) {
			continue
		}
		r, err := f.Open(name)
		if err != nil {
			return err
		}
		switch {
		case r.DType == checkpoint.U8 && len(r.Shape) == 4 && r.Shape[3] == 3:
			s.pictures, err = newStored(f, path, r)
			kept = err == nil
			s.info.Count = int(r.Shape[0])
		case isFloat(r.DType) && len(r.Shape) == 2:
			err = s.readRows(r, path)
		default:
			err = fmt.Errorf("array %s is %s %v: %w", name, r.DType, r.Shape, errNothing)
		}
		r.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	if len(s.statistics) == 0 {
		return fmt.Errorf("%s: holds %s: %w", path, names.Few(list), errNothing)
	}
	return nil
}

// readStatistics reads a mean and a covariance.
func readStatistics(f *numpy.NPZ, path, mean, cov string) (st statistic, err error) {
	if st.mean, err = readFloats(f, mean, func(shape []int64) error {
		if len(shape) != 1 || shape[0] < 1 || shape[0] > mostFeatures {
			return fmt.Errorf("shape %v, want [D], D up to %d", shape, mostFeatures)
		}
		return nil
	}); err != nil {
		return st, err
	}
	d := int64(len(st.mean))
	st.cov, err = readFloats(f, cov, func(shape []int64) error {
		if len(shape) != 2 || shape[0] != d || shape[1] != d {
			return fmt.Errorf("shape %v, and %s has %d numbers: want [%d, %d]", shape, mean, d, d, d)
		}
		return nil
	})
	return st, err
}

// readFloats reads an array of which check accepts the shape.
func readFloats(f *numpy.NPZ, name string, check func(shape []int64) error) ([]float64, error) {
	r, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if !isFloat(r.DType) {
		err = fmt.Errorf("%s, want float32 or float64", r.DType)
	} else {
		err = check(r.Shape)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: array %s: %w", f.Path(), name, err)
	}
	out := make([]float64, 0, r.NumElements())
	err = eachFloat(r, r.DType, func(v float64) { out = append(out, v) })
	if err != nil {
		return nil, fmt.Errorf("%s: array %s: %w", f.Path(), name, err)
	}
	return out, nil
}

func isFloat(d checkpoint.DType) bool {
	return d == checkpoint.F32 || d == checkpoint.F64 || d == checkpoint.F16
}

// eachFloat calls found with every number that r holds.
func eachFloat(r io.Reader, d checkpoint.DType, found func(float64)) error {
	size := d.Size()
	b := make([]byte, size<<13)
	for {
		n, err := io.ReadFull(r, b)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		if n%size != 0 {
			return io.ErrUnexpectedEOF
		}
		for at := 0; at < n; at += size {
			switch d {
			case checkpoint.F64:
				found(math.Float64frombits(binary.LittleEndian.Uint64(b[at:])))
			case checkpoint.F32:
				found(float64(math.Float32frombits(binary.LittleEndian.Uint32(b[at:]))))
			default:
				found(float64(checkpoint.FromFloat16(binary.LittleEndian.Uint16(b[at:]))))
			}
		}
		if err != nil {
			return nil
		}
	}
}

// openNPY opens a file of features.
func (s *Set) openNPY(path string) error {
	r, err := numpy.OpenNPY(path)
	if err != nil {
		return err
	}
	defer r.Close()
	if !isFloat(r.DType) || len(r.Shape) != 2 {
		return fmt.Errorf("%s: the array is %s %v, want features: float [N, D]", path, r.DType, r.Shape)
	}
	if err := s.readRows(r, path); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// readRows reads features of an unknown network [N, D].
func (s *Set) readRows(r *numpy.Reader, path string) error {
	if err := checkRows(r.Shape); err != nil {
		return err
	}
	f := metrics.Features{N: int(r.Shape[0]), D: int(r.Shape[1]), Data: make([]float32, 0, r.NumElements())}
	if err := eachFloat(r, r.DType, func(v float64) { f.Data = append(f.Data, float32(v)) }); err != nil {
		return err
	}
	return s.keep(foreign, f)
}

func checkRows(shape []int64) error {
	if len(shape) != 2 || shape[0] < 1 || shape[1] < 1 || shape[1] > mostFeatures || shape[0] > mostNumbers/shape[1] {
		return fmt.Errorf("features %v: want [N, D], D up to %d", shape, mostFeatures)
	}
	return nil
}

// keep takes features, which are all of as many pictures.
func (s *Set) keep(kind string, f metrics.Features) error {
	if err := f.Check(); err != nil {
		return err
	}
	if s.info.Count != 0 && s.info.Count != f.N {
		return fmt.Errorf("%s of %d pictures, and others of %d", wordOf(kind), f.N, s.info.Count)
	}
	s.features[kind], s.info.Count = f, f.N
	return nil
}

// featuresKey is where a file of features says what they are of.
const featuresKey = "ditrun.features"

// openSafetensors opens features that Save wrote, or one tensor [N, D] of another program.
func (s *Set) openSafetensors(path string) error {
	f, err := checkpoint.OpenSafetensors(path)
	if err != nil {
		return err
	}
	defer f.Close()
	tensors := f.Tensors()
	if text := f.Metadata()[featuresKey]; text != "" {
		var info SetInfo
		if err := json.Unmarshal([]byte(text), &info); err != nil {
			return fmt.Errorf("%s: metadata %s: %w", path, featuresKey, err)
		}
		info.Path, info.Count = path, 0
		s.info = info
	} else if len(tensors) != 1 {
		return fmt.Errorf("%s: holds %s, want one of features [N, D]", path, names.Plural(len(tensors), "tensor"))
	}
	for _, t := range tensors {
		kind := t.Name
		switch {
		case s.info.Inception == "":
			kind = foreign
		case kind != pool && kind != spatial && kind != probabilities:
			return fmt.Errorf("%s: tensor %q is none of the features that ditrun saves", path, kind)
		}
		err := checkRows(t.Shape)
		if !isFloat(t.DType) && t.DType != checkpoint.BF16 {
			err = fmt.Errorf("%s, want a float type", t.DType)
		}
		if err != nil {
			return fmt.Errorf("%s: tensor %s: %w", path, t.Name, err)
		}
		data, err := checkpoint.Floats(f, t.Name)
		if err == nil {
			err = s.keep(kind, metrics.Features{N: int(t.Shape[0]), D: int(t.Shape[1]), Data: data})
		}
		if err != nil {
			return fmt.Errorf("%s: tensor %s: %w", path, t.Name, err)
		}
	}
	return f.Verify()
}

// Save writes the features that [Evaluate] had made of the pictures, with what they are of, for Open.
func (s *Set) Save(path string) error {
	if s.pictures == nil || len(s.features) == 0 {
		return fmt.Errorf("%s: no features were made of %s", path, s.info.Path)
	}
	var tensors []checkpoint.Tensor
	for _, kind := range []string{pool, spatial, probabilities} {
		f, ok := s.features[kind]
		if !ok {
			continue
		}
		tensors = append(tensors, checkpoint.Tensor{Info: checkpoint.Info{Name: kind, DType: checkpoint.F32,
			Shape: []int64{int64(f.N), int64(f.D)}}, Data: checkpoint.EncodeFloats(f.Data, checkpoint.F32)})
	}
	text, err := json.Marshal(s.info)
	if err != nil {
		return err
	}
	return checkpoint.Write(path, tensors, map[string]string{featuresKey: string(text)})
}
