package launcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the program that is launched: its first argument is what to do.
func TestMain(m *testing.M) {
	if os.Getenv("DITRUN_TEST_LAUNCHED") != "" {
		os.Exit(launched(os.Args[1]))
	}
	os.Exit(m.Run())
}

func launched(what string) int {
	rank, restart := os.Getenv("RANK"), os.Getenv("TORCHELASTIC_RESTART_COUNT")
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	switch what {
	case "env":
		for _, name := range []string{"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
			"OMP_NUM_THREADS", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_USE_AGENT_STORE"} {
			fmt.Println(name, os.Getenv(name))
		}
		fmt.Fprint(os.Stderr, "no line end")
	case "second fails":
		if rank == "1" {
			return 7
		}
		<-signals
		fmt.Println("ended by a signal")
	case "killed":
		if rank == "1" {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		<-signals
	case "stubborn":
		if rank == "1" {
			return 3
		}
		signal.Ignore(syscall.SIGTERM)
		select {}
	case "fails twice":
		if rank == "1" && restart != "2" {
			return 5
		}
		fmt.Println("try", restart)
	case "usage":
		return 2
	case "saves":
		fmt.Println("ready")
		<-signals
		if rank == "0" {
			select {
			case <-signals:
				return 1
			case <-time.After(1500 * time.Millisecond):
				fmt.Println("saved")
			}
		}
		return 130
	case "until signal":
		fmt.Println("ready")
		if sig := <-signals; sig != syscall.SIGINT {
			return 1
		}
		return 130
	}
	return 0
}

// A safe buffer may be read while it is written.
type safe struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

type ran struct {
	err         error
	out, errOut *safe
	log         []string
	took        time.Duration
}

func run(t *testing.T, j Job, what string, during func(*ran)) *ran {
	t.Helper()
	t.Setenv("DITRUN_TEST_LAUNCHED", "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &ran{out: &safe{}, errOut: &safe{}}
	j.Path, j.Args, j.Stdout, j.Stderr = self, []string{what}, r.out, r.errOut
	j.Grace = 500 * time.Millisecond
	j.Log = func(format string, args ...any) { r.log = append(r.log, fmt.Sprintf(format, args...)) }
	if during != nil {
		go during(r)
	}
	start := time.Now()
	r.err = j.Run(context.Background())
	r.took = time.Since(start)
	return r
}

func (r *ran) failed(t *testing.T, rank, code int, text string) {
	t.Helper()
	var e *ExitError
	if !errors.As(r.err, &e) || e.Rank != rank || e.Code != code || e.Error() != text {
		t.Errorf("%v, want process %d, code %d, %q", r.err, rank, code, text)
	}
}

func TestEnvironmentAndOutput(t *testing.T) {
	t.Setenv("TORCHELASTIC_USE_AGENT_STORE", "True") // of a torchrun above: its store is not ours
	os.Unsetenv("OMP_NUM_THREADS")
	r := run(t, Job{N: 3}, "env", nil)
	if r.err != nil {
		t.Fatal(r.err)
	}
	threads := max(1, runtime.NumCPU()/3)
	lines := func(rank int, prefix string) (out []string) {
		for _, l := range []string{fmt.Sprint("RANK ", rank), "WORLD_SIZE 3", fmt.Sprint("LOCAL_RANK ", rank),
			"LOCAL_WORLD_SIZE 3", "MASTER_ADDR 127.0.0.1",
			fmt.Sprint("OMP_NUM_THREADS ", threads), "TORCHELASTIC_RESTART_COUNT 0", "TORCHELASTIC_USE_AGENT_STORE "} {
			out = append(out, prefix+l+"\n")
		}
		return out
	}
	if got, want := r.out.String(), strings.Join(lines(0, ""), ""); got != want {
		t.Errorf("process 0 wrote\n%s\nwant\n%s", got, want)
	}
	want := slices.Concat(lines(1, "[1] "), lines(2, "[2] "), []string{"[1] no line end\n", "[2] no line end\n"})
	rest := strings.Replace(r.errOut.String(), "no line end", "", 1) // process 0's, which may stand before any line
	rest = strings.ReplaceAll(rest, "[1] \n", "[1] no line end\n")
	got := strings.SplitAfter(rest, "\n")
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%q is missing in\n%s", line, r.errOut.String())
		}
	}

	t.Setenv("OMP_NUM_THREADS", "5")
	if r := run(t, Job{N: 2}, "env", nil); !strings.Contains(r.out.String(), "OMP_NUM_THREADS 5\n") {
		t.Errorf("OMP_NUM_THREADS=5 became\n%s", r.out.String())
	}
}

func TestFailureEndsTheOthers(t *testing.T) {
	r := run(t, Job{N: 3}, "second fails", nil)
	r.failed(t, 1, 7, "process 1 ended with code 7")
	if !strings.Contains(r.out.String(), "ended by a signal") ||
		!strings.Contains(r.errOut.String(), "[2] ended by a signal\n") {
		t.Errorf("the others wrote %q, %q", r.out.String(), r.errOut.String())
	}
	run(t, Job{N: 2}, "killed", nil).failed(t, 1, 137, "process 1 was ended by signal 9 (killed)")
	if r := run(t, Job{N: 2}, "stubborn", nil); r.took > 10*time.Second {
		t.Errorf("a process that ignores SIGTERM took %v", r.took)
	} else {
		r.failed(t, 1, 3, "process 1 ended with code 3")
	}
}

func TestRestart(t *testing.T) {
	r := run(t, Job{N: 2, MaxRestarts: 3}, "fails twice", nil)
	if r.err != nil || !strings.HasSuffix(r.out.String(), "try 2\n") {
		t.Errorf("%v\n%s", r.err, r.out.String())
	}
	want := []string{"process 1 ended with code 5: starting all again (1 of 3)",
		"process 1 ended with code 5: starting all again (2 of 3)"}
	if !slices.Equal(r.log, want) {
		t.Errorf("said %q, want %q", r.log, want)
	}
	r = run(t, Job{N: 2, MaxRestarts: 1}, "fails twice", nil)
	r.failed(t, 1, 5, "process 1 ended with code 5")
	if len(r.log) != 1 {
		t.Errorf("said %q", r.log)
	}
	// A wrong command line does not become right.
	if r = run(t, Job{N: 1, MaxRestarts: 3}, "usage", nil); len(r.log) != 0 {
		t.Errorf("said %q", r.log)
	}
	r.failed(t, 0, 2, "process 0 ended with code 2")
}

func TestSignalsArePassedOn(t *testing.T) {
	signals := make(chan os.Signal, 1)
	r := run(t, Job{N: 2, MaxRestarts: 3, Signals: signals}, "until signal", func(r *ran) {
		for !strings.Contains(r.out.String(), "ready") || !strings.Contains(r.errOut.String(), "ready") {
			time.Sleep(5 * time.Millisecond)
		}
		signals <- syscall.SIGINT
	})
	var e *ExitError
	if !errors.As(r.err, &e) || e.Code != 130 || len(r.log) != 0 {
		t.Errorf("%v, said %q", r.err, r.log)
	}
}

// The first rank may have to save when the others have ended.
func TestInterruptedIsNoFailure(t *testing.T) {
	signals := make(chan os.Signal, 1)
	r := run(t, Job{N: 2, Signals: signals}, "saves", func(r *ran) {
		for !strings.Contains(r.out.String(), "ready") || !strings.Contains(r.errOut.String(), "ready") {
			time.Sleep(5 * time.Millisecond)
		}
		signals <- syscall.SIGTERM
	})
	r.failed(t, 1, 130, "process 1 ended with code 130")
	if !strings.HasSuffix(r.out.String(), "saved\n") {
		t.Errorf("process 0 wrote %q", r.out.String())
	}
}

func TestNoProgram(t *testing.T) {
	j := Job{Path: filepath.Join(t.TempDir(), "none"), N: 2}
	if err := j.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "start process 0: ") {
		t.Error(err)
	}
}

func TestPrefixer(t *testing.T) {
	var b bytes.Buffer
	p := &prefixer{w: &b, mu: &sync.Mutex{}, prefix: "[1] "}
	for _, s := range []string{"a", "b\nc\n\n", "d", strings.Repeat("x", longLine)} {
		p.Write([]byte(s))
	}
	p.Write([]byte("end"))
	p.flush()
	if want := "[1] ab\n[1] c\n[1] \n[1] d" + strings.Repeat("x", longLine) + "\n[1] end\n"; b.String() != want {
		t.Errorf("%d bytes: %.60q", b.Len(), b.String())
	}
}
