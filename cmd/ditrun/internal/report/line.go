package report

import (
	"fmt"
	"strings"
	"time"

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
	if s.HostMemoryBytes != 0 {
		fmt.Fprintf(&b, ", Host Memory: %s", format.Bytes(s.HostMemoryBytes))
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

// ShortLine is the line of a log step on the console, at most 80 columns wide: it begins as Line does, and has what a
// person watches. Left is the time to the end of the run, 0 where it is not known. What is last in order of use gives
// way where figures are wide; Line and log.jsonl have all.
func ShortLine(s runs.Step, left time.Duration) string {
	line := fmt.Sprintf("(step=%07d) Train Loss: %.4f", s.Step, float64(s.Loss))
	items := []string{format.Rate(float64(s.ImagesPerSecond)) + " images/s"}
	if left > 0 {
		items = append(items, "ETA "+format.Estimate(left))
	}
	if s.Skipped != 0 {
		items = append(items, fmt.Sprintf("skipped %d", s.Skipped))
	}
	// A share that is worth doing something about: more workers, a faster disk.
	if s.DataWaitShare >= 0.1 {
		items = append(items, fmt.Sprintf("data wait %.0f%%", 100*float64(s.DataWaitShare)))
	}
	if s.MFU != 0 {
		items = append(items, fmt.Sprintf("MFU %.0f%%", 100*float64(s.MFU)))
	}
	if s.MemoryBytes != 0 {
		items = append(items, format.Bytes(s.MemoryBytes))
	}
	for _, item := range items {
		if longer := line + ", " + item; len(longer) <= format.LineWidth {
			line = longer
		}
	}
	return line
}
