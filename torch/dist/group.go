package dist

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/ditrun/ditrun/torch"
)

// Reductions of the AllReduce methods.
const (
	Sum = torch.Sum
	Min = torch.Min
	Max = torch.Max
)

// A Group is the processes of a run. All ranks call its collectives in the same order, each from one goroutine at a
// time; a collective returns when this rank's part is done. One that fails, because a rank ended or the time-out
// passed, names the rank at fault where it can, and the group is of no further use: close it.
type Group struct {
	env     Env
	timeout time.Duration
	cpu     *torch.Group // nil alone
	store   *Store       // nil alone
	watch   *watchdog    // nil alone
	serves  bool         // this process keeps the store
	failed  bool         // so others will fail, not come to Close
}

// Open joins the group that env describes. Backend is "gloo", for tensors on the CPU. It waits for the other ranks up
// to timeout, and so does every collective. A process alone opens nothing and cannot fail.
func Open(ctx context.Context, env Env, backend string, timeout time.Duration) (*Group, error) {
	if backend != "gloo" {
		return nil, fmt.Errorf("backend %q: want gloo", backend)
	}
	g := &Group{env: env, timeout: timeout}
	if env.World == 1 {
		return g, nil
	}
	if err := g.open(ctx); err != nil {
		g.failed = true
		if ctx.Err() != nil {
			g.free()
		}
		g.Close()
		return nil, fmt.Errorf("rank %d of %d: %w", env.Rank, env.World, err)
	}
	return g, nil
}

func (g *Group) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, g.timeout, fmt.Errorf("not done within %v", g.timeout))
	defer cancel()
	addr, err := g.env.store()
	if err != nil {
		return err
	}
	prefix := fmt.Sprintf("ditrun/%s/%d", g.env.RunID, g.env.Restart)
	g.serves = g.env.Rank == 0 && !g.env.AgentStore
	if g.store, err = dial(ctx, addr, g.serves, prefix, g.timeout); err != nil {
		return err
	}
	second, err := dial(ctx, addr, false, prefix, g.timeout)
	if err != nil {
		return err
	}
	g.watch = startWatchdog(second, g.env)
	own, err := g.meet(ctx, addr)
	if err != nil {
		return err
	}
	var raw *torch.Group
	err = g.store.do("connect the ranks", func() (err error) {
		raw, err = torch.NewGloo(g.store.raw, g.env.Rank, g.env.World, os.Getenv("GLOO_SOCKET_IFNAME"), own, g.timeout.Milliseconds())
		return err
	})
	g.cpu = raw
	return err
}

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
	all := make([]string, g.env.World)
	for r := range all {
		value, err := g.store.Get(ctx, here(r))
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return "", context.Cause(ctx)
		} else if ctx.Err() != nil {
			var missing []string
			for ; r < g.env.World; r++ {
				if has, err := g.store.has(here(r)); err == nil && !has {
					missing = append(missing, strconv.Itoa(r))
				}
			}
			return "", fmt.Errorf("missing after %v at the store %s: rank %s", g.timeout, store, shorten(missing, 8, ", "))
		} else if err != nil {
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

// localAddress returns the address of this machine from which it speaks to the other. It sends nothing.
func localAddress(other string) (string, error) {
	c, err := net.Dial("udp", other)
	if err != nil {
		return "", fmt.Errorf("find the way to %s: %w", other, err)
	}
	defer c.Close()
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	return host, err
}

// Env returns what the group was opened with.
func (g *Group) Env() Env { return g.env }

// Rank returns this process's number, from 0.
func (g *Group) Rank() int { return g.env.Rank }

// World returns the number of processes.
func (g *Group) World() int { return g.env.World }

// Store returns the store of the run, nil for a process alone.
func (g *Group) Store() *Store { return g.store }

// Torch returns the group for fused operations on tensors of dev, nil for a process alone.
func (g *Group) Torch(dev torch.Device) *torch.Group { return g.cpu }

// AtStep tells the watchdogs of the other ranks that this one begins a step.
func (g *Group) AtStep(step int) {
	if g.watch != nil {
		g.watch.at(step)
	}
}

// AllReduce combines t of all ranks by op, element by element, in place. T is contiguous.
func (g *Group) AllReduce(t *torch.Tensor, op int) error {
	return g.collective("all-reduce", func(c *torch.Group) error { return c.AllReduce(t, op) })
}

// AllReduceFloats is AllReduce for numbers in Go memory: a few, in one small message.
func (g *Group) AllReduceFloats(v []float64, op int) error {
	return g.collective("all-reduce", func(c *torch.Group) error { return c.AllReduceFloats(v, op) })
}

// ReduceScatter sums in over all ranks and leaves to each its part of the sum, in rank order: out has the elements of
// in divided by the number of ranks. Both are contiguous.
func (g *Group) ReduceScatter(out, in *torch.Tensor) error {
	return g.collective("reduce-scatter", func(c *torch.Group) error { return c.ReduceScatter(out, in) })
}

// AllGather joins the ranks' in, in rank order, in out, which has the elements of in times the number of ranks. Both
// are contiguous.
func (g *Group) AllGather(out, in *torch.Tensor) error {
	return g.collective("all-gather", func(c *torch.Group) error { return c.AllGather(out, in) })
}

// Broadcast overwrites t, contiguous, with that of rank root.
func (g *Group) Broadcast(t *torch.Tensor, root int) error {
	return g.collective("broadcast", func(c *torch.Group) error { return c.Broadcast(t, root) })
}

// Barrier waits until all ranks have come to it.
func (g *Group) Barrier() error {
	return g.collective("barrier", func(c *torch.Group) error { return c.Barrier() })
}

func (g *Group) collective(what string, call func(*torch.Group) error) error {
	if err := call(g.cpu); err != nil {
		return g.Explain(fmt.Errorf("%s: %w", what, reason(err)))
	}
	return nil
}

// Explain adds to the error of a collective which rank is at fault, as far as the watchdog knows. Errors of the
// methods of Group have it already; those of fused operations that use [Group.Torch] do not. It ends the collectives
// of this rank and takes some seconds.
func (g *Group) Explain(err error) error {
	if g.watch == nil {
		return err
	}
	g.failed = true
	g.cpu.Abort() // so that ranks which wait for this one fail now too
	err = fmt.Errorf("rank %d of %d: %w", g.env.Rank, g.env.World, err)
	g.watch.say(beat{Left: err.Error()})
	if why := g.watch.explain(); why != "" {
		err = fmt.Errorf("%w: %s", err, why)
		g.watch.say(beat{Left: err.Error()}) // for those that come later
	}
	return err
}

// Abort tells the other ranks why this one gives up, and refuses further collectives. Those that wait for this rank
// learn it when it ends, which it should do soon.
func (g *Group) Abort(why error) {
	if g.cpu == nil {
		return
	}
	g.failed = true
	g.watch.say(beat{Failed: why.Error()})
	g.cpu.Abort()
}

// How long the rank that keeps the store waits at the end for the others to leave it: after a failure, for them to
// read there what happened.
const closeWait, failedWait = 30 * time.Second, 4 * beatEvery

// Close leaves the group and frees it. The rank that keeps the store waits a little until the others have left.
func (g *Group) Close() {
	if g.store != nil {
		n, err := g.store.Add("left", 1)
		if g.serves {
			wait := closeWait
			if g.failed {
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
	if g.watch != nil {
		g.watch.end()
	}
	if g.cpu != nil {
		g.cpu.Close()
	}
	if g.store != nil {
		g.store.close()
	}
	g.cpu, g.store, g.watch = nil, nil, nil
}
