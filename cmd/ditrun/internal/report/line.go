package report

import (
	"fmt"
	"strings"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/diffusion/runs"
)

// Line is the line of log.txt for a log step, without its time stamp. It begins as DiT's
// does, "(step=0000100) Train Loss: 0.1234, Train Steps/Sec: 0.84", so that
// tools which read those logs read these.
func Line(s runs.Step) string {
	var b strings.Builder
	fmt.Fprintf(&b, "(step=%07d) Train Loss: %.4f, Train Steps/Sec: %.2f", s.Step, float64(s.Loss),
		float64(s.StepsPerSecond))
	fmt.Fprintf(&b, ", Images/Sec: %s", format.Rate(float64(s.ImagesPerSecond)))
	if s.TFLOPS != 0 {
		fmt.Fprintf(&b, ", TFLOP/s: %s", format.Rate(float64(s.TFLOPS)))
	}
	if s.MFU != 0 {
		fmt.Fprintf(&b, ", MFU: %.1f%%", 100*float64(s.MFU))
	}
	fmt.Fprintf(&b, ", Data Wait: %.1f%%", 100*float64(s.DataWaitShare))
	if s.MemoryBytes != 0 {
		fmt.Fprintf(&b, ", Memory: %s", format.Bytes(s.MemoryBytes))
	}
	if s.Skipped != 0 {
		fmt.Fprintf(&b, ", Skipped: %d", s.Skipped)
	}
	if s.GradNorm != 0 {
		fmt.Fprintf(&b, ", Grad Norm: %.3g", float64(s.GradNorm))
	}
	fmt.Fprintf(&b, ", LR: %.3g", float64(s.LR))
	return b.String()
}
