package dist

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ditrun/ditrun/internal/testtool"
	"github.com/ditrun/ditrun/torch"
)

func init() {
	tasks["collectives"] = collectives
	tasks["leak"] = leak
	tasks["latency"] = latency
	tasks["store"] = storeTask
	tasks["killed"] = stepsUntil(1, func(*Group) error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) })
	tasks["killed store"] = stepsUntil(0, func(*Group) error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) })
	tasks["stalled"] = stepsUntil(1, func(*Group) error { time.Sleep(12 * time.Second); return errors.New("stalled") })
	tasks["gave up"] = stepsUntil(1, func(g *Group) error {
		err := errors.New("no space left on device")
		g.Fail(err)
		if again := g.Barrier(0); again == nil {
			return errors.New("a barrier after Fail")
		}
		return err
	})
	tasks["late"] = func(g *Group) error {
		for step := range 2 {
			g.AtStep(step)
			if err := g.Barrier(20 * time.Second); err != nil {
				return err
			}
		}
		if g.Rank() == 1 {
			time.Sleep(7 * time.Second)
			return errors.New("late")
		}
		return g.Barrier(1500 * time.Millisecond)
	}
	// What a thread of Gloo or of the store gets that writes to a rank which is gone.
	tasks["broken pipe"] = func(g *Group) error {
		if err := g.Barrier(0); err != nil {
			return err
		}
		// Those that were there before write to no socket of the group, and the driver's take the signal.
		now, err := threads()
		if err != nil {
			return err
		}
		for _, thread := range now {
			if slices.Contains(before, thread) {
				continue
			}
			tid, err := strconv.Atoi(thread)
			if err != nil {
				return err
			}
			if err := unix.Tgkill(os.Getpid(), tid, unix.SIGPIPE); err != nil && err != unix.ESRCH {
				return err
			}
		}
		time.Sleep(100 * time.Millisecond)
		return g.Barrier(0)
	}
	tasks["goroutines"] = func(g *Group) error {
		if err := g.Barrier(0); err != nil {
			return err
		}
		g.Close()
		if err := g.AllReduceFloats(nil, Sum); err == nil || !strings.Contains(err.Error(), "closed") {
			return fmt.Errorf("an all-reduce in a closed group: %v", err)
		}
		for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > 1; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<16)
				return fmt.Errorf("goroutines after Close:\n%s", stacks[:runtime.Stack(stacks, true)])
			}
		}
		return nil
	}
}

// stepsUntil returns a task of ten steps in which a rank does something else at step 5.
func stepsUntil(rank int, other func(*Group) error) func(*Group) error {
	return func(g *Group) error {
		for step := range 10 {
			g.AtStep(step)
			time.Sleep(250 * time.Millisecond)
			if step == 5 && g.Rank() == rank {
				return other(g)
			}
			if err := g.AllReduceFloats(make([]float64, 4), Sum); err != nil {
				return err
			}
		}
		return nil
	}
}

func collectives(g *Group) error {
	rank, n := float32(g.Rank()), float32(g.World())
	return on(func(s *torch.Scope) error {
		for round := range 3 { // the same ones again
			sum, low, high := torch.From(s, []float32{1, rank}, 2), torch.From(s, []float32{rank}, 1),
				torch.From(s, []float32{rank}, 1)
			part := torch.From(s, []float32{0, 0}, 2)
			whole := make([]float32, 2*g.World())
			for i := range whole {
				whole[i] = float32(i) + rank
			}
			in := torch.From(s, whole, len(whole))
			joined := torch.From(s, make([]float32, 2*g.World()), len(whole))
			own := torch.From(s, []float32{rank, -rank}, 2)
			sent := torch.From(s, []float32{rank, 7}, 2)
			same := torch.From(s, []float32{-rank}, 1)
			half := s.To(torch.From(s, []float32{rank}, 1), torch.BFloat16)
			values := []float64{1, float64(rank)}
			for _, err := range []error{
				g.AllReduce(sum, Sum), g.AllReduce(low, Min), g.AllReduce(high, Max), g.ReduceScatter(part, in),
				g.AllGather(joined, own), g.Broadcast(g.World()-1, sent, same), g.AllReduce(half, Sum),
				g.AllReduceFloats(values, Sum), g.Barrier(0),
			} {
				if err != nil {
					return fmt.Errorf("round %d: %w", round, err)
				}
			}
			ranks := n * (n - 1) / 2
			want := make([]float32, 0, 2*g.World())
			for r := range g.World() {
				want = append(want, float32(r), -float32(r))
			}
			for _, err := range []error{
				equal("sum", sum, n, ranks), equal("min", low, 0), equal("max", high, n-1),
				equal("reduce-scatter", part, 2*rank*n+ranks, (2*rank+1)*n+ranks),
				equal("all-gather", joined, want...),
				equal("broadcast", sent, n-1, 7), equal("broadcast", same, 1-n),
				equal("bf16", s.To(half, torch.Float32), ranks),
			} {
				if err != nil {
					return err
				}
			}
			if values[0] != float64(n) || values[1] != float64(ranks) {
				return fmt.Errorf("floats: %v", values)
			}
		}
		// What does not fit is refused on every rank before anything is sent.
		if g.World() == 1 {
			return nil
		}
		a, b := torch.From(s, []float32{1, 2, 3}, 3), torch.From(s, []float32{1, 2, 3}, 3)
		if err := g.Native().ReduceScatter(a, b); err == nil || !strings.Contains(err.Error(), "do not make") {
			return fmt.Errorf("reduce-scatter of 3 elements: %v", err)
		}
		m := s.Transpose(torch.From(s, []float32{1, 2, 3, 4}, 2, 2), 0, 1)
		if err := g.Native().AllReduce(m, Sum); err == nil || !strings.Contains(err.Error(), "contiguous") {
			return fmt.Errorf("all-reduce of a transposed tensor: %v", err)
		}
		return nil
	})
}

func leak(g *Group) error {
	before := torch.Live()
	for range 50 {
		if err := collectives(g); err != nil {
			return err
		}
	}
	if live := torch.Live(); live != before {
		return fmt.Errorf("%d tensors before, %d after", before, live)
	}
	return nil
}

func latency(g *Group) error {
	v := make([]float64, 4)
	best := time.Hour
	for range 10 {
		start := time.Now()
		for range 20 {
			if err := g.AllReduceFloats(v, Sum); err != nil {
				return err
			}
		}
		best = min(best, time.Since(start)/20)
	}
	if g.Rank() == 0 {
		fmt.Println(best)
	}
	return nil
}

func storeTask(g *Group) error {
	s := g.Store()
	if g.Rank() == 0 {
		time.Sleep(50 * time.Millisecond)
		if err := s.Set("greeting", []byte("a\x00b")); err != nil {
			return err
		}
	}
	value, err := s.Get(context.Background(), "greeting")
	if err != nil || string(value) != "a\x00b" {
		return fmt.Errorf("greeting: %q, %v", value, err)
	}
	if _, err := s.Add("count", 2); err != nil {
		return err
	}
	if err := s.Set(fmt.Sprintf("rank %d", g.Rank()), nil); err != nil {
		return err
	}
	if err := s.Wait([]string{"rank 0", "rank 1", "greeting"}, 5*time.Second); err != nil {
		return err
	}
	if err := g.Barrier(0); err != nil {
		return err
	}
	if n, err := s.Add("count", 0); err != nil || n != 4 {
		return fmt.Errorf("count: %d, %v", n, err)
	}
	if err := s.Wait([]string{"rank 0", "nothing"}, 100*time.Millisecond); err == nil ||
		!strings.HasSuffix(err.Error(), ": nothing: not there after 100ms") {
		return fmt.Errorf("wait for nothing: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := s.Get(ctx, "nothing"); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("get that was cancelled: %v", err)
	}
	if err := errors.Join(s.Delete("rank 0"), s.Delete("nothing")); err != nil {
		return err
	}
	if err := s.Wait([]string{"rank 0"}, 50*time.Millisecond); err == nil {
		return errors.New("a deleted key is there")
	}
	return g.Barrier(0)
}

func TestCollectives(t *testing.T) {
	for _, n := range []int{2, 4} {
		allOK(t, ranks(t, n, n, 30, "collectives"))
	}
}

func TestAlone(t *testing.T) {
	if err := torch.Available(); err != nil {
		testtool.Missing(t, "libtorch is not there: ", err)
	}
	g, err := Open(t.Context(), Env{World: 1, LocalWorld: 1}, "gloo", time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("nobody listens")
	for _, g := range []*Group{g, nil} {
		g.AtStep(1)
		if err := collectives(g); err != nil {
			t.Error(err)
		}
		if g.Store() != nil || g.Native() != nil || g.Rank() != 0 || g.World() != 1 || g.Env().LocalWorld != 1 {
			t.Error("a process alone has a store, a group or others beside it")
		}
		if err := g.Fail(why); err != why {
			t.Errorf("Fail returns %v", err)
		}
		g.Close()
		if err := g.Barrier(0); err != nil {
			t.Errorf("alone after Close: %v", err)
		}
	}
	if _, err := Open(t.Context(), Env{World: 1}, "mpi", time.Second, nil); err == nil {
		t.Error("a backend called mpi")
	}
}

func TestGroupsDoNotLeak(t *testing.T) { allOK(t, ranks(t, 2, 2, 30, "leak")) }

func TestStore(t *testing.T) { allOK(t, ranks(t, 2, 2, 30, "store")) }

// The time of a small all-reduce, which a training step can afford.
func TestLatency(t *testing.T) {
	for _, n := range []int{2, 4} {
		results := ranks(t, n, n, 30, "latency")
		took, err := time.ParseDuration(results[0].output)
		if err != nil || took > 20*time.Millisecond {
			t.Errorf("%d processes: %q", n, results[0].output)
		}
		t.Logf("all-reduce of 4 numbers, %d processes: %v", n, took)
	}
}

// A rank that is killed ends the others at once, and they say which one it was and where.
func TestKilledRank(t *testing.T) {
	t.Parallel() // it mostly waits
	results := ranks(t, 4, 4, 60, "killed")
	for _, r := range []int{0, 2, 3} {
		failed(t, r, results[r], 30*time.Second, fmt.Sprintf("rank %d of 4: all-reduce: ", r),
			"rank 1 has not been heard of for", "its last step was 5")
		if strings.Contains(results[r].output, "; rank") {
			t.Errorf("rank %d blames others too: %s", r, results[r].output)
		}
	}
	if results[1].code != -1 {
		t.Errorf("the killed rank: code %d\n%s", results[1].code, results[1].output)
	}
}

func TestKilledStore(t *testing.T) {
	t.Parallel() // it mostly waits
	for r, res := range ranks(t, 2, 2, 60, "killed store") {
		if r > 0 {
			failed(t, r, res, 30*time.Second, "all-reduce: ", "rank 0 keeps the store and does not answer")
		}
	}
}

func TestStalledRank(t *testing.T) {
	t.Parallel() // it mostly waits
	results := ranks(t, 3, 3, 3, "stalled")
	for _, r := range []int{0, 2} {
		failed(t, r, results[r], 30*time.Second, "all-reduce: ", ": rank 1 is alive but has been at step 5 for")
	}
}

func TestRankThatGaveUp(t *testing.T) {
	t.Parallel() // it mostly waits
	results := ranks(t, 3, 3, 60, "gave up")
	failed(t, 1, results[1], 30*time.Second, "no space left on device")
	for _, r := range []int{0, 2} {
		failed(t, r, results[r], 30*time.Second, "all-reduce: ", "rank 1 gave up: no space left on device")
	}
}

func TestLateAtBarrier(t *testing.T) {
	t.Parallel() // it mostly waits
	results := ranks(t, 3, 3, 60, "late")
	for _, r := range []int{0, 2} {
		failed(t, r, results[r], 20*time.Second, fmt.Sprintf("rank %d of 3: barrier: ", r),
			": rank 1 is alive but has been at step 1 for")
	}
}

func TestNoGoroutineStays(t *testing.T) { allOK(t, ranks(t, 2, 2, 30, "goroutines")) }

func TestBrokenPipeEndsNobody(t *testing.T) { allOK(t, ranks(t, 2, 2, 30, "broken pipe")) }

func TestMissingRank(t *testing.T) {
	t.Parallel() // it mostly waits
	for r, res := range ranks(t, 2, 4, 3, "collectives") {
		failed(t, r, res, 20*time.Second, fmt.Sprintf("rank %d of 4: missing after 3s at the store 127.0.0.1:", r),
			": rank 2, 3")
	}
}

func TestNobodyServes(t *testing.T) {
	t.Parallel() // it mostly waits
	if err := torch.Available(); err != nil {
		testtool.Missing(t, "libtorch is not there: ", err)
	}
	e := Env{Rank: 1, World: 2, LocalRank: 1, LocalWorld: 2, Port: testtool.FreePort(t)}
	start := time.Now()
	_, err := Open(t.Context(), e, "gloo", 2*time.Second, nil)
	if err == nil || !strings.Contains(err.Error(),
		fmt.Sprintf("rank 1 of 2: store 127.0.0.1:%d: connect: ", e.Port)) || time.Since(start) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	start = time.Now()
	if _, err := Open(ctx, e, "gloo", 30*time.Second, nil); !errors.Is(err, context.Canceled) ||
		time.Since(start) > 5*time.Second {
		t.Errorf("cancelled: %v after %v", err, time.Since(start))
	}
}

// torchrun keeps the store itself and starts a group again whose rank failed.
func TestTorchrun(t *testing.T) {
	python := os.Getenv("DITRUN_TORCH_PYTHON")
	if python == "" {
		t.Skip("DITRUN_TORCH_PYTHON does not name a Python with torch")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "-m", "torch.distributed.run", "--nproc-per-node=2",
		fmt.Sprintf("--master-port=%d", testtool.FreePort(t)), "--no-python", self)
	cmd.Env = append(os.Environ(), taskVar+"=collectives", "DITRUN_TEST_DIST_TIMEOUT=30", "OMP_NUM_THREADS=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
