package optim_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ditrun/ditrun/internal/testtool"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/torch/internal/native"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// A rank is this process where it is one of several that run the same test.
type rank struct {
	*dist.Group
	rank, size int
	dir        string // that all share
}

// ranks runs the calling test again in n processes, which find themselves by childRank, in the shared
// folder dir. task tells the children apart from those of other calls in the test. It returns the
// output of each. Every child must end well, those in mayFail excepted. On GPUs each has one of its own.
func ranks(t *testing.T, n int, dir, task string, mayFail ...int) []string {
	t.Helper()
	device := torchtest.Ranks(t, n)
	port := testtool.FreePort(t)
	out := make([]string, n)
	errs := make([]error, n)
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() {
			c := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=120s")
			c.Env = append(os.Environ(), device(i), "OPTIM_TEST_TASK="+task, "OPTIM_TEST_DIR="+dir, "OMP_NUM_THREADS=1",
				fmt.Sprint("RANK=", i), fmt.Sprint("WORLD_SIZE=", n), fmt.Sprint("LOCAL_RANK=", i),
				fmt.Sprint("LOCAL_WORLD_SIZE=", n), fmt.Sprint("MASTER_PORT=", port))
			var b bytes.Buffer
			c.Stdout, c.Stderr = &b, &b
			errs[i] = c.Run()
			out[i] = b.String()
		})
	}
	wait.Wait()
	for i, err := range errs {
		if err != nil && !slices.Contains(mayFail, i) {
			t.Errorf("%s: rank %d of %d: %v\n%s", task, i, n, err, out[i])
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	return out
}

// childRank returns the task of a child process and its rank, nil in the parent.
func childRank(t *testing.T) (task string, r *rank) {
	t.Helper()
	task = os.Getenv("OPTIM_TEST_TASK")
	if task == "" {
		return "", nil
	}
	env, err := dist.Detect(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	g, err := dist.Open(t.Context(), env, torchtest.Backend(t), 20*time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return task, &rank{g, env.Rank, env.World, os.Getenv("OPTIM_TEST_DIR")}
}

// groupOfOne is a group in which this process is alone, yet which communicates.
func groupOfOne(t *testing.T) native.Group[*torch.Tensor] {
	t.Helper()
	lent := native.Borrow[*torch.Scope, *torch.Tensor, torch.Device]()
	const host, timeout = "127.0.0.1", 20_000
	if dev := torchtest.Device(t); dev.IsCUDA() {
		id, err := lent.NCCLID()
		if err != nil {
			t.Fatal(err)
		}
		g, err := lent.NewNCCL(id, 0, 1, dev, timeout)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(g.Close)
		return g
	}
	store, err := lent.NewStore(host, testtool.FreePort(t), true, -1, "optim", timeout)
	if err != nil {
		t.Fatal(err)
	}
	g, err := lent.NewGloo(store, 0, 1, "", host, timeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.Close()
		store.Close()
	})
	return g
}
