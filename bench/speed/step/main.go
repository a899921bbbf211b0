// Command step times one training step of a DiT as in `ditrun train`, from given latents. It is the counterpart of
// step_pytorch.py and uses the same protocol: it prints "ready"; for each line "go" on standard input it runs one step
// and prints the seconds; at the end of input it prints a JSON line.
//
//	go run ./bench/speed/step -model DiT-S/2 -batch 8 -threads 2
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	_ "github.com/ditrun/ditrun/torch/keeppages" // as in ditrun
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
	"github.com/ditrun/ditrun/torch/philox"
)

func main() {
	model := flag.String("model", "DiT-S/2", "model")
	batch := flag.Int("batch", 8, "samples a step")
	threads := flag.Int("threads", 2, "threads")
	device := flag.String("device", "cpu", "device")
	flag.Parse()
	if err := run(*model, *device, *batch, *threads); err != nil {
		fmt.Fprintln(os.Stderr, "step:", err)
		os.Exit(1)
	}
}

func run(name, device string, batch, threads int) error {
	torch.SetNumThreads(threads)
	dev, err := torch.ParseDevice(device)
	if err != nil {
		return err
	}
	cfg, err := dit.Named(name)
	if err != nil {
		return err
	}
	var rounds []float64
	err = torch.Run(dev, func(s *torch.Scope) error {
		step, err := newStep(s, cfg, batch)
		if err != nil {
			return err
		}
		timed := func() (float64, error) {
			start := time.Now()
			err := s.Try(step)
			return time.Since(start).Seconds(), err
		}
		for range 2 {
			if _, err := timed(); err != nil {
				return err
			}
		}
		fmt.Println("ready")
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			seconds, err := timed()
			if err != nil {
				return err
			}
			rounds = append(rounds, seconds)
			fmt.Printf("%.6f\n", seconds)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"model": name, "batch": batch, "threads": threads,
		"torch": torch.BuildInfo(), "rounds": rounds, "peak_rss_kb": usage.Maxrss})
}

// newStep returns one step: noise, timesteps and dropped labels drawn, forward, losses, backward,
// AdamW, average, and the loss read back, as the reference does.
func newStep(s *torch.Scope, cfg dit.Config, batch int) (func(*torch.Scope) error, error) {
	process, err := diffusion.New("")
	if err != nil {
		return nil, err
	}
	gen, err := torch.NewGenerator(torch.CPU, 0)
	if err != nil {
		return nil, err
	}
	m, err := dit.New(s, cfg)
	if err != nil {
		return nil, err
	}
	m.Init(s, gen)
	opt, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig, optim.Sharding{})
	if err != nil {
		return nil, err
	}
	indices := make([]int64, batch)
	for i := range indices {
		indices[i] = int64(i)
	}
	x0 := torch.Persist(s.PhiloxNormal(1, philox.TagPosterior, 0, indices, cfg.InChannels, cfg.InputSize, cfg.Width()))
	count := 0
	return func(s *torch.Scope) error {
		t, y := make([]int, batch), make([]int64, batch)
		for i := range t {
			indices[i] = int64(count*batch + i)
			t[i] = philox.Intn(diffusion.TrainSteps, 0, philox.TagTimestep, 0, uint64(indices[i]))
			y[i] = int64(philox.Intn(cfg.NumClasses+1, 0, philox.TagLabel, 0, uint64(indices[i])))
		}
		count++
		noise := s.PhiloxNormal(0, philox.TagStartNoise, 0, indices, cfg.InChannels, cfg.InputSize, cfg.Width())
		labels := torch.From(s, y, batch)
		losses := process.TrainingLosses(s, func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return m.Forward(s, x, t, dit.Condition{Labels: labels})
		}, x0, noise, t)
		loss := s.Mean(losses.Total)
		s.Backward(loss)
		opt.Step(s, optim.StepOptions{LR: 1e-4, EMADecay: 0.9999})
		loss.Item()
		return nil
	}, nil
}
