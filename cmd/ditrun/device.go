package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/torch/nn"
)

// openDevice opens libtorch, sets the number of threads and whether operations are fused, and returns the device
// that --device names. It is called once, before the first use of a tensor.
func (e *env) openDevice() (torch.Device, error) {
	if err := torch.Available(); err != nil {
		return torch.Device{}, withHint(err, "`ditrun doctor` shows what was looked for")
	}
	if e.threads > 0 {
		torch.SetNumThreads(e.threads)
	}
	torch.SetFused(!e.noFused)
	dev, err := torch.ParseDevice(e.device)
	if err != nil {
		return dev, withHint(err, "`ditrun doctor` shows the devices; --device cpu works everywhere")
	}
	return dev, nil
}

// openDeviceOf is openDevice for one of several processes: each takes a GPU of its own, where none is named.
func (e *env) openDeviceOf(p dist.Env) (torch.Device, error) {
	dev, err := e.openDevice()
	n, _ := torch.CUDAStatus()
	if err == nil && p.World > 1 && dev.IsCUDA() && (e.device == "auto" || e.device == "cuda") {
		return torch.ParseDevice(fmt.Sprintf("cuda:%d", p.LocalRank%max(n, 1)))
	}
	return dev, err
}

// withLessMemory adds to the error of work that ran out of memory what takes less, unless it says that itself.
func withLessMemory(err error, hint string) error {
	if !errors.Is(err, torch.ErrOutOfMemory) || errors.As(err, new(*training.BatchError)) {
		return err
	}
	return memoryError{err, hint}
}

// A memoryError is that of work that ran out of memory.
type memoryError struct {
	error
	hint string
}

func (e memoryError) Unwrap() error { return e.error }

// describeDevice says in words what computes: "cpu (2 threads)", "cuda:0 (NVIDIA H200)".
func describeDevice(dev torch.Device) string {
	if name := dev.Name(); name != "" {
		return fmt.Sprintf("%s (%s)", dev, name)
	} else if dev.IsCUDA() {
		return dev.String()
	}
	return fmt.Sprintf("%s (%s)", dev, plural(torch.NumThreads(), "thread"))
}

// precisionFlag is the flag of commands that run a model.
func precisionFlag(p *nn.Precision, usage string) cli.Flag {
	return &cli.StringFlag{Name: "precision", Destination: (*string)(p), DefaultText: "tf32 on CUDA, else fp32",
		Usage: "`TYPE`: " + usage}
}
