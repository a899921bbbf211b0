package dist

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/internal/native"
)

// Reductions of the AllReduce methods.
const (
	Sum = native.Sum
	Min = native.Min
	Max = native.Max
)

var lent = native.Borrow[*torch.Scope, *torch.Tensor, torch.Device]()

// A nativeGroup is the part of a group that is on one kind of device.
type nativeGroup = native.Group[*torch.Tensor]

// A Group is the processes of a run. All ranks call its collectives in the same order, each from one goroutine at a
// time; a collective returns when this rank's part is done. One that fails, because a rank ended or the time-out
// passed, names the rank at fault where it can, and the group is of no further use: close it. A nil Group is a process
// alone, as is one of World 1: its collectives are the identity and it has no store.
type Group struct {
	env     Env
	timeout time.Duration
	cpu     nativeGroup // Gloo; nil alone
	gpu     nativeGroup // NCCL, for tensors on device; nil with Gloo only
	device  torch.Device
	store   *Store      // nil alone
	watch   *watchdog   // nil alone
	wait    *waitReport // while it opens
	serves  bool        // this process keeps the store
	failed  atomic.Bool // the group has: other ranks fail too and may not come to Close
	closed  bool

	stuck    chan error    // of Stuck
	stop     chan struct{} // ends watchGPU
	watching sync.WaitGroup
}

// Open joins the group that env describes. Backend is "gloo", for tensors on the CPU, or "nccl:" and a GPU that no
// other rank uses, such as "nccl:cuda:0": then tensors on that GPU travel over NCCL, and those on the CPU over Gloo.
// Open waits for the other ranks up to timeout, and so does every collective. While it waits it calls say, which may
// be nil, with a text that names those it waits for, first after some seconds. A process alone opens no connection.
func Open(ctx context.Context, env Env, backend string, timeout time.Duration, say func(text string)) (*Group, error) {
	g := &Group{env: env, timeout: timeout, wait: newWaitReport(say)}
	kind, device, named := strings.Cut(backend, ":")
	switch {
	case backend == "gloo":
	case kind == "nccl" && named:
		var err error
		if g.device, err = torch.ParseDevice(device); err != nil {
			return nil, fmt.Errorf("backend %q: %w", backend, err)
		}
	default:
		return nil, fmt.Errorf("backend %q: want gloo, or nccl:DEVICE such as nccl:cuda:0", backend)
	}
	if env.World == 1 {
		return g, nil
	}
	if err := g.open(ctx, kind == "nccl"); err != nil {
		g.failed.Store(true)
		if ctx.Err() != nil {
			g.free()
		}
		g.Close()
		return nil, fmt.Errorf("rank %d of %d: %w", env.Rank, env.World, err)
	}
	return g, nil
}

func (g *Group) open(ctx context.Context, nccl bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, g.timeout, fmt.Errorf("%w within %v", errNotDone, g.timeout))
	defer cancel()
	addr, err := g.env.store()
	if err != nil {
		return err
	}
	prefix := fmt.Sprintf("ditrun/%s/%d", g.env.RunID, g.env.Restart)
	g.serves = g.env.Rank == 0 && !g.env.AgentStore
	addr, local := g.env.loopback(addr)
	if err := g.reach(ctx, addr); err != nil {
		return err
	}
	if g.store, err = dial(ctx, addr, g.serves, local, prefix, g.timeout); err != nil {
		return err
	}
	second, err := dial(ctx, addr, false, local, prefix, g.timeout)
	if err != nil {
		return err
	}
	g.watch = startWatchdog(second, g.env)
	own, err := g.meet(ctx, addr)
	if err != nil {
		return err
	}
	stop := g.wait.during("connecting the ranks")
	g.cpu, err = within(ctx, g.timeout, func() (nativeGroup, error) {
		return lent.NewGloo(g.store.raw, g.env.Rank, g.env.World, os.Getenv("GLOO_SOCKET_IFNAME"), own,
			g.timeout.Milliseconds())
	}, nil)
	stop()
	if err != nil {
		err = fmt.Errorf("connect the ranks: %w", err)
		if errors.Is(err, errLeft) {
			g.store.lose(err) // the call that was left behind still uses it
		}
		return err
	}
	if !nccl {
		return nil
	}
	defer g.wait.during("connecting the GPUs")()
	if err := g.openNCCL(ctx); err != nil {
		return &GPUError{err}
	}
	return nil
}

// A GPUError is why NCCL does not connect the GPUs of the ranks.
type GPUError struct{ error }

// Unwrap returns the cause.
func (e *GPUError) Unwrap() error { return e.error }

// meet waits until all ranks are there and returns the address of this machine at which they reach this rank.
func (g *Group) meet(ctx context.Context, store string) (string, error) {
	own := "127.0.0.1"
	if !g.env.OneHost() {
		var err error
		if own, err = localAddress(store); err != nil {
			return "", err
		}
	}
	here := func(r int) string { return fmt.Sprintf("here/%d", r) }
	if err := g.store.Set(here(g.env.Rank), []byte(own)); err != nil {
		return "", err
	}
	if err := g.await(ctx, store, here); err != nil {
		return "", err
	}
	all := make([]string, g.env.World)
	for r := range all {
		value, err := g.store.Get(ctx, here(r))
		if err != nil {
			return "", err
		}
		all[r] = string(value)
	}
	if net.ParseIP(own).IsLoopback() {
		// The machine that MASTER_ADDR names may call itself by a loopback address: take the way to another one.
		for _, other := range all {
			if !net.ParseIP(other).IsLoopback() {
				return localAddress(net.JoinHostPort(other, "1"))
			}
		}
	}
	return own, nil
}

// await waits until the store has the key that each rank sets when it is here.
func (g *Group) await(ctx context.Context, store string, here func(r int) string) error {
	keys := make([]string, g.env.World)
	for r := range keys {
		keys[r] = here(r)
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		has, err := g.store.has(keys...)
		if has || err != nil {
			return err
		}
		if g.wait.due() {
			g.wait.tell("waiting for %s of %d at %s", g.missing(keys), g.env.World, store)
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errNotDone) {
				return cause
			}
			return fmt.Errorf("missing after %v at the store %s: %s", g.timeout, store, g.missing(keys))
		case <-time.After(pause):
		}
	}
}

// missing names the ranks whose keys are not in the store.
func (g *Group) missing(keys []string) string {
	var ranks []string
	for r, key := range keys {
		if has, err := g.store.has(key); err == nil && !has {
			ranks = append(ranks, strconv.Itoa(r))
		}
	}
	return "rank " + shorten(ranks, 8, ", ")
}

// localAddress returns the address from which this machine sends to the other. It sends nothing.
func localAddress(other string) (string, error) {
	c, err := net.Dial("udp", other)
	if err != nil {
		return "", fmt.Errorf("find the way to %s: %w", other, err)
	}
	defer c.Close()
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	return host, err
}

func (g *Group) alone() bool { return g == nil || g.env.World == 1 }

// Env returns what the group was opened with.
func (g *Group) Env() Env {
	if g == nil {
		return Env{World: 1, LocalWorld: 1}
	}
	return g.env
}

// Rank returns this process's number, from 0.
func (g *Group) Rank() int { return g.Env().Rank }

// World returns the number of processes.
func (g *Group) World() int { return g.Env().World }

// Store returns the store of the run, nil for a process alone.
func (g *Group) Store() *Store {
	if g.alone() {
		return nil
	}
	return g.store
}

// Native returns the group for operations that compute and communicate in one, such as package optim's, on the device
// that the group was opened for; nil for a process alone.
func (g *Group) Native() native.Group[*torch.Tensor] {
	if g.alone() {
		return nil
	}
	return cmp.Or(g.gpu, g.cpu)
}

// of returns the group for t.
func (g *Group) of(t *torch.Tensor) nativeGroup {
	if g.gpu != nil && t.Device() == g.device {
		return g.gpu
	}
	return g.cpu
}

// AtStep tells the watchdogs of the other ranks that this one begins a step.
func (g *Group) AtStep(step int) {
	if !g.alone() && !g.closed {
		g.watch.at(step)
	}
}

// AllReduce combines t of all ranks by op, element by element, in place. t must be contiguous.
func (g *Group) AllReduce(t *torch.Tensor, op int) error {
	return g.collective("all-reduce", func() error { return g.of(t).AllReduce(t, op) })
}

// AllReduceFloats is AllReduce for numbers in Go memory: a few, in one small message.
func (g *Group) AllReduceFloats(v []float64, op int) error {
	return g.collective("all-reduce", func() error { return g.cpu.AllReduceFloats(v, op) })
}

// ReduceScatter sums in over all ranks and leaves to each its part of the sum, in rank order: out has the elements of
// in divided by the number of ranks. Both must be contiguous.
func (g *Group) ReduceScatter(out, in *torch.Tensor) error {
	if g.alone() {
		return wrap("reduce-scatter", lent.Copy(out, in))
	}
	return g.collective("reduce-scatter", func() error { return g.of(in).ReduceScatter(out, in) })
}

// AllGather joins the ranks' in, in rank order, in out, which has the elements of in times the number of ranks. Both
// must be contiguous.
func (g *Group) AllGather(out, in *torch.Tensor) error {
	if g.alone() {
		return wrap("all-gather", lent.Copy(out, in))
	}
	return g.collective("all-gather", func() error { return g.of(in).AllGather(out, in) })
}

// Broadcast overwrites tensors, which must be contiguous, with those of rank root.
func (g *Group) Broadcast(root int, ts ...*torch.Tensor) error {
	return g.collective("broadcast", func() error {
		for _, t := range ts {
			if err := g.of(t).Broadcast(t, root); err != nil {
				return err
			}
		}
		return nil
	})
}

// Barrier waits until all ranks have called it, up to timeout; 0 is the group's. Its error names those that have not.
func (g *Group) Barrier(timeout time.Duration) error {
	if timeout == 0 {
		timeout = g.limit()
	}
	return g.collective("barrier", func() error { return g.cpu.Barrier(max(1, timeout.Milliseconds())) })
}

func (g *Group) limit() time.Duration {
	if g == nil {
		return 0
	}
	return g.timeout
}

// collective makes a call in which all ranks take part. A process alone does not make it.
func (g *Group) collective(what string, call func() error) error {
	if g.alone() {
		return nil
	}
	if g.closed {
		return fmt.Errorf("%s: the group is closed", what)
	}
	// What the CPU sends may be the result of a collective on the GPU that has failed since.
	err := g.check()
	if err == nil {
		err = call()
	}
	if err != nil {
		return g.fail(wrap(what, err), true)
	}
	return nil
}

// wrap says which collective an error, which may be nil, comes from.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, reason(err))
}

// Fail is for an error that ends this rank's work. It refuses further collectives and makes those fail in which other
// ranks wait for this one. Where err comes from a collective inside another operation, such as a step of package optim,
// Fail finds the rank at fault, as far as the watchdog knows, which takes some seconds, and returns err with it.
// Otherwise it tells the other ranks that this one gave up, and why. Errors of Group's own methods it returns as they
// are.
func (g *Group) Fail(err error) error {
	if g.alone() || g.closed || g.failed.Load() {
		return err
	}
	return g.fail(err, g.cpu.Failed() || g.gpu != nil && g.gpu.Failed())
}

func (g *Group) fail(err error, collective bool) error {
	if g.alone() || !g.failed.CompareAndSwap(false, true) {
		return err
	}
	if !collective {
		g.watch.say(beat{Failed: err.Error()})
		g.tellFailure()
		g.abort()
		return err
	}
	g.abort() // so that ranks that wait for this one fail now too
	err = fmt.Errorf("rank %d of %d: %w", g.env.Rank, g.env.World, err)
	g.watch.say(beat{Left: err.Error()})
	g.tellFailure()
	if why := g.watch.explain(); why != "" {
		err = fmt.Errorf("%w: %s", err, why)
		g.watch.say(beat{Left: err.Error()}) // for ranks that ask later
	}
	return err
}

func (g *Group) abort() {
	g.cpu.Abort()
	if g.gpu != nil {
		g.patiently(func() { g.gpu.Abort() })
	}
}

// How long the rank that keeps the store waits at the end for the others to leave it: after a failure, for them to
// read there what happened.
const closeWait, failedWait = 30 * time.Second, 4 * beatEvery

// Close leaves the group and frees it. The rank that keeps the store waits a little until the others have left.
func (g *Group) Close() {
	if g.alone() || g.closed {
		return
	}
	if g.store != nil {
		n, err := g.store.Add("left", 1)
		if g.serves {
			wait := closeWait
			if g.failed.Load() {
				wait = failedWait
			}
			for end := time.Now().Add(wait); err == nil && n < int64(g.env.World) && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
				n, err = g.store.Add("left", 0)
			}
		}
	}
	g.free()
}

func (g *Group) free() {
	g.closed = true
	if g.watch != nil {
		g.watch.end()
	}
	if g.gpu != nil {
		g.closeNCCL()
	}
	if g.cpu != nil {
		g.cpu.Close()
	}
	if g.store != nil {
		g.store.close()
	}
}
