package dist

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// ncclRanks runs a task over NCCL, where tests run on GPUs and there are enough of them, or over the stand-in for it.
func ncclRanks(t *testing.T, n, seconds int, task string, more ...string) []result {
	t.Helper()
	if torchtest.Device(t).IsCUDA() {
		torchtest.Ranks(t, n)
		return ranks(t, n, n, seconds, task, append(more, torchtest.BackendVar+"=nccl:cuda")...)
	}
	return fakeRanks(t, n, seconds, task, more...)
}

// fakeRanks runs a task over the stand-in, which does more than work.
func fakeRanks(t *testing.T, n, seconds int, task string, more ...string) []result {
	t.Helper()
	more = append(more, "LD_LIBRARY_PATH="+torchtest.FakeNCCL(t), "TMPDIR="+t.TempDir(),
		torchtest.BackendVar+"=nccl:cpu")
	return ranks(t, n, n, seconds, task, more...)
}

// limit is the time-out in seconds of tests that wait for it; NCCL on GPUs takes some only to connect.
func limit(t *testing.T) int {
	if torchtest.Device(t).IsCUDA() {
		return 30
	}
	return 3
}

func init() {
	tasks["types"] = func(g *Group) error {
		return on(func(s *torch.Scope) error {
			for _, d := range []torch.DType{torch.Float32, torch.Float64, torch.Float16, torch.BFloat16, torch.Int64,
				torch.Int32, torch.Uint8} {
				x := s.To(torch.From(s, []float32{float32(g.Rank()), 2}, 2), d)
				if err := g.AllReduce(x, Sum); err != nil {
					return fmt.Errorf("%v: %w", d, err)
				}
				if err := equal(d.String(), s.To(x, torch.Float32), 1, 4); err != nil {
					return err
				}
			}
			// What is longer than a piece of the stand-in's.
			x := s.Full(float64(g.Rank()+1), torch.Float32, 700_001)
			if err := g.AllReduce(x, Sum); err != nil {
				return err
			}
			if data := torch.Data[float32](x); data[0] != 3 || data[700_000] != 3 {
				return fmt.Errorf("the ends of a long tensor: %v, %v", data[0], data[700_000])
			}
			if err := g.Native().AllReduce(s.Zeros(torch.Bool, 1), Sum); err == nil ||
				!strings.Contains(err.Error(), "NCCL does not take Bool") {
				return fmt.Errorf("an all-reduce of bools: %v", err)
			}
			return g.Barrier(0)
		})
	}
	// A process alone that goes through NCCL all the same, of which Open knows nothing.
	tasks["one"] = func(*Group) error {
		id, err := lent.NCCLID()
		if err != nil {
			return err
		}
		raw, err := lent.NewNCCL(id, 0, 1, taskDevice, 60_000)
		if err != nil {
			return err
		}
		defer raw.Close()
		return on(func(s *torch.Scope) error {
			a, b, c := torch.From(s, []float32{1, 2}, 2), s.Zeros(torch.Float32, 2), s.Zeros(torch.Float32, 2)
			return errors.Join(raw.AllReduce(a, Max), raw.ReduceScatter(b, a), raw.AllGather(c, b), raw.Broadcast(c, 0),
				equal("through all", c, 1, 2), raw.Check())
		})
	}
	tasks["tensor steps"] = tensorSteps(func(*Group) error { return nil })
	tasks["tensor steps, killed"] =
		tensorSteps(func(*Group) error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) })
	tasks["tensor steps, gave up"] =
		tensorSteps(func(g *Group) error { return g.Fail(errors.New("no space left on device")) })
	tasks["tensor steps, late"] = tensorSteps(func(g *Group) error {
		time.Sleep(g.timeout + 7*time.Second)
		return errors.New("late")
	})
	// A process that does nothing about the failure, as if it hung in CUDA.
	tasks["stuck"] = func(g *Group) error {
		return on(func(s *torch.Scope) error {
			g.AtStep(5)
			done := make(chan error, 1)
			if g.Rank() == 1 {
				time.Sleep(8 * time.Second)
				return fmt.Errorf("late")
			}
			go func() { done <- g.Native().AllReduce(s.Zeros(torch.Float32, 1), Sum) }()
			return <-g.Stuck()
		})
	}
}

// tensorSteps is ten steps that sum a tensor; rank 1 does something else at step 5.
func tensorSteps(other func(*Group) error) func(*Group) error {
	return func(g *Group) error {
		return on(func(s *torch.Scope) error {
			for step := range 10 {
				g.AtStep(step)
				time.Sleep(250 * time.Millisecond)
				if step == 5 && g.Rank() == 1 {
					if err := other(g); err != nil {
						return err
					}
				}
				x := torch.From(s, []float32{1}, 1)
				if err := g.AllReduce(x, Sum); err != nil {
					return err
				}
				x.Item() // on a GPU this waits, until the time-out
				if err := g.Broadcast(0, x); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func TestNCCLCollectives(t *testing.T) {
	allOK(t, ncclRanks(t, 1, 30, "one"))
	for _, task := range []string{"collectives", "types", "leak", "goroutines"} {
		allOK(t, ncclRanks(t, 2, 60, task))
	}
	allOK(t, ncclRanks(t, 4, 60, "collectives"))
}

// What NCCL is called with: numbers of elements, of types (7 is float, 9 bfloat16) and reductions (3 is the least,
// 2 the greatest), and the root of a broadcast. Sums of Go numbers and barriers are not among it.
func TestNCCLCalls(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	allOK(t, fakeRanks(t, 2, 30, "collectives", "FAKE_NCCL_LOG="+log))
	round := "all-reduce n=2 type=7 more=0\nall-reduce n=1 type=7 more=3\nall-reduce n=1 type=7 more=2\n" +
		"reduce-scatter n=2 type=7 more=0\nall-gather n=2 type=7 more=0\n" +
		"broadcast n=2 type=7 more=1\nbroadcast n=1 type=7 more=1\nall-reduce n=1 type=9 more=0\n"
	for r := range 2 {
		got, err := os.ReadFile(fmt.Sprintf("%s.%d", log, r))
		if want := strings.Repeat(round, 3) + "destroy\n"; err != nil || string(got) != want {
			t.Errorf("rank %d: %v, called\n%swant\n%s", r, err, got, want)
		}
	}
}

// A rank that is killed leaves the others in a call to NCCL: the time-out ends it, and they say who it was.
func TestNCCLKilledRank(t *testing.T) {
	t.Parallel() // it mostly waits
	results := ncclRanks(t, 3, limit(t), "tensor steps, killed")
	for _, r := range []int{0, 2} {
		failed(t, r, results[r], 90*time.Second, fmt.Sprintf("rank %d of 3: ", r),
			fmt.Sprintf(": NCCL: all-reduce not done within %d s: ", limit(t)), "rank 1 has not been heard of for",
			"its last step was 5")
	}
}

func TestNCCLLateRank(t *testing.T) {
	t.Parallel() // it mostly waits
	log := filepath.Join(t.TempDir(), "log")
	results := ncclRanks(t, 2, limit(t), "tensor steps, late", "FAKE_NCCL_LOG="+log)
	failed(t, 0, results[0], 90*time.Second,
		fmt.Sprintf(": NCCL: all-reduce not done within %d s: rank 1 is alive but has been at step 5 for", limit(t)))
	if torchtest.Device(t).IsCUDA() {
		return
	}
	if called, err := os.ReadFile(log + ".0"); err != nil || !strings.HasSuffix(string(called), "\nabort\n") {
		t.Errorf("%v, last called\n%s", err, called)
	}
}

// A rank that gives up of itself ends the others at once.
func TestNCCLRankThatGaveUp(t *testing.T) {
	t.Parallel() // it mostly waits
	results := ncclRanks(t, 3, 60, "tensor steps, gave up")
	failed(t, 1, results[1], 20*time.Second, "no space left on device")
	for _, r := range []int{0, 2} {
		failed(t, r, results[r], 30*time.Second, fmt.Sprintf("rank %d of 3: ", r),
			": the process group was aborted: rank 1 gave up: no space left on device")
	}
}

// Both kinds of error that NCCL reports: from the call, and later.
func TestNCCLErrors(t *testing.T) {
	t.Parallel() // it mostly waits
	results := fakeRanks(t, 2, 60, "tensor steps", "FAKE_NCCL_FAIL=broadcast")
	failed(t, 0, results[0], 20*time.Second,
		"rank 0 of 2: broadcast: NCCL: broadcast: unhandled system error: from the stand-in")
	failed(t, 1, results[1], 20*time.Second,
		"rank 1 of 2: broadcast: the process group was aborted: rank 0 ended: rank 0 of 2: broadcast: NCCL: ")
	results = fakeRanks(t, 2, 60, "tensor steps", "FAKE_NCCL_LOST=all-reduce")
	failed(t, 1, results[1], 20*time.Second, "rank 1 of 2: all-reduce: the process group was aborted: rank 0 ended: ")
	failed(t, 0, results[0], 20*time.Second,
		"rank 0 of 2: all-reduce: NCCL: a collective under way: remote process exited or there was a network error: "+
			"from the stand-in")
}

// An abort that does not return, and a host that waits for it: the caller learns that it hangs.
func TestNCCLStuck(t *testing.T) {
	t.Parallel() // it mostly waits
	results := fakeRanks(t, 2, 2, "stuck", "FAKE_NCCL_HANG=1")
	failed(t, 0, results[0], 30*time.Second,
		"rank 0 of 2: NCCL: all-reduce not done within 2 s: this process hangs in it: rank 1 is alive but has been "+
			"at step 5 for")
}

func TestNCCLNotUsable(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, res := range fakeRanks(t, 2, 30, "collectives", "FAKE_NCCL_VERSION=21805") {
		failed(t, 0, res, 20*time.Second, "of 2: rank 0: libnccl.so.2 is NCCL 2.18.5, want 2.19.0 or newer")
	}
	for _, res := range fakeRanks(t, 2, 30, "collectives", "FAKE_NCCL_VERSION=2408") {
		failed(t, 0, res, 20*time.Second, "libnccl.so.2 is NCCL of before 2.9 (2408)")
	}
	if _, err := NCCLVersion(); err == nil {
		t.Skip("NCCL is there")
	}
	for _, res := range ranks(t, 2, 2, 30, "collectives", torchtest.BackendVar+"=nccl:cpu") {
		failed(t, 0, res, 20*time.Second, "of 2: rank 0: libnccl.so.2: cannot open shared object file")
	}
}

func TestUnfitGPUs(t *testing.T) {
	a := gpu{NCCL: "2.28.9", Machine: "m", Address: "0000:17:00.0"}
	b, other, old, broken, none := a, a, a, a, a
	b.Address, other.Machine, old.NCCL, broken.Err, none.Address = "0000:65:00.0", "n", "2.21.5", "no GPU", ""
	for _, c := range []struct {
		gpus []gpu
		want string // "": fit
	}{
		{[]gpu{a}, ""},
		{[]gpu{a, b, other}, ""},
		{[]gpu{none, none}, ""},
		{[]gpu{b, a, other, a}, "ranks 1 and 3 both use GPU 0000:17:00.0 of one machine"},
		{[]gpu{a, old}, "rank 0 has NCCL 2.28.9, rank 1 has 2.21.5: want the same on all"},
		{[]gpu{a, broken, a}, "rank 1: no GPU"},
	} {
		err := unfit(c.gpus)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%v: %v, want %q", c.gpus, err, c.want)
		}
	}
}

func TestBackends(t *testing.T) {
	for _, name := range []string{"", "mpi", "nccl", "gloo:cpu", "nccl:", "nccl:tpu"} {
		if _, err := Open(t.Context(), Env{World: 1}, name, time.Second, nil); err == nil ||
			!strings.HasPrefix(err.Error(), fmt.Sprintf("backend %q: ", name)) {
			t.Errorf("backend %q: %v", name, err)
		}
	}
}
