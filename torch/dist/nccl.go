package dist

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ditrun/ditrun/torch"
)

// A gpu is what a rank tells the others of its GPU before NCCL connects them.
type gpu struct {
	NCCL    string `json:"nccl"`              // version
	Machine string `json:"machine"`           // the same for all ranks on it, whatever containers they are in
	Address string `json:"address,omitempty"` // on the machine's bus
	Err     string `json:"err,omitempty"`     // why it cannot be used
}

// NCCLVersion returns the version of the NCCL found, such as "2.28.9", or why there is none to use.
func NCCLVersion() (string, error) {
	version, err := lent.NCCLVersion()
	return version, reason(err)
}

func readGPU(dev torch.Device) (g gpu) {
	var err error
	if g.NCCL, err = NCCLVersion(); err == nil && dev.IsCUDA() {
		g.Address, err = lent.GPUAddress(dev)
	}
	if err != nil {
		g.Err = reason(err).Error()
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	name, _ := os.Hostname()
	g.Machine = cmp.Or(strings.TrimSpace(string(boot)), name)
	return g
}

// unfit says why NCCL would not connect these GPUs, since NCCL itself says it in riddles or hangs.
func unfit(gpus []gpu) error {
	taken := map[gpu]int{}
	for r, g := range gpus {
		if g.Err != "" {
			return fmt.Errorf("rank %d: %s", r, g.Err)
		}
		if g.NCCL != gpus[0].NCCL {
			return fmt.Errorf("rank 0 has NCCL %s, rank %d has %s: want the same on all", gpus[0].NCCL, r, g.NCCL)
		}
		if g.Address == "" {
			continue
		}
		if other, is := taken[g]; is {
			return fmt.Errorf("ranks %d and %d both use GPU %s of one machine, NCCL wants one for each: start no "+
				"more processes than there are GPUs, and do not name one GPU for all", other, r, g.Address)
		}
		taken[g] = r
	}
	return nil
}

// openNCCL connects the GPUs of the ranks.
func (g *Group) openNCCL(ctx context.Context) error {
	here := func(r int) string { return fmt.Sprintf("gpu/%d", r) }
	own, err := json.Marshal(readGPU(g.device))
	if err != nil {
		return err
	}
	if err := g.store.Set(here(g.env.Rank), own); err != nil {
		return err
	}
	gpus := make([]gpu, g.env.World)
	for r := range gpus {
		value, err := g.store.Get(ctx, here(r))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(value, &gpus[r]); err != nil {
			return fmt.Errorf("%s: %w", here(r), err)
		}
	}
	if err := unfit(gpus); err != nil {
		return err
	}
	const key = "nccl"
	if g.env.Rank == 0 {
		id, err := lent.NCCLID()
		if err != nil {
			return reason(err)
		}
		if err := g.store.Set(key, id); err != nil {
			return err
		}
	}
	id, err := g.store.Get(ctx, key)
	if err != nil {
		return err
	}
	g.gpu, err = within(ctx, g.timeout, func() (nativeGroup, error) {
		return lent.NewNCCL(id, g.env.Rank, g.env.World, g.device, g.timeout.Milliseconds())
	}, nil)
	if err != nil {
		return fmt.Errorf("connect the GPUs: %w", err)
	}
	g.stuck, g.stop = make(chan error, 1), make(chan struct{})
	g.watching.Go(g.watchGPU)
	return nil
}

// check returns why a collective on the GPU has failed, nil where none has.
func (g *Group) check() error {
	if g.gpu == nil {
		return nil
	}
	return g.gpu.Check()
}

// failedKey is in the store once a rank has failed. Gloo's ranks notice that a connection was closed; NCCL's do not,
// and would wait up to the time-out.
const failedKey = "failed"

func (g *Group) tellFailure() {
	if g.gpu != nil {
		g.watch.store.Set(failedKey, nil)
	}
}

// watchGPU aborts this rank's collectives on the GPU when another rank has failed. It also notices where the process
// does not leave a collective that has failed: an abort should end what the host waits for, and where it does not,
// nothing inside the process can.
func (g *Group) watchGPU() {
	limit := min(time.Minute, g.timeout)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var since time.Time
	for {
		select {
		case <-g.stop:
			return
		case <-tick.C:
		}
		if !g.gpu.Failed() {
			if failed, _ := g.watch.store.has(failedKey); failed {
				g.patiently(func() { g.gpu.Abort() })
			}
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) > limit {
			err := fmt.Errorf("%w: this process hangs in it",
				reason(cmp.Or(g.gpu.Check(), errors.New("a collective on the GPU failed"))))
			g.stuck <- g.fail(err, true)
			return
		}
	}
}

// Stuck returns a channel that gets an error where this process has not closed the group a minute (or the time-out, if
// less) after a collective on the GPU failed: then it hangs in CUDA or NCCL, and all that helps is to end it. The error
// is that of the collective, with the rank at fault. Close closes the channel, which is nil without NCCL.
func (g *Group) Stuck() <-chan error {
	if g.alone() {
		return nil
	}
	return g.stuck
}

// patiently makes a call to NCCL that may hang where a rank is gone; then it leaves the call behind.
func (g *Group) patiently(call func()) {
	within(context.Background(), min(closeWait, g.timeout), func() (struct{}, error) {
		call()
		return struct{}{}, nil
	}, nil)
}

func (g *Group) closeNCCL() {
	if g.stop != nil {
		close(g.stop)
		g.watching.Wait()
		close(g.stuck)
	}
	g.patiently(g.gpu.Close)
}
