// Package launcher starts several processes of one program on this machine and ends them together.
package launcher

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Job is a program to start N times, with the environment that torchrun gives its processes.
type Job struct {
	Path        string
	Args        []string
	N           int
	MaxRestarts int // how often all are started again after one failed

	// Rank 0 writes to these as they are. What the others write goes to Stderr, a rank before each line.
	Stdout, Stderr io.Writer

	Signals <-chan os.Signal // each is passed on to all processes; may be nil
	Grace   time.Duration    // for the others to end after one has failed, and again after SIGTERM
	Log     func(format string, args ...any)
}

// An ExitError says how the process that failed first ended.
type ExitError struct {
	Rank int
	Code int // 128 and the signal where one ended it
	how  string

	killed bool // by a signal, without a word of its own
}

// Error returns the rank and how it ended.
func (e *ExitError) Error() string { return fmt.Sprintf("process %d %s", e.Rank, e.how) }

// usage is the exit code of a wrong command line.
const usage = 2

// stopped says whether the process was told to stop, by SIGHUP, SIGINT or SIGTERM, and ended by itself.
func (e *ExitError) stopped() bool {
	return !e.killed && (e.Code == 129 || e.Code == 130 || e.Code == 143)
}

// Run starts the processes and waits for them. Its error is an *ExitError where one of them failed.
func (j *Job) Run(ctx context.Context) error {
	id := rand.Text()
	for restart := 0; ; restart++ {
		err := j.once(ctx, id, restart)
		var exit *ExitError
		if !errors.As(err, &exit) || restart == j.MaxRestarts || exit.Code == usage || exit.stopped() ||
			ctx.Err() != nil {
			return err
		}
		j.Log("%v: starting all again (%d of %d)", err, restart+1, j.MaxRestarts)
	}
}

// env returns the environment of a rank.
func (j *Job) env(rank, port int, id string, restart int) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "TORCHELASTIC_") })
	if _, set := os.LookupEnv("OMP_NUM_THREADS"); !set {
		env = append(env, fmt.Sprintf("OMP_NUM_THREADS=%d", max(1, runtime.NumCPU()/j.N)))
	}
	return append(env,
		fmt.Sprintf("RANK=%d", rank), fmt.Sprintf("WORLD_SIZE=%d", j.N),
		fmt.Sprintf("LOCAL_RANK=%d", rank), fmt.Sprintf("LOCAL_WORLD_SIZE=%d", j.N),
		"MASTER_ADDR=127.0.0.1", fmt.Sprintf("MASTER_PORT=%d", port),
		"TORCHELASTIC_RUN_ID="+id, fmt.Sprintf("TORCHELASTIC_RESTART_COUNT=%d", restart),
		fmt.Sprintf("TORCHELASTIC_MAX_RESTARTS=%d", j.MaxRestarts))
}

// An end is how the process of a rank ended.
type end struct {
	rank int
	err  error
}

// once starts the processes and waits until the last has ended.
func (j *Job) once(ctx context.Context, id string, restart int) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	// The kernel signals a child when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ends := make(chan end, j.N)
	running := map[int]*exec.Cmd{}
	var mu sync.Mutex // of Stderr
	var first error
	for rank := range j.N {
		cmd, flush := j.command(rank, &mu)
		defer flush()
		cmd.Env = j.env(rank, port, id, restart)
		if err := cmd.Start(); err != nil {
			first = fmt.Errorf("start process %d: %w", rank, err)
			break
		}
		running[rank] = cmd
		go func() { ends <- end{rank, cmd.Wait()} }()
	}
	return j.wait(running, ends, first)
}

// command is the process of a rank, not started. Flush writes what is left of its output when it has ended.
func (j *Job) command(rank int, mu *sync.Mutex) (cmd *exec.Cmd, flush func()) {
	cmd = exec.Command(j.Path, j.Args...)
	// In a process group of its own a child gets an interrupt at the terminal once, from here. It gets SIGTERM
	// when this process ends before it, from the kernel once or more often: that is the second interrupt.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.WaitDelay = j.Grace
	if rank > 0 {
		w := &prefixer{w: j.Stderr, mu: mu, prefix: fmt.Sprintf("[%d] ", rank)}
		cmd.Stdout, cmd.Stderr = w, w
		return cmd, w.flush
	}
	cmd.Stdout, cmd.Stderr = j.Stdout, j.Stderr
	if _, file := j.Stderr.(*os.File); j.N > 1 && !file { // a terminal stays one
		cmd.Stderr = &locked{w: j.Stderr, mu: mu}
	}
	return cmd, func() {}
}

// wait passes signals on until all processes have ended, and returns the first error. When one has failed, or first
// says that one was not started, the others are ended too.
func (j *Job) wait(running map[int]*exec.Cmd, ends <-chan end, first error) error {
	signalAll := func(sig os.Signal) {
		for _, cmd := range running {
			cmd.Process.Signal(sig)
		}
	}
	var late <-chan time.Time
	escalate := []os.Signal{syscall.SIGTERM, syscall.SIGKILL}
	if first != nil {
		late = time.After(0)
	}
	for len(running) > 0 {
		select {
		case e := <-ends:
			delete(running, e.rank)
			err := exitError(e.rank, e.err)
			if err != nil && first == nil {
				first = err
			}
			// One that stopped because of a signal has told the others, which may have more to save.
			if exit := (*ExitError)(nil); err != nil && late == nil && len(escalate) == 2 &&
				!(errors.As(err, &exit) && exit.stopped()) {
				late = time.After(j.Grace)
			}
		case sig := <-j.Signals:
			signalAll(sig)
		case <-late:
			signalAll(escalate[0])
			escalate = escalate[1:]
			late = nil
			if len(escalate) > 0 {
				late = time.After(j.Grace)
			}
		}
	}
	return first
}

func exitError(rank int, err error) error {
	if err == nil {
		return nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("process %d: %w", rank, err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		sig := status.Signal()
		return &ExitError{rank, 128 + int(sig), fmt.Sprintf("was ended by signal %d (%v)", int(sig), sig), true}
	}
	return &ExitError{Rank: rank, Code: exit.ExitCode(), how: fmt.Sprintf("ended with code %d", exit.ExitCode())}
}

// freePort returns a port on which nothing listens. Another program may take it before rank 0 does, which then says so.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// A locked writer takes its turn with others.
type locked struct {
	w  io.Writer
	mu *sync.Mutex
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// A prefixer writes whole lines with a prefix.
type prefixer struct {
	w       io.Writer
	mu      *sync.Mutex // of w
	prefix  string
	partial []byte // line, which has not ended
}

// longLine is where a line is cut that does not end.
const longLine = 1 << 16

func (p *prefixer) Write(b []byte) (int, error) {
	p.partial = append(p.partial, b...)
	for {
		n := bytes.IndexByte(p.partial, '\n') + 1
		if n == 0 && len(p.partial) < longLine {
			return len(b), nil
		} else if n == 0 {
			n = len(p.partial)
		}
		if err := p.line(p.partial[:n]); err != nil {
			return 0, err
		}
		p.partial = p.partial[n:]
	}
}

func (p *prefixer) line(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.w.Write(slices.Concat([]byte(p.prefix), bytes.TrimSuffix(b, []byte("\n")), []byte("\n")))
	return err
}

func (p *prefixer) flush() {
	if len(p.partial) > 0 {
		p.line(p.partial)
	}
}
