package report

import (
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ditrun/ditrun/diffusion/runs"
)

// Metrics holds the last log step for Prometheus to fetch. Before the first
// one there is only ditrun_run_info.
type Metrics struct {
	handler http.Handler
	info    prometheus.Metric

	mu      sync.Mutex
	last    *runs.Step
	skipped int // since this process began
}

// gauges are read from the last log step.
var gauges = []struct {
	desc  *prometheus.Desc
	value func(s *runs.Step) float64
}{
	{describe("step", "Steps done."), func(s *runs.Step) float64 { return float64(s.Step) }},
	{describe("loss", "Training loss, mean since the log step before."),
		func(s *runs.Step) float64 { return float64(s.Loss) }},
	{describe("grad_norm", "Norm of the gradients before clipping, mean since the log step before."),
		func(s *runs.Step) float64 { return float64(s.GradNorm) }},
	{describe("images_per_second", "Images trained on per second."),
		func(s *runs.Step) float64 { return float64(s.ImagesPerSecond) }},
	{describe("tflops", "Achieved 10^12 floating point operations per second."),
		func(s *runs.Step) float64 { return float64(s.TFLOPS) }},
	{describe("data_wait_share", "Share of the time spent waiting for data, 0 to 1."),
		func(s *runs.Step) float64 { return float64(s.DataWaitShare) }},
	{describe("memory_bytes", "The most memory that tensors on the GPU took; without a GPU the memory in use."),
		func(s *runs.Step) float64 { return float64(s.MemoryBytes) }},
	{describe("host_memory_bytes", "Memory of the host in use, 0 without a GPU."),
		func(s *runs.Step) float64 { return float64(s.HostMemoryBytes) }},
}

var (
	runInfo      = describe("run_info", "The run, in labels.", "run_id", "model")
	skippedSteps = describe("skipped_steps_total", "Steps that were not applied, since this process began.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ditrun_"+name, help, labels, nil)
}

func newMetrics(runID, model string) *Metrics {
	m := &Metrics{info: prometheus.MustNewConstMetric(runInfo, prometheus.GaugeValue, 1, runID, model)}
	// A registry of its own: the default one is shared by the process.
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return m
}

func (m *Metrics) set(s runs.Step) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = &s
	m.skipped += s.Skipped
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- runInfo
	ch <- skippedSteps
	for _, g := range gauges {
		ch <- g.desc
	}
}

// Collect implements [prometheus.Collector]: all values are of one log step.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	last, skipped := m.last, m.skipped
	m.mu.Unlock()
	ch <- m.info
	if last == nil {
		return
	}
	ch <- prometheus.MustNewConstMetric(skippedSteps, prometheus.CounterValue, float64(skipped))
	for _, g := range gauges {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(last))
	}
}
