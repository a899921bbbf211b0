package dist

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ditrun/ditrun/internal/testtool"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// taskVar in the environment makes the test binary one rank of a group that carries out a task.
const taskVar = "DITRUN_TEST_DIST_TASK"

// A task returns what is wrong. Its rank prints that and ends with code 1.
var tasks = map[string]func(*Group) error{}

func TestMain(m *testing.M) {
	if name := os.Getenv(taskVar); name != "" {
		if err := runTask(name); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// taskDevice is where the tensors of a task are: on the CPU, unless the group is of NCCL on a GPU.
var taskDevice = torch.CPU

// before are the threads of the process when its group is opened. libtorch has started some of them, and the driver of
// a GPU.
var before []string

// threads returns the numbers of the process's threads.
func threads() (numbers []string, err error) {
	entries, err := os.ReadDir("/proc/self/task")
	for _, e := range entries {
		numbers = append(numbers, e.Name())
	}
	return numbers, err
}

// runTask opens the group with a time-out of DITRUN_TEST_DIST_TIMEOUT seconds.
func runTask(name string) error {
	torch.SetNumThreads(1) // opens libtorch
	e, err := Detect(os.Getenv)
	if err != nil {
		return err
	}
	seconds, err := strconv.Atoi(os.Getenv("DITRUN_TEST_DIST_TIMEOUT"))
	if err != nil {
		return err
	}
	if before, err = threads(); err != nil {
		return err
	}
	backend := cmp.Or(os.Getenv(torchtest.BackendVar), "gloo")
	if backend == "nccl:cuda" {
		taskDevice = torch.CUDA(e.LocalRank)
		backend = "nccl:" + taskDevice.String()
	}
	g, err := Open(context.Background(), e, backend, time.Duration(seconds)*time.Second, tell)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer g.Close()
	return tasks[name](g)
}

// tell prints what a rank waits for where a test looks at it.
func tell(text string) {
	if os.Getenv("DITRUN_TEST_DIST_TELL") != "" {
		fmt.Println(text)
	}
}

// A result is how one rank ended.
type result struct {
	output string
	code   int // -1 where a signal ended it
	took   time.Duration
}

// ranks runs a task on ranks 0 to n-1 of a group of world processes, with more in their environment.
func ranks(t *testing.T, n, world, seconds int, task string, more ...string) []result {
	t.Helper()
	if err := torch.Available(); err != nil {
		testtool.Missing(t, "libtorch is not there: ", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	port := testtool.FreePort(t)
	results := make([]result, n)
	var wg sync.WaitGroup
	for r := range n {
		wg.Go(func() {
			cmd := exec.CommandContext(ctx, self)
			cmd.Env = append(os.Environ(), taskVar+"="+task, fmt.Sprintf("DITRUN_TEST_DIST_TIMEOUT=%d", seconds),
				fmt.Sprintf("RANK=%d", r), fmt.Sprintf("WORLD_SIZE=%d", world), fmt.Sprintf("LOCAL_RANK=%d", r),
				fmt.Sprintf("LOCAL_WORLD_SIZE=%d", world),
				"MASTER_ADDR=127.0.0.1", fmt.Sprintf("MASTER_PORT=%d", port), "OMP_NUM_THREADS=1")
			cmd.Env = append(cmd.Env, more...)
			start := time.Now()
			out, err := cmd.CombinedOutput()
			if err != nil && !errors.As(err, new(*exec.ExitError)) {
				t.Error(err)
			}
			results[r] = result{string(bytes.TrimSpace(out)), cmd.ProcessState.ExitCode(), time.Since(start)}
		})
	}
	wg.Wait()
	return results
}

// allOK checks that all ranks ended well and printed nothing.
func allOK(t *testing.T, results []result) {
	t.Helper()
	for r, res := range results {
		if res.code != 0 || res.output != "" {
			t.Errorf("rank %d: code %d\n%s", r, res.code, res.output)
		}
	}
}

// failed checks that a rank ended in time with code 1 and a text that has all parts.
func failed(t *testing.T, r int, res result, within time.Duration, parts ...string) {
	t.Helper()
	ok := res.code == 1 && res.took < within && strings.Count(res.output, "\n") == 0
	for _, part := range parts {
		ok = ok && strings.Contains(res.output, part)
	}
	if !ok {
		t.Errorf("rank %d: code %d after %v, want code 1 within %v and one line with %q\n%s", r, res.code, res.took,
			within, parts, res.output)
	}
}

// on runs f in a scope on the task's device.
func on(f func(s *torch.Scope) error) error {
	return torch.Run(taskDevice, func(s *torch.Scope) error { return f(s.NoGrad()) })
}

// equal compares the elements of t.
func equal(what string, t *torch.Tensor, want ...float32) error {
	got := torch.Data[float32](t)
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s: %v, want %v", what, got, want)
	}
	return nil
}
