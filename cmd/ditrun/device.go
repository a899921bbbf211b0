package main

import (
	"fmt"

	"github.com/ditrun/ditrun/torch"
)

// openDevice opens libtorch, sets the number of threads and returns the device
// that --device names. It is called once, before the first use of a tensor.
func (e *env) openDevice() (torch.Device, error) {
	if err := torch.Available(); err != nil {
		return torch.Device{}, withHint(err, "`ditrun doctor` shows what was looked for")
	}
	if e.threads > 0 {
		torch.SetNumThreads(e.threads)
	}
	dev, err := torch.ParseDevice(e.device)
	if err != nil {
		return dev, withHint(err, "`ditrun doctor` shows the devices; --device cpu works everywhere")
	}
	return dev, nil
}

// describeDevice says in words what computes: "cpu (2 threads)".
func describeDevice(dev torch.Device) string {
	if dev.IsCUDA() {
		return dev.String()
	}
	return fmt.Sprintf("%s (%s)", dev, plural(torch.NumThreads(), "thread"))
}
