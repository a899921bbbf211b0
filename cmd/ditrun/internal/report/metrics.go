package report

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

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
	{describe("loss", "Training loss, mean since the log step before."), func(s *runs.Step) float64 { return float64(s.Loss) }},
	{describe("grad_norm", "Norm of the gradients before clipping, mean since the log step before."), func(s *runs.Step) float64 { return float64(s.GradNorm) }},
	{describe("images_per_second", "Images trained on per second."), func(s *runs.Step) float64 { return float64(s.ImagesPerSecond) }},
	{describe("tflops", "Achieved 10^12 floating point operations per second."), func(s *runs.Step) float64 { return float64(s.TFLOPS) }},
	{describe("data_wait_share", "Share of the time spent waiting for data, 0 to 1."), func(s *runs.Step) float64 { return float64(s.DataWaitShare) }},
	{describe("memory_bytes", "Memory in use."), func(s *runs.Step) float64 { return float64(s.MemoryBytes) }},
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

// ListenForMetrics opens addr, HOST:PORT, for [Metrics.Serve]. An empty host means every address of the machine, port 0 a
// free port.
func ListenForMetrics(addr string) (net.Listener, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fmt.Errorf("serve metrics: %w: want HOST:PORT, such as localhost:9464, or :9464 for every network", err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	return l, nil
}

// Serve answers GET /metrics on l until stop is called, which closes l. The URL is one that this machine can ask.
func (m *Metrics) Serve(l net.Listener) (url string, stop func()) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.handler)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends by stop; should the listener fail, training goes on without
	}()
	at := l.Addr().(*net.TCPAddr)
	host := at.IP.String()
	if at.IP.IsUnspecified() {
		host = "localhost"
	}
	url = "http://" + net.JoinHostPort(host, fmt.Sprint(at.Port)) + "/metrics"
	return url, sync.OnceFunc(func() { server.Close(); <-done })
}
