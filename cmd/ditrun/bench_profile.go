package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/bench"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/torch"
)

// profileRows are how many kernels the table names.
const profileRows = 25

// profile prints what kernels, or on the CPU operations, took of the time of a round.
func (b *benchRun) profile(work string, p *bench.Profile) {
	what := "operation"
	if b.job.Device != torch.CPU {
		what = "kernel"
	}
	b.printf("")
	b.printf("%s: %s in %s ms with the profiler", work, plural(p.Steps, "step"), format.Rate(1e3*p.Seconds))
	row := func(share, ms, calls, name string) {
		line := fmt.Sprintf("%7s %10s %8s  %s", share, ms, calls, name)
		b.printf("%s", line[:min(len(line), format.LineWidth)])
	}
	took := func(seconds float64, calls, name string) {
		row(fmt.Sprintf("%.1f %%", 100*seconds/p.Seconds), format.Rate(1e3*seconds), calls, name)
	}
	row("share", "ms", "calls", what)
	between, others, calls := p.Seconds, 0.0, 0
	for i, t := range p.Timings {
		between -= t.Seconds
		if i >= profileRows {
			others += t.Seconds
			calls += t.Calls
			continue
		}
		took(t.Seconds, format.Count(int64(t.Calls)), kernelName(t.Name))
	}
	if n := len(p.Timings) - profileRows; n > 0 {
		took(others, format.Count(int64(calls)), plural(n, "other"))
	}
	if between > 0 { // kernels of several streams may be at work at once
		took(between, "-", "between "+what+"s")
	}
}

// What is left out of the C++ names of kernels, so that more of what tells them apart fits the line.
var inKernelNames = regexp.MustCompile(`^void |\(anonymous namespace\)::|at::native::|c10::`)

// kernelName shortens the name of a kernel, and leaves out its arguments. "Memset (Device)" has none.
func kernelName(name string) string {
	name = inKernelNames.ReplaceAllString(name, "")
	if !strings.HasSuffix(name, ")") {
		return name
	}
	depth := 0
	for i := len(name) - 1; i > 0; i-- {
		switch name[i] {
		case ')':
			depth++
		case '(':
			depth--
		}
		if depth == 0 {
			if name[i-1] == ' ' {
				return name
			}
			return name[:i]
		}
	}
	return name
}
