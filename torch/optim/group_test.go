package optim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
	"github.com/ditrun/ditrun/torch/philox"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// A network is a model of odd sizes, so that ranks cut its parameters anywhere, with a frozen table.
type network struct {
	Table *torch.Tensor `dit:"table,buffer"`
	In    nn.Linear     `dit:"in"`
	Mid   nn.Linear     `dit:"mid"`
	Out   nn.Linear     `dit:"out"`
}

const (
	networkBatch = 24 // divides by 2, 3 and 4 ranks and two passes
	smallBuckets = 3000
)

func newNetwork(s *torch.Scope, seed uint64) *network {
	m := &network{torch.Persist(s.Full(0.3, torch.Float32, 7)), nn.NewLinear(s, 7, 31), nn.NewLinear(s, 31, 37),
		nn.NewLinear(s, 37, 3)}
	for i, p := range nn.List(m)[1:] {
		x := s.PhiloxNormal(seed, philox.TagStartNoise, torch.From(s, []int64{int64(i)}, 1), s.Zeros(torch.Int64, 1),
			p.Tensor.Shape()...)
		s.NoGrad().Copy_(p.Tensor, s.MulScalar(s.Reshape(x, p.Tensor.Shape()...), 0.3))
	}
	return m
}

// loss is the mean over samples from to to of the batch of a step.
func (m *network) loss(s *torch.Scope, step, from, to int) *torch.Tensor {
	var indices []int64
	for i := from; i < to; i++ {
		indices = append(indices, int64(step*networkBatch+i))
	}
	step0, samples := s.Zeros(torch.Int64, 1), torch.From(s, indices, len(indices))
	x := s.PhiloxNormal(1, philox.TagStepNoise, step0, samples, 7)
	y := s.PhiloxNormal(2, philox.TagStepNoise, step0, samples, 3)
	h := s.GELU(m.In.Forward(s, s.Add(x, m.Table)))
	return s.MSELoss(m.Out.Forward(s, s.GELU(m.Mid.Forward(s, h))), y)
}

// A way to train.
type way struct {
	rank, ranks int     // which part of each batch
	passes      int     // in which to make it
	overlap     bool    // sums with the last pass
	maxNorm     float64 // of the gradients
}

// train makes steps first to last-1 and returns the norms of the gradients and of the change.
func (m *network) train(s *torch.Scope, o *optim.AdamW, first, last int, w way) (norms []float64) {
	for k := first; k < last; k++ {
		s.Sub(func(s *torch.Scope) *torch.Tensor {
			n := networkBatch / w.ranks / w.passes
			for i := range w.passes {
				begin := w.rank*networkBatch/w.ranks + i*n
				if w.overlap && i == w.passes-1 {
					o.LastBackward()
				}
				s.Backward(s.MulScalar(m.loss(s, k, begin, begin+n), 1/float64(w.passes)))
			}
			o.Watch()
			r := o.Step(s, optim.StepOptions{LR: torchtest.Scalar(s, 0.01), MaxNorm: w.maxNorm,
				EMADecay: torchtest.Scalar(s, 0.9)})
			if r.Skipped.Item() != 0 {
				panic("skipped")
			}
			norms = append(norms, r.Norm.Item(), o.Change(s).Item())
			return nil
		})
	}
	return norms
}

// write saves a snapshot as training does.
func write(s *torch.Scope, o *optim.AdamW, dir string, rank, ranks int) error {
	p, err := o.Snapshot(s)
	if err != nil {
		return err
	}
	defer p.Close()
	tensors, meta := p.Optimizer()
	if err := checkpoint.Write(filepath.Join(dir, fmt.Sprintf("optimizer-%03d-of-%03d.safetensors", rank, ranks)),
		tensors, meta); err != nil {
		return err
	}
	if (p.Weights() != nil) != (rank == 0) || (p.Averages() != nil) != (rank == 0) {
		return fmt.Errorf("rank %d: %d weights, %d averages", rank, len(p.Weights()), len(p.Averages()))
	}
	if rank > 0 {
		return nil
	}
	if err := checkpoint.Write(filepath.Join(dir, "model.safetensors"), p.Weights(), nil); err != nil {
		return err
	}
	return checkpoint.Write(filepath.Join(dir, "ema.safetensors"), p.Averages(), nil)
}

// read loads what write saved.
func read(t *testing.T, s *torch.Scope, m *network, o *optim.AdamW, dir string) error {
	var files []checkpoint.Source
	names, err := filepath.Glob(filepath.Join(dir, "optimizer-*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		files = append(files, torchtest.Open(t, name).File)
	}
	if err := nn.Load(s, m, torchtest.Open(t, filepath.Join(dir, "model.safetensors")), false); err != nil {
		return err
	}
	return o.Load(s, files, torchtest.Open(t, filepath.Join(dir, "ema.safetensors")))
}

func folder(t *testing.T, parts ...string) string {
	t.Helper()
	dir := filepath.Join(parts...)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// contents reads the folder that write wrote into an optimizer of one process and returns everything
// by name.
func contents(t *testing.T, s *torch.Scope, dir string) (out []nn.Param) {
	m := newNetwork(s, 9)
	defer nn.Close(m)
	o, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig, optim.Sharding{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := read(t, s, m, o, dir); err != nil {
		t.Fatal(err)
	}
	for prefix, params := range map[string][]nn.Param{"": nn.List(m), "ema.": o.EMA(s), "state.": o.State(s)} {
		for _, p := range params {
			out = append(out, nn.Param{Name: prefix + p.Name, Tensor: s.NoGrad().Clone(p.Tensor)})
		}
	}
	slices.SortFunc(out, func(a, b nn.Param) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// How ranks may train together. All ways give the same; where only sums of two numbers differ in their
// order, bit for bit.
var ways = map[string]struct {
	bucketBytes    int
	plain, overlap bool
	maxNorm        float64
}{
	"zero":       {bucketBytes: smallBuckets, overlap: true, maxNorm: 0.3},
	"plain":      {bucketBytes: smallBuckets, overlap: true, maxNorm: 0.3, plain: true},
	"free":       {bucketBytes: smallBuckets, overlap: true},
	"free,late":  {bucketBytes: smallBuckets},
	"free,one":   {overlap: true},
	"free,plain": {bucketBytes: smallBuckets, overlap: true, plain: true},
}

// Two and four processes train as one does with all their samples; a number that is none on one of them
// is skipped by all.
func TestRanksEqualOneProcess(t *testing.T) {
	const steps = 5
	if task, r := childRank(t); r != nil {
		trainAsRank(t, task, r, steps)
		return
	}
	dir := t.TempDir()
	torchtest.Run(t, func(s *torch.Scope) error {
		alone := map[float64][]nn.Param{}
		aloneNorms := map[float64][]float64{}
		for _, maxNorm := range []float64{0, 0.3} {
			m := newNetwork(s, 1)
			defer nn.Close(m)
			o, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig, optim.Sharding{})
			if err != nil {
				return err
			}
			defer o.Close()
			aloneNorms[maxNorm] = m.train(s, o, 0, steps, way{ranks: 1, passes: 1, maxNorm: maxNorm})
			at := folder(t, dir, fmt.Sprint("alone", maxNorm))
			if err := write(s, o, at, 0, 1); err != nil {
				return err
			}
			alone[maxNorm] = contents(t, s, at)
		}
		run := func(n int, name string) []nn.Param {
			at := folder(t, dir, fmt.Sprint(name, n))
			ranks(t, n, at, name)
			got, want := contents(t, s, at), alone[ways[name].maxNorm]
			for i, p := range got {
				if p.Name != want[i].Name {
					t.Fatalf("%s instead of %s", p.Name, want[i].Name)
				}
				if e := torchtest.Relative(s, p.Tensor, want[i].Tensor); !(e <= 1e-6) {
					t.Errorf("%s, %d ranks: %s: relative error %.2g", name, n, p.Name, e)
				}
			}
			sameOnAllRanks(t, at, n)
			var norms []float64
			if text, err := os.ReadFile(filepath.Join(at, "norms0")); err != nil {
				t.Fatal(err)
			} else if err := json.Unmarshal(text, &norms); err != nil {
				t.Fatal(err)
			}
			for i, v := range norms {
				if want := aloneNorms[ways[name].maxNorm][i]; !(math.Abs(v/want-1) <= 1e-6) {
					t.Errorf("%s, %d ranks: norm %d is %v, want %v", name, n, i, v, want)
				}
			}
			return got
		}
		run(2, "zero")
		want := run(2, "free")
		for _, name := range []string{"free,late", "free,one", "free,plain"} {
			for i, p := range run(2, name) {
				if !bytes.Equal(p.Tensor.Bytes(), want[i].Tensor.Bytes()) {
					t.Errorf("%s: %s differs from that of ZeRO-1 in small buckets with overlap", name, p.Name)
				}
			}
		}
		run(4, "zero")
		run(4, "plain")
		return nil
	})
}

// trainAsRank is what each rank does, by way of the task.
func trainAsRank(t *testing.T, task string, r *rank, steps int) {
	w := ways[task]
	before := torch.Live()
	torchtest.Run(t, func(s *torch.Scope) error {
		m := newNetwork(s, uint64(1+r.rank)) // all take the first rank's
		defer nn.Close(m)
		o, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig,
			optim.Sharding{Group: r.Group, BucketBytes: w.bucketBytes, Plain: w.plain})
		if err != nil {
			return err
		}
		defer o.Close()
		start := everything(s, o, nn.List(m))
		for bad := range r.size {
			s.Sub(func(s *torch.Scope) *torch.Tensor {
				loss := m.loss(s, 0, 0, 2)
				if r.rank == bad {
					loss = s.MulScalar(loss, math.NaN())
				}
				s.Backward(loss)
				if skipped := o.Step(s, optim.StepOptions{LR: torchtest.Scalar(s, 1), MaxNorm: w.maxNorm,
					EMADecay: torchtest.Scalar(s, 0.5)}).Skipped.Item(); skipped != 1 {
					t.Errorf("rank %d had a NaN: skipped %v", bad, skipped)
				}
				s.Backward(m.loss(s, 0, 0, 2))
				var skip *torch.Tensor
				if r.rank == bad {
					skip = s.Ones(torch.Float32)
				}
				if skipped := o.Step(s, optim.StepOptions{LR: torchtest.Scalar(s, 1),
					EMADecay: torchtest.Scalar(s, 0.5), Skip: skip}).Skipped.Item(); skipped != 1 {
					t.Errorf("rank %d skips: skipped %v", bad, skipped)
				}
				return nil
			})
		}
		if !sameBytes(start, everything(s, o, nn.List(m))) {
			t.Error("a skipped step changed something")
		}
		norms := m.train(s, o, 0, steps, way{r.rank, r.size, 2, w.overlap, w.maxNorm})
		text, err := json.Marshal(norms)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(r.dir, fmt.Sprint("norms", r.rank)), text, 0o666); err != nil {
			return err
		}
		if err := write(s, o, r.dir, r.rank, r.size); err != nil {
			return err
		}
		// Every rank has all weights, and gathers all averages.
		all := nn.State(m)
		for _, p := range o.EMA(s) {
			all = append(all, checkpoint.Tensor{Info: checkpoint.Info{Name: "ema." + p.Name, DType: checkpoint.F32,
				Shape: []int64{int64(p.Tensor.NumElements())}}, Data: p.Tensor.Bytes()})
		}
		return checkpoint.Write(filepath.Join(r.dir, fmt.Sprint("all", r.rank)), all, nil)
	})
	if n := torch.Live() - before; n != 0 {
		t.Errorf("%d tensors left", n)
	}
}

// NCCL in the place of Gloo: on two ranks each sum is of two numbers, so both give the same bits.
func TestRanksOverNCCL(t *testing.T) {
	const steps = 3
	if task, r := childRank(t); r != nil {
		trainAsRank(t, task, r, steps)
		return
	}
	fake := torchtest.FakeNCCL(t)
	torchtest.Run(t, func(s *torch.Scope) error {
		dir := t.TempDir()
		run := func(backend, task string) []nn.Param {
			at := folder(t, dir, backend, task)
			ranks(t, 2, at, task)
			sameOnAllRanks(t, at, 2)
			return contents(t, s, at)
		}
		gloo := run("gloo", "free")
		t.Setenv("LD_LIBRARY_PATH", fake)
		t.Setenv(torchtest.BackendVar, "nccl:cpu")
		for _, task := range []string{"free", "free,late", "free,plain"} {
			for i, p := range run("nccl", task) {
				if p.Name != gloo[i].Name || !bytes.Equal(p.Tensor.Bytes(), gloo[i].Tensor.Bytes()) {
					t.Errorf("%s: %s over NCCL differs from %s over Gloo", task, p.Name, gloo[i].Name)
				}
			}
		}
		return nil
	})
}

// sameOnAllRanks compares what n ranks wrote of norms, weights and averages.
func sameOnAllRanks(t *testing.T, dir string, n int) {
	t.Helper()
	read := func(name string, rank int) []byte {
		text, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(name, rank)))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for rank := range n {
		for _, name := range []string{"norms", "all"} {
			if !bytes.Equal(read(name, rank), read(name, 0)) {
				t.Errorf("%s: %s of rank %d differ from those of rank 0", dir, name, rank)
			}
		}
	}
	all := torchtest.Open(t, filepath.Join(dir, "all0"))
	for file, prefix := range map[string]string{"model": "", "ema": "ema."} {
		f := torchtest.Open(t, filepath.Join(dir, file+".safetensors"))
		for _, info := range f.Tensors() {
			saved, err := f.Read(info.Name)
			if err != nil {
				t.Fatal(err)
			}
			if have, err := all.Read(prefix + info.Name); err != nil || !bytes.Equal(saved, have) {
				t.Errorf("%s: %s of %s differs from that of the ranks (%v)", dir, info.Name, file, err)
			}
		}
	}
}

// moveState is a rank that reads what was saved, trains or does not, and saves. A task is FROM>TO, two folders.
func moveState(t *testing.T, task string, r *rank) {
	from, to, _ := strings.Cut(task, ">")
	w := way{r.rank, r.size, 1, true, 0.3}
	torchtest.Run(t, func(s *torch.Scope) error {
		m := newNetwork(s, 5)
		defer nn.Close(m)
		o, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig,
			optim.Sharding{Group: r.Group, BucketBytes: smallBuckets / r.size, Plain: to == "plain"})
		if err != nil {
			return err
		}
		defer o.Close()
		switch from {
		case "":
			m.train(s, o, 0, 3, w)
		default:
			if err := read(t, s, m, o, filepath.Join(r.dir, from)); err != nil {
				return err
			}
		}
		if err := write(s, o, folder(t, r.dir, to), r.rank, r.size); err != nil {
			return err
		}
		if to != "first" && to != "last" {
			return nil
		}
		m.train(s, o, 3, 5, w)
		return write(s, o, folder(t, r.dir, to+"+"), r.rank, r.size)
	})
}

// What four ranks saved goes through two, three, one and plain ones and back to four without the change
// of a bit, and training goes on as if nothing had been.
func TestStateMovesBetweenWorldSizes(t *testing.T) {
	if task, r := childRank(t); r != nil {
		moveState(t, task, r)
		return
	}
	dir := t.TempDir()
	torchtest.Run(t, func(s *torch.Scope) error {
		ranks(t, 4, dir, ">first")
		ranks(t, 2, dir, "first>two")
		ranks(t, 3, dir, "two>three")
		// One process.
		m := newNetwork(s, 6)
		defer nn.Close(m)
		o, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig, optim.Sharding{})
		if err != nil {
			return err
		}
		defer o.Close()
		if err := read(t, s, m, o, filepath.Join(dir, "three")); err != nil {
			return err
		}
		if err := write(s, o, folder(t, dir, "one"), 0, 1); err != nil {
			return err
		}
		ranks(t, 2, dir, "one>plain")
		ranks(t, 4, dir, "plain>last")

		want := contents(t, s, filepath.Join(dir, "first"))
		for _, name := range []string{"two", "three", "one", "plain", "last"} {
			for i, p := range contents(t, s, filepath.Join(dir, name)) {
				if !bytes.Equal(p.Tensor.Bytes(), want[i].Tensor.Bytes()) {
					t.Errorf("%s: %s differs", name, p.Name)
				}
			}
		}
		on := contents(t, s, filepath.Join(dir, "first+"))
		for i, p := range contents(t, s, filepath.Join(dir, "last+")) {
			if !bytes.Equal(p.Tensor.Bytes(), on[i].Tensor.Bytes()) {
				t.Errorf("training on: %s differs", p.Name)
			}
		}
		stateThatDoesNotFit(t, s, dir, m, o)
		return nil
	})
}

// stateThatDoesNotFit loads files that do not make one state.
func stateThatDoesNotFit(t *testing.T, s *torch.Scope, dir string, m *network, o *optim.AdamW) {
	t.Helper()
	open := func(names ...string) (out []checkpoint.Source) {
		for _, name := range names {
			out = append(out, torchtest.Open(t, filepath.Join(dir, name+".safetensors")).File)
		}
		return out
	}
	ema := open("first/ema")[0]
	before := everything(s, o, nn.List(m))
	for problem, files := range map[string][]checkpoint.Source{
		"optimizer state: no files":                       nil,
		"are in no file: want the files of all processes": open("two/optimizer-001-of-002"),
		"are in two files: want each file once": open("two/optimizer-000-of-002",
			"two/optimizer-001-of-002", "two/optimizer-001-of-002"),
		"optimizer-001-of-004.safetensors is of another step": open("two/optimizer-000-of-002",
			"first+/optimizer-001-of-004"),
	} {
		if err := o.Load(s, files, ema); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("error %v, want %q", err, problem)
		}
	}
	if err := o.Load(s, open("two/optimizer-000-of-002", "two/optimizer-001-of-002"),
		open("two/optimizer-000-of-002")[0]); err == nil ||
		!strings.Contains(err.Error(), "ema: weights do not fit") {
		t.Errorf("averages that are none: %v", err)
	}
	if !sameBytes(before, everything(s, o, nn.List(m))) {
		t.Error("a load that failed changed something")
	}
}

func TestRanksMustAgree(t *testing.T) {
	if _, r := childRank(t); r != nil {
		torchtest.Run(t, func(s *torch.Scope) error {
			m := newNetwork(s, 1)
			defer nn.Close(m)
			_, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig,
				optim.Sharding{Group: r.Group, BucketBytes: smallBuckets << r.rank})
			if err == nil || !strings.Contains(err.Error(),
				"do not train the same model in the same buckets: this one has 7 parameters, 1") {
				t.Errorf("buckets of two sizes: %v", err)
			}
			return nil
		})
		return
	}
	ranks(t, 2, t.TempDir(), "agree")
}

// A rank that is killed ends the others' step with an error that names it.
func TestKilledRankEndsTheStep(t *testing.T) {
	if _, r := childRank(t); r != nil {
		torchtest.Run(t, func(s *torch.Scope) error {
			m := newNetwork(s, 1)
			defer nn.Close(m)
			o, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig,
				optim.Sharding{Group: r.Group, BucketBytes: smallBuckets})
			if err != nil {
				return err
			}
			defer o.Close()
			w := way{r.rank, r.size, 1, true, 0}
			for step := range 8 {
				r.AtStep(step)
				time.Sleep(250 * time.Millisecond) // for the watchdog to say so
				if step == 6 && r.rank == 1 {
					syscall.Kill(os.Getpid(), syscall.SIGKILL)
				}
				if err = s.Try(func(s *torch.Scope) error { m.train(s, o, step, step+1, w); return nil }); err != nil {
					break
				}
			}
			if err == nil {
				t.Error("the steps of a group with a dead rank succeeded")
			}
			fmt.Println("ended:", r.Fail(err))
			return nil
		})
		return
	}
	start := time.Now()
	out := ranks(t, 3, t.TempDir(), "kill", 1)
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("the others ended after %v", took)
	}
	for _, r := range []int{0, 2} {
		for _, want := range []string{fmt.Sprintf("ended: rank %d of 3: torch: AdamW.Step: ", r),
			": rank 1 has not been heard of for ", "its last step was 6\n"} {
			if !strings.Contains(out[r], want) || strings.Contains(out[r], "/pytorch/") {
				t.Errorf("rank %d: want %q in\n%s", r, want, out[r])
			}
		}
	}
}

// What a group asks of its callers, in a group of one.
func TestGroupErrors(t *testing.T) {
	before := torch.Live()
	torchtest.Run(t, func(s *torch.Scope) error {
		m := newNetwork(s, 1)
		defer nn.Close(m)
		o, err := optim.NewAdamWIn(nn.List(m), optim.DefaultConfig, optim.Sharding{BucketBytes: smallBuckets},
			groupOfOne(t))
		if err != nil {
			return err
		}
		fails := func(what, want string, f func(s *torch.Scope)) {
			t.Helper()
			err := s.Try(func(s *torch.Scope) error { f(s); return nil })
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want one with %q", what, err, want)
			}
		}
		step := func(s *torch.Scope) {
			o.Step(s, optim.StepOptions{LR: torchtest.Scalar(s, 0.1), EMADecay: torchtest.Scalar(s, 0.5)})
		}
		first := func(s *torch.Scope) *torch.Tensor { return s.Sum(s.Square(m.In.Weight)) }
		last := func(s *torch.Scope) *torch.Tensor {
			// the first bucket
			return s.Add(s.Sum(s.Square(m.Out.Weight)), s.Add(s.Sum(s.Square(m.Out.Bias)), s.Sum(s.Square(m.Mid.Bias))))
		}
		fails("no backward pass", "6 trained parameters without a gradient", step)
		o.LastBackward()
		s.Backward(first(s))
		fails("gradients of one parameter only",
			"5 trained parameters without a gradient, which all ranks must have for all: in.bias, mid.weight", step)
		o.ZeroGrad()
		// What the last pass lacks came in the one before, or comes in another part of it.
		s.Backward(m.loss(s, 0, 0, 4))
		o.LastBackward()
		s.Backward(last(s))
		s.Backward(first(s))
		fails("one pass more", "another gradient when the sum over the ranks has begun",
			func(s *torch.Scope) { s.Backward(last(s)) })
		step(s)
		s.Backward(m.loss(s, 0, 0, 4)) // the step has ended the last pass: this is a first one
		s.Backward(m.loss(s, 0, 0, 4))
		step(s)
		if n := o.State(s)[0].Tensor.Item(); n != 2 {
			t.Errorf("%v steps, want 2", n)
		}
		o.Close()
		s.Backward(first(s)) // the parameter has no hook left
		if s.Grad(m.In.Weight) == nil {
			t.Error("no gradient after the optimizer was closed")
		}
		if _, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig, optim.Sharding{BucketBytes: -1}); err == nil ||
			!strings.Contains(err.Error(), "buckets of -1 bytes") {
			t.Errorf("buckets of -1 bytes: %v", err)
		}
		return nil
	})
	if n := torch.Live() - before; n != 0 {
		t.Errorf("%d tensors left", n)
	}
}
