package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/ditrun/ditrun/torch"
)

// A launch says which of several processes this one is that torchrun or Slurm started together. They need no other
// connection than a common folder.
type launch struct {
	rank, world, local int // world is 1 for a process started alone
}

// readLaunch reads the environment that torchrun (RANK, WORLD_SIZE, LOCAL_RANK) or srun (SLURM_PROCID, ...) sets.
func readLaunch() (launch, error) {
	for _, names := range [][3]string{{"RANK", "WORLD_SIZE", "LOCAL_RANK"}, {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"}} {
		if os.Getenv(names[0]) == "" || os.Getenv(names[1]) == "" {
			continue
		}
		var v [3]int
		for i, name := range names {
			text := os.Getenv(name)
			if i == 2 && text == "" {
				text = "0"
			}
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 {
				return launch{}, fmt.Errorf("environment: %s=%q: want a number of at least 0", name, text)
			}
			v[i] = n
		}
		if v[0] >= v[1] {
			return launch{}, fmt.Errorf("environment: %s=%d of %s=%d: want ranks from 0", names[0], v[0], names[1], v[1])
		}
		return launch{v[0], v[1], v[2]}, nil
	}
	return launch{world: 1}, nil
}

// openDeviceOf is openDevice for one of several processes: each takes a GPU of its own, where none is named.
func (e *env) openDeviceOf(l launch) (torch.Device, error) {
	dev, err := e.openDevice()
	n, _ := torch.CUDAStatus()
	if err == nil && l.world > 1 && dev.IsCUDA() && (e.device == "auto" || e.device == "cuda") {
		return torch.ParseDevice(fmt.Sprintf("cuda:%d", l.local%max(n, 1)))
	}
	return dev, err
}
