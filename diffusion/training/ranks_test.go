package training

import (
	"bytes"
	"cmp"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/internal/testtool"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// taskVar in the environment makes the test binary one process of a run.
const taskVar = "DITRUN_TEST_TRAINING"

// A task is a run of a process of its own. It goes on from the newest whole checkpoint.
type task struct {
	Config       Config
	Latents, Dir string
	From         string // where there is no checkpoint yet: the one to begin from, "" for none
	NaNStep      int    // the step in which the last rank meets a gradient that is no number, 0 for none
	StopAt       int    // the step after which the last rank is told to stop, 0 for none
	Unreadable   int    // the step whose batch the last rank cannot read, 0 for none

	// The step in which memory runs out, 0 for none: on the last rank behind its backward pass, with NoMemory0 on
	// rank 0 before its own. Rank Slow does not get on with finding out what fits until the file GoOn is there.
	NoMemoryStep int
	NoMemory0    bool
	Slow         int
	GoOn         string
}

// told is a line that a process of a task prints.
type told struct {
	Start  *int   `json:",omitempty"`
	Step   int    `json:",omitempty"`
	Record []byte `json:",omitempty"` // in gob, since JSON has no NaN
	Saved  int    `json:",omitempty"`
	Back   *int   `json:",omitempty"` // rolled back to
	Warn   string `json:",omitempty"`
	Error  string `json:",omitempty"`
}

func TestMain(m *testing.M) {
	if text := os.Getenv(taskVar); text != "" {
		os.Exit(runTask(text))
	}
	os.Exit(m.Run())
}

func runTask(text string) int {
	say := func(t told) {
		line, err := json.Marshal(t)
		if err != nil {
			panic(err)
		}
		os.Stdout.Write(append(line, '\n')) // in one call, so that a kill leaves no half of it behind a whole one
	}
	err := func() error {
		var t task
		if err := json.Unmarshal([]byte(text), &t); err != nil {
			return err
		}
		torch.SetNumThreads(1)
		l, err := latents.Open(t.Latents)
		if err != nil {
			return err
		}
		defer l.Close()
		env, err := dist.Detect(os.Getenv)
		if err != nil {
			return err
		}
		group, err := dist.Open(context.Background(), env, cmp.Or(os.Getenv(torchtest.BackendVar), "gloo"),
			10*time.Second, nil)
		if err != nil {
			return err
		}
		defer group.Close()
		resume, _, err := Newest(t.Dir)
		if err != nil {
			return err
		}
		resume = cmp.Or(resume, t.From)
		if err := group.Barrier(0); err != nil { // all have looked before the first writes
			return err
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		hooks := Hooks{
			Start: func(_, first, _ int) { say(told{Start: &first}) },
			Log: func(r Record) {
				var b bytes.Buffer
				if err := gob.NewEncoder(&b).Encode(r); err != nil {
					panic(err)
				}
				say(told{Record: b.Bytes()})
			},
			Saved:    func(_ string, step int) { say(told{Saved: step}) },
			Warn:     func(text string) { say(told{Warn: text}) },
			BadStep:  func(b BadStep) { say(told{Warn: fmt.Sprintf("step %d: %s", b.Step, b.Why)}) },
			Rollback: func(step int) { say(told{Back: &step}) },
			Step: func(step int) {
				if group.Rank() == 0 {
					say(told{Step: step})
				}
				if step == t.StopAt && group.Rank() == group.World()-1 {
					cancel(errors.New("told to stop"))
				}
			},
		}
		if group.Rank() > 0 {
			hooks.Start = nil
		}
		job := Job{Device: torch.CPU, Config: t.Config, Source: allOf(l), Dir: t.Dir, Resume: resume, Group: group,
			Hooks: hooks}
		if t.NaNStep > 0 && group.Rank() == group.World()-1 {
			job.poison = poisonAt(t.NaNStep)
		}
		if t.Unreadable > 0 && group.Rank() == group.World()-1 {
			job.Source = &faulty{Source: job.Source, step: t.Unreadable - 1,
				fails: func(int) error { return errors.New("a picture is gone") }}
		}
		if t.NoMemoryStep > 0 {
			t.runOutOfMemory(&job)
		}
		_, err = Run(ctx, job)
		return err
	}()
	if err != nil {
		say(told{Error: err.Error()})
		return 1
	}
	return 0
}

// poisonAt makes the gradient of the first block's qkv weight no number in the batch of one step.
func poisonAt(step int) func(r *runner, s *torch.Scope, batch int, loss *torch.Tensor) *torch.Tensor {
	return func(r *runner, s *torch.Scope, batch int, loss *torch.Tensor) *torch.Tensor {
		if batch == step-1 {
			loss = s.Add(loss, s.MulScalar(s.Sum(r.model.Blocks[0].(*dit.Block).Attn.QKV.Weight), math.NaN()))
		}
		return loss
	}
}

// runOutOfMemory makes the memory of a rank run out.
func (t task) runOutOfMemory(job *Job) {
	rank, last := job.Group.Rank(), job.Group.World()-1
	if rank < last && !(rank == 0 && t.NoMemory0) {
		return
	}
	full, calls := false, 0
	job.memory = func(int) error {
		if full && rank == t.Slow {
			for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if _, err := os.Stat(t.GoOn); err == nil {
					break
				}
			}
		}
		calls++
		if full = full || calls == t.NoMemoryStep; full && rank < last {
			return fmt.Errorf("allocate: %w", torch.ErrOutOfMemory)
		}
		return nil
	}
	if rank < last {
		return
	}
	first := true
	job.poison = func(r *runner, s *torch.Scope, batch int, loss *torch.Tensor) *torch.Tensor {
		if batch == t.NoMemoryStep-1 && first {
			first = false
			r.opt.LastBackward() // all buckets are on their way
			s.Backward(loss)
			s.Zeros(torch.Float32, 1<<50)
		}
		return loss
	}
}

// A child is a process of a task.
type child struct {
	cmd     *exec.Cmd
	out     bytes.Buffer
	started chan struct{} // closed when it begins to train; of rank 0
}

// Write takes what the process prints.
func (c *child) Write(p []byte) (int, error) {
	if c.out.Len() == 0 {
		close(c.started)
	}
	return c.out.Write(p)
}

// start starts world processes of a task.
func (t task) start(tb testing.TB, world int) []*child {
	tb.Helper()
	if err := torch.Available(); err != nil {
		testtool.Missing(tb, "libtorch is not there: ", err)
	}
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	text, err := json.Marshal(t)
	if err != nil {
		tb.Fatal(err)
	}
	port := testtool.FreePort(tb)
	children := make([]*child, world)
	for rank := range children {
		c := &child{cmd: exec.Command(self), started: make(chan struct{})}
		c.cmd.Env = append(os.Environ(), taskVar+"="+string(text), "OMP_NUM_THREADS=1", fmt.Sprintf("RANK=%d", rank),
			fmt.Sprintf("WORLD_SIZE=%d", world),
			fmt.Sprintf("LOCAL_RANK=%d", rank), fmt.Sprintf("LOCAL_WORLD_SIZE=%d", world), "MASTER_ADDR=127.0.0.1",
			fmt.Sprintf("MASTER_PORT=%d", port))
		c.cmd.Stdout, c.cmd.Stderr = c, os.Stderr
		if err := c.cmd.Start(); err != nil {
			tb.Fatal(err)
		}
		children[rank] = c
	}
	return children
}

// wait waits for the processes and returns what they said, by rank, and whether all ended well.
func wait(tb testing.TB, children []*child) (lines [][]told, ok bool) {
	tb.Helper()
	ok = true
	var wg sync.WaitGroup
	errs := make([]error, len(children))
	for i, c := range children {
		wg.Go(func() { errs[i] = c.cmd.Wait() })
	}
	wg.Wait()
	for i, c := range children {
		ok = ok && errs[i] == nil
		var said []told
		for line := range bytes.Lines(c.out.Bytes()) {
			var t told
			if json.Unmarshal(line, &t) == nil {
				said = append(said, t)
			}
		}
		lines = append(lines, said)
	}
	return lines, ok
}

// finish runs a task to its end.
func (t task) finish(tb testing.TB, world int) [][]told {
	tb.Helper()
	lines, ok := wait(tb, t.start(tb, world))
	if !ok {
		tb.Fatalf("%d processes failed: %s", world, complaints(lines))
	}
	return lines
}

func complaints(lines [][]told) string {
	var all []string
	for rank, said := range lines {
		for _, t := range said {
			if t.Error != "" {
				all = append(all, fmt.Sprintf("rank %d: %s", rank, t.Error))
			}
		}
	}
	return strings.Join(all, "\n")
}

func records(lines [][]told) (out []Record) {
	for _, t := range lines[0] {
		if r, ok := t.record(); ok {
			out = append(out, r)
		}
	}
	return out
}

func (t told) record() (r Record, ok bool) {
	return r, t.Record != nil && gob.NewDecoder(bytes.NewReader(t.Record)).Decode(&r) == nil
}

// newTask is a run of a small model on synthetic latents.
func newTask(tb testing.TB, steps int) task {
	l := synthetic(tb, syntheticPlan(60))
	t := task{Config: small(steps), Latents: l.Dir(), Dir: filepath.Join(tb.TempDir(), "checkpoints")}
	t.Config.GlobalBatchSize = 12
	return t
}

// in is the task in another folder.
func (t task) in(tb testing.TB) task {
	t.Dir = filepath.Join(tb.TempDir(), "checkpoints")
	return t
}

// TestProcessesEqualOne: two and four processes, and parts of a batch one after the other, train as one process
// with the whole batch does.
func TestProcessesEqualOne(t *testing.T) {
	one := newTask(t, 20)
	one.Config.MaxGradNorm = 1
	want := records(one.finish(t, 1))
	for _, c := range []struct{ world, parts int }{{1, 3}, {2, 1}, {2, 2}, {4, 1}} {
		other := one.in(t)
		other.Config.Accumulation = c.parts
		got := records(other.finish(t, c.world))
		what := fmt.Sprintf("%d processes, %d parts", c.world, c.parts)
		if len(got) != len(want) {
			t.Fatalf("%s: %d records, want %d", what, len(got), len(want))
		}
		for i, w := range want {
			g := got[i]
			for name, v := range map[string][2]float64{"loss": {g.Loss, w.Loss}, "mse": {g.MSE, w.MSE},
				"vb": {g.VB, w.VB}, "norm": {g.GradNorm, w.GradNorm}, "update": {g.UpdateNorm, w.UpdateNorm},
				"std": {g.LatentStd, w.LatentStd}} {
				if e := math.Abs(v[0]-v[1]) / math.Abs(v[1]); !(e <= 1e-5) {
					t.Errorf("%s: step %d: %s %v, want %v", what, w.Step, name, v[0], v[1])
				}
			}
			for bin, v := range g.Bins {
				if e := math.Abs(v-w.Bins[bin]) / w.Bins[bin]; !(e <= 1e-5) &&
					!(math.IsNaN(v) && math.IsNaN(w.Bins[bin])) {
					t.Errorf("%s: step %d: bin %d %v, want %v", what, w.Step, bin, v, w.Bins[bin])
				}
			}
		}
		for _, file := range []string{saves.ModelName, saves.EMAName} {
			sameWeights(t, what, filepath.Join(other.Dir, saves.LatestName, file),
				filepath.Join(one.Dir, saves.LatestName, file),
				1e-4)
		}
	}
}

// TestRecomputing: what is computed twice comes out the same, to the bit.
func TestRecomputing(t *testing.T) {
	plain := newTask(t, 6)
	plain.Config.Accumulation = 2
	again := plain.in(t)
	again.Config.Recompute = true
	for _, world := range []int{1, 2} {
		plain, again := plain.in(t), again.in(t)
		plain.finish(t, world)
		again.finish(t, world)
		for _, file := range []string{saves.ModelName, saves.EMAName} {
			want, err := os.ReadFile(filepath.Join(plain.Dir, saves.LatestName, file))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(again.Dir, saves.LatestName, file)); err != nil ||
				!bytes.Equal(got, want) {
				t.Errorf("%d processes: %s differs (%v)", world, file, err)
			}
		}
	}
}

// TestProcessesOverNCCL: with a stand-in for NCCL two processes give the bits that they give over Gloo.
func TestProcessesOverNCCL(t *testing.T) {
	gloo := newTask(t, 8)
	fake := torchtest.FakeNCCL(t)
	want := records(gloo.finish(t, 2))
	nccl := gloo.in(t)
	t.Setenv("LD_LIBRARY_PATH", fake)
	t.Setenv(torchtest.BackendVar, "nccl:cpu")
	got := records(nccl.finish(t, 2))
	if len(want) == 0 || len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i, w := range want {
		if g := got[i]; g.Loss != w.Loss || g.GradNorm != w.GradNorm || g.UpdateNorm != w.UpdateNorm {
			t.Errorf("step %d: loss %v and norms %v, %v, want %v and %v, %v", w.Step, g.Loss, g.GradNorm, g.UpdateNorm,
				w.Loss, w.GradNorm, w.UpdateNorm)
		}
	}
	for _, file := range []string{saves.ModelName, saves.EMAName} {
		sameWeights(t, "over NCCL", filepath.Join(nccl.Dir, saves.LatestName, file),
			filepath.Join(gloo.Dir, saves.LatestName, file), 0)
	}
}

// sameWeights compares each tensor of two files by the norm of the difference.
func sameWeights(t *testing.T, what, got, want string, limit float64) {
	t.Helper()
	a, b := torchtest.Open(t, got), torchtest.Open(t, want)
	torchtest.Run(t, func(s *torch.Scope) error {
		for _, info := range b.Tensors() {
			// Keys' biases get nothing but rounding, which AdamW turns into steps of its own size.
			var rounding []int
			if strings.HasSuffix(info.Name, "attn.qkv.bias") {
				d := int(info.Shape[0]) / 3
				rounding = []int{d, 2 * d}
			}
			if e := difference(s, a.Tensor(s, info.Name), b.Tensor(s, info.Name), rounding); !(e <= limit) {
				t.Errorf("%s: %s of %s: relative error %.2g", what, info.Name, filepath.Base(got), e)
			}
		}
		return nil
	})
}

// TestAnotherWorldSizeGoesOn: what two processes saved one continues, and the other way round.
func TestAnotherWorldSizeGoesOn(t *testing.T) {
	straight := newTask(t, 20)
	want := records(straight.finish(t, 1))
	for _, worlds := range [][2]int{{2, 1}, {1, 2}, {3, 2}} {
		other := straight.in(t)
		other.Config.MaxSteps = 10
		got := records(other.finish(t, worlds[0]))
		other.Config.MaxSteps = 20
		got = append(got, records(other.finish(t, worlds[1]))...)
		for i, w := range want {
			if e := math.Abs(got[i].Loss-w.Loss) / w.Loss; len(got) != len(want) || !(e <= 1e-5) {
				t.Fatalf("%v processes: %d records; step %d: loss %v, want %v", worlds, len(got), w.Step, got[i].Loss,
					w.Loss)
			}
		}
	}
}

// TestStopOnOneStopsAll: when one process is told to stop, all stop after the same step with a checkpoint.
func TestStopOnOneStopsAll(t *testing.T) {
	straight := newTask(t, 30)
	want := records(straight.finish(t, 2))
	other := straight.in(t)
	other.StopAt, other.Config.SampleEvery = 11, 11 // at a preview, for which all gather the averages
	lines, ok := wait(t, other.start(t, 2))
	if got := complaints(lines); ok || got != "rank 0: "+ErrStopped.Error()+"\nrank 1: told to stop" {
		t.Errorf("ok %v, %s", ok, got)
	}
	if got := listing(t, other.Dir); got != "0000011 latest" {
		t.Errorf("left %q", got)
	}
	other.StopAt = 0
	sameLosses(t, "stopped and continued", append(records(lines), records(other.finish(t, 2))...), want)
	for _, name := range []string{saves.ModelName, saves.EMAName, saves.OptimizerName(0, 2),
		saves.OptimizerName(1, 2)} {
		sameFile(t, name, filepath.Join(other.Dir, saves.LatestName, name),
			filepath.Join(straight.Dir, saves.LatestName, name))
	}
}

func sameFile(t *testing.T, what, got, want string) {
	t.Helper()
	a, err := os.ReadFile(got)
	if err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(want)
	if err != nil {
		t.Error(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("%s: %s differs", what, filepath.Base(got))
	}
}

// TestUnreadableOnOneRank: data that one rank cannot read end all of them after the same step, with a checkpoint
// from which the run continues as if nothing had been; also in the middle of a batch.
func TestUnreadableOnOneRank(t *testing.T) {
	straight := newTask(t, 9)
	straight.finish(t, 2)
	for _, parts := range []int{1, 2} {
		bad := straight
		bad.Dir, bad.Unreadable, bad.Config.Accumulation = filepath.Join(t.TempDir(), "checkpoints"), 6, parts
		lines, ok := wait(t, bad.start(t, 2))
		if got := complaints(lines); ok || !strings.Contains(got, "step 6: a picture is gone") ||
			!strings.Contains(got, ErrStopped.Error()) {
			t.Errorf("%d parts: ok %v, %s", parts, ok, got)
		}
		if got := listing(t, bad.Dir); got != "0000005 latest" {
			t.Errorf("%d parts: left %q", parts, got)
		}
		if parts > 1 {
			continue
		}
		bad.Unreadable = 0
		bad.finish(t, 2)
		for _, name := range []string{saves.ModelName, saves.EMAName, saves.OptimizerName(0, 2),
			saves.OptimizerName(1, 2)} {
			sameFile(t, name, filepath.Join(bad.Dir, saves.LatestName, name),
				filepath.Join(straight.Dir, saves.LatestName, name))
		}
	}
}

// TestBadStepOnOneRank: a gradient that is no number on one rank is applied on none, and named.
func TestBadStepOnOneRank(t *testing.T) {
	const why = "step 7: the gradient of blocks.0.attn.qkv.weight is not a finite number"
	for _, world := range []int{1, 2} {
		bad := newTask(t, 12)
		bad.NaNStep, bad.Config.CkptEvery = 7, 5
		lines, ok := wait(t, bad.start(t, world))
		last := lines[world-1]
		if ok || !strings.HasPrefix(last[len(last)-1].Error, why) {
			t.Errorf("%d processes, stop: ok %v, %s", world, ok, complaints(lines))
		}
		// Step 7 changed nothing; what came before it is kept.
		if got := listing(t, bad.Dir); got != "0000005 0000007 latest" {
			t.Errorf("%d processes, stop: left %q", world, got)
		}

		skip := newTask(t, 12)
		skip.NaNStep, skip.Config.OnBadStep = 7, onBadSkip
		lines = skip.finish(t, world)
		if got := records(lines); len(got) != 12 || got[6].Skipped != 1 || !math.IsNaN(got[6].Loss) ||
			got[7].Skipped != 0 || !finite(got[11].Loss) {
			t.Errorf("%d processes, skip: %+v", world, got)
		}
		if !slices.ContainsFunc(lines[world-1], func(l told) bool { return strings.HasPrefix(l.Warn, why) }) {
			t.Errorf("%d processes, skip: rank %d said %+v", world, world-1, lines[world-1])
		}

		back := newTask(t, 12)
		back.NaNStep, back.Config.OnBadStep, back.Config.CkptEvery = 7, onBadRollback, 5
		lines = back.finish(t, world)
		var steps []int
		for _, r := range records(lines) {
			steps = append(steps, r.Step)
		}
		if want := []int{1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12}; !slices.Equal(steps, want) {
			t.Errorf("%d processes, rollback: steps %v, want %v", world, steps, want)
		}
		st, err := readState(filepath.Join(back.Dir, saves.LatestName))
		if err != nil || st.Offset != 2 {
			t.Errorf("%d processes, rollback: offset %d, want 2: step 6 and the bad one are passed over (%v)", world,
				st.Offset, err)
		}
	}
}

// TestOutOfMemoryInAGroup: a rank whose memory runs out tells the others at once, before it finds out how much would
// have fitted, and does not wait for sums that others never start, if theirs ran out too.
func TestOutOfMemoryInAGroup(t *testing.T) {
	for _, c := range []struct {
		both bool
		slow int
		want []string
	}{
		{false, 1, []string{": rank 1 gave up: step 5: torch: Zeros: ", "rank 1: step 5: torch: Zeros: "}},
		{true, 0, []string{
			"rank 0: step 5: allocate: out of memory: not even one sample fits", "rank 1: step 5: torch: Zeros: "}},
	} {
		task := newTask(t, 12)
		task.NoMemoryStep, task.NoMemory0, task.Slow, task.GoOn = 5, c.both, c.slow, filepath.Join(t.TempDir(), "go on")
		children := task.start(t, 2)
		other := children[1-c.slow]
		ended := other.cmd.Wait()
		if err := os.WriteFile(task.GoOn, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		lines, _ := wait(t, children)
		got := complaints(lines)
		ok := ended != nil && !strings.Contains(got, "Timed out")
		for _, want := range append(c.want, ": a process takes 6 samples at a time, of which 5 would have fitted") {
			ok = ok && strings.Contains(got, want)
		}
		if !ok || strings.Contains(other.out.String(), "would have fitted") != c.both {
			t.Errorf("both %v: rank %d ended first, error %v\n%s", c.both, 1-c.slow, ended, got)
		}
	}
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// TestKilledRuns: whenever the processes of a run are killed, all or one of them, in a save or not, starting again
// ends with the very files and losses of a run that nothing happened to, and no more is lost than the steps since
// the last checkpoint and those made while one was being written. DITRUN_SOAK=1 kills 50 times.
func TestKilledRuns(t *testing.T) {
	for _, world := range []int{1, 2} {
		kills := 4 / world
		if os.Getenv("DITRUN_SOAK") != "" {
			kills = 50
		}
		straight := newTask(t, 300)
		straight.Config.CkptEvery, straight.Config.LRSchedule, straight.Config.WarmupSteps,
			straight.Config.KeepLast = 7, "cosine", 20, 3
		want := map[int]Record{}
		for _, r := range records(straight.finish(t, world)) {
			want[r.Step] = r
		}
		seed := uint64(time.Now().UnixNano())
		rnd := rand.New(rand.NewPCG(seed, 1))
		t.Logf("%d processes, seed %d", world, seed)
		done, inSave := 0, 0
		for done < kills {
			killed := straight.in(t)
			reached, saved := 0, 0
			for {
				children := killed.start(t, world)
				if done < kills {
					if rnd.IntN(4) > 0 { // else it may well be starting yet
						<-children[0].started
					}
					time.Sleep(time.Duration(rnd.IntN(500)) * time.Millisecond)
					which := children
					if world > 1 && rnd.IntN(2) == 0 {
						which = children[rnd.IntN(world):][:1]
					}
					for _, c := range which {
						_ = c.cmd.Process.Signal(syscall.SIGKILL)
					}
				}
				lines, ok := wait(t, children)
				if aside, _ := filepath.Glob(filepath.Join(killed.Dir, ".*"+".tmp-"+"*")); len(aside) > 0 {
					inSave++
				}
				for _, l := range lines[0] {
					switch {
					case l.Start != nil:
						// One save may have been under way, and another have been about to begin.
						if lost := reached - *l.Start; *l.Start < saved || lost > 3*7 {
							t.Errorf("%d processes: went on from step %d after step %d, step %d was saved", world,
								*l.Start, reached, saved)
						}
					case l.Step > 0:
						reached = max(reached, l.Step)
					case l.Saved > 0:
						saved = max(saved, l.Saved)
					case l.Record != nil:
						g, _ := l.record()
						if w := want[g.Step]; g.Loss != w.Loss || g.MSE != w.MSE || g.VB != w.VB ||
							g.GradNorm != w.GradNorm || g.UpdateNorm != w.UpdateNorm || g.LR != w.LR {
							t.Fatalf("%d processes: step %d: %+v, want %+v", world, g.Step, g, w)
						}
					}
				}
				if ok {
					break
				}
				done++
				if got := complaints(lines); got != "" && !strings.Contains(got, "rank") {
					t.Errorf("%d processes: %s", world, got)
				}
			}
			for rank := range world {
				sameFile(t, "killed", filepath.Join(killed.Dir, saves.LatestName, saves.OptimizerName(rank, world)),
					filepath.Join(straight.Dir, saves.LatestName, saves.OptimizerName(rank, world)))
			}
			for _, name := range []string{saves.ModelName, saves.EMAName, saves.StateName} {
				sameFile(t, "killed", filepath.Join(killed.Dir, saves.LatestName, name),
					filepath.Join(straight.Dir, saves.LatestName, name))
			}
			if got := listing(t, killed.Dir); got != "0000287 0000294 0000300 latest" {
				t.Errorf("left %q", got)
			}
		}
		t.Logf("%d processes: %d kills, %d of them in a save", world, done, inSave)
	}
}
