package optim

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/internal/native"
)

// Load restores what [Snapshot.Optimizer] returned, from the files of all processes of the run that saved, however
// many they were, and the averages from ema. Nothing is changed unless every element is there exactly once. A file
// whose contents have changed since it was written is an error too, which comes last: the state is of no use then.
func (o *AdamW) Load(s *torch.Scope, files []checkpoint.Source, ema checkpoint.Source) error {
	step, state, err := join(files)
	if err == nil {
		err = o.fits(state)
	}
	if err != nil {
		return fmt.Errorf("optimizer state: %w", err)
	}
	averages, err := o.averages(ema)
	if err != nil {
		return fmt.Errorf("ema: %w", err)
	}
	held := o.layout.held()
	moments := slices.DeleteFunc(slices.Clone(held), func(p piece) bool { return o.layout.bucket[p.param] < 0 })
	for _, load := range []struct {
		buffer native.Buffer
		pieces []piece
		prefix string
		from   map[string]joined
	}{
		{native.ExpAvg, moments, expAvg, state},
		{native.ExpAvgSq, moments, expAvgSq, state},
		{native.EMA, held, "", averages},
	} {
		for _, p := range load.pieces {
			name := load.prefix + o.params[p.param].Name
			err := s.NoGrad().Try(func(s *torch.Scope) error {
				x := s.Narrow(o.fused.Buffer(s, load.buffer), 0, p.at, p.length)
				return x.Fill(func(b []byte, off int64) error {
					return load.from[name].ReadAt(b, 4*int64(p.offset)+off)
				})
			})
			if err != nil {
				return fmt.Errorf("tensor %q: %w", name, err)
			}
		}
	}
	for _, f := range append(files[:len(files):len(files)], ema) {
		if err := f.Verify(); err != nil {
			return err
		}
	}
	return s.NoGrad().Try(func(s *torch.Scope) error {
		o.fused.Buffer(s, native.StepCount).CopyFromBytes(step)
		o.fused.Renew()
		return nil
	})
}

// joined is a tensor that lies in one or several files.
type joined struct {
	total int64 // elements
	shape []int64
	spans []span
}

// A span is a run of a tensor's elements in one file.
type span struct {
	src            checkpoint.Source
	name           string
	offset, length int64
}

// ReadAt fills p with the tensor's bytes from off on.
func (j joined) ReadAt(p []byte, off int64) error {
	for _, s := range j.spans {
		from, to := max(off, 4*s.offset), min(off+int64(len(p)), 4*(s.offset+s.length))
		if from >= to {
			continue
		}
		if err := s.src.ReadAt(p[from-off:to-off], s.name, from-4*s.offset); err != nil {
			return err
		}
	}
	return nil
}

// join finds the tensors of all files, and the step count, which must be the same in all.
func join(files []checkpoint.Source) (step []byte, state map[string]joined, err error) {
	if len(files) == 0 {
		return nil, nil, errors.New("no files")
	}
	state = map[string]joined{}
	for i, f := range files {
		fileName := fmt.Sprintf("file %d of %d", i+1, len(files))
		if f, ok := f.(interface{ Path() string }); ok {
			fileName = filepath.Base(f.Path())
		}
		count, ok := f.Lookup(stepName)
		if !ok || count.DType != checkpoint.F32 || len(count.Shape) != 0 {
			return nil, nil, fmt.Errorf("%s holds no step count: want a file that the optimizer wrote, with a "+
				"scalar %q of type F32", fileName, stepName)
		}
		have, err := checkpoint.Read(f, stepName)
		if err != nil {
			return nil, nil, err
		}
		if step == nil {
			step = have
		} else if !bytes.Equal(step, have) {
			return nil, nil, fmt.Errorf(
				"%s is of another step than the first of %d files: want those of one checkpoint", fileName, len(files))
		}
		cut, err := cutTensors(f)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", fileName, err)
		}
		for _, info := range f.Tensors() {
			if info.Name == stepName {
				continue
			}
			if info.DType != checkpoint.F32 {
				return nil, nil, fmt.Errorf("tensor %q: elements of type %s, want F32", info.Name, info.DType)
			}
			at := span{f, info.Name, 0, info.NumElements()}
			j := joined{total: at.length, shape: info.Shape}
			if where, ok := cut[info.Name]; ok {
				at.offset, j.total, j.shape = where[0], where[1], nil
				if at.offset < 0 || at.offset > j.total-at.length {
					return nil, nil, fmt.Errorf("tensor %q: %d elements at %d do not lie in %d", info.Name, at.length,
						at.offset, j.total)
				}
			}
			if before, ok := state[info.Name]; ok {
				if before.total != j.total {
					return nil, nil, fmt.Errorf("tensor %q has %d elements in one file, %d in another", info.Name,
						before.total, j.total)
				}
				j = before
			}
			j.spans = append(j.spans, at)
			state[info.Name] = j
		}
	}
	return step, state, nil
}

// cutTensors returns the offset and the size of the whole of those tensors of f that are not whole.
func cutTensors(f checkpoint.Source) (map[string][2]int64, error) {
	var cut map[string][2]int64
	if f, ok := f.(interface{ Metadata() map[string]string }); ok {
		if text, ok := f.Metadata()[piecesKey]; ok {
			if err := json.Unmarshal([]byte(text), &cut); err != nil {
				return nil, fmt.Errorf("metadata %q: %w", piecesKey, err)
			}
		}
	}
	return cut, nil
}

// fits compares the state that the files hold with the optimizer's parameters. It puts the spans in order.
func (o *AdamW) fits(state map[string]joined) error {
	var wrong checkpoint.Mismatch
	wanted := map[string]bool{}
	for _, p := range o.params {
		if !p.Tensor.RequiresGrad() {
			continue
		}
		for _, name := range []string{expAvg + p.Name, expAvgSq + p.Name} {
			wanted[name] = true
			j, ok := state[name]
			if !ok {
				wrong.Missing = append(wrong.Missing, name)
			} else if problem := j.problem(p.Tensor); problem != "" {
				wrong.Wrong = append(wrong.Wrong, fmt.Sprintf("%s (%s)", name, problem))
			}
		}
	}
	for name := range state {
		if !wanted[name] {
			wrong.Unexpected = append(wrong.Unexpected, name)
		}
	}
	slices.Sort(wrong.Unexpected)
	return wrong.Err()
}

// problem says what keeps j from being a tensor like p, "" if nothing does.
func (j joined) problem(p *torch.Tensor) string {
	same := slices.EqualFunc(j.shape, p.Shape(), func(a int64, b int) bool { return a == int64(b) })
	if j.shape != nil && !same {
		return fmt.Sprintf("have %v, want %v", j.shape, p.Shape())
	}
	if j.total != int64(p.NumElements()) {
		return fmt.Sprintf("have %d elements, want %v", j.total, p.Shape())
	}
	slices.SortFunc(j.spans, func(a, b span) int { return cmp.Compare(a.offset, b.offset) })
	end := int64(0)
	for _, s := range j.spans {
		if s.offset > end {
			return fmt.Sprintf("elements %d to %d are in no file: want the files of all processes", end, s.offset)
		}
		if s.offset < end {
			return fmt.Sprintf("elements %d to %d are in two files: want each file once", s.offset,
				min(end, s.offset+s.length))
		}
		end += s.length
	}
	if end < j.total {
		return fmt.Sprintf("elements %d to %d are in no file: want the files of all processes", end, j.total)
	}
	return ""
}

// averages finds the averages of all parameters in src.
func (o *AdamW) averages(src checkpoint.Source) (map[string]joined, error) {
	var wrong checkpoint.Mismatch
	out := map[string]joined{}
	for _, p := range o.params {
		info, ok := src.Lookup(p.Name)
		if !ok {
			wrong.Missing = append(wrong.Missing, p.Name)
			continue
		}
		j := joined{info.NumElements(), info.Shape, []span{{src, p.Name, 0, info.NumElements()}}}
		if info.DType != checkpoint.F32 {
			wrong.Wrong = append(wrong.Wrong, fmt.Sprintf("%s (elements of type %s, want F32)", p.Name, info.DType))
		} else if problem := j.problem(p.Tensor); problem != "" {
			wrong.Wrong = append(wrong.Wrong, fmt.Sprintf("%s (%s)", p.Name, problem))
		}
		out[p.Name] = j
	}
	for _, info := range src.Tensors() {
		if _, ok := out[info.Name]; !ok {
			wrong.Unexpected = append(wrong.Unexpected, info.Name)
		}
	}
	return out, wrong.Err()
}
