package report

import (
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// scrape fetches url and returns its lines without comments.
func scrape(t *testing.T, url string) []string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		t.Fatalf("%s: status %d, %s, %v", url, resp.StatusCode, resp.Header.Get("Content-Type"), err)
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func serve(t *testing.T, m *Metrics, addr string) (url string, stop func()) {
	t.Helper()
	l, err := ListenForMetrics(addr)
	if err != nil {
		t.Fatal(err)
	}
	url, stop = m.Serve(l)
	t.Cleanup(stop)
	return url, stop
}

func TestMetrics(t *testing.T) {
	r := create(t, options(t.TempDir()))
	url, stop := serve(t, r.Metrics(), "127.0.0.1:0")
	info := `ditrun_run_info{model="DiT-XL/2",run_id="` + r.ID() + `"} 1`
	if got := scrape(t, url); !slices.Equal(got, []string{info}) {
		t.Errorf("before the first log step: %q, want %q", got, info)
	}
	for i, loss := range []float64{0.5, 0.25, math.NaN()} {
		s := step(100*(i+1), loss)
		s.Skipped = i
		if err := r.Log(s); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"ditrun_data_wait_share 0.012", "ditrun_grad_norm 1.25", "ditrun_host_memory_bytes 0",
		"ditrun_images_per_second 215.04",
		"ditrun_loss NaN", "ditrun_memory_bytes 1.3e+09",
		info, "ditrun_skipped_steps_total 3", "ditrun_step 300", "ditrun_tflops 0.0912"}
	if got := scrape(t, url); !slices.Equal(got, want) {
		t.Errorf("metrics %q, want %q", got, want)
	}
	stop()
	stop()
	if _, err := http.Get(url); err == nil {
		t.Error("served after close")
	}
}

// Clients that hold half a request each take neither the descriptors of the run nor the place of a scrape.
func TestMetricsFlood(t *testing.T) {
	url, _ := serve(t, newMetrics("id", "DiT-S/2"), "127.0.0.1:0")
	address := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/metrics")
	const clients = 300
	var held []net.Conn
	for range clients {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("GET /met")); err != nil {
			continue // closed already
		}
		held = append(held, c)
	}
	http.DefaultClient.CloseIdleConnections() // the scrape comes as one more client
	scrape(t, url)
	open := 0
	for _, c := range held {
		if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	if open > maxClients {
		t.Errorf("%d of %d half-open connections are held, want at most %d", open, clients, maxClients)
	}
}

func TestMetricsAddress(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for addr, want := range map[string]string{
		"9464": "serve metrics: address 9464: missing port in address: want HOST:PORT, such as " +
			"localhost:9464",
		"localhost:x":         "serve metrics: listen tcp: lookup tcp/x: ",
		"127.0.0.1:70000":     "serve metrics: listen tcp: address 70000: invalid port",
		taken.Addr().String(): "serve metrics: listen tcp " + taken.Addr().String() + ": bind: address already in use",
	} {
		l, err := ListenForMetrics(addr)
		if err == nil {
			l.Close()
			t.Errorf("%s: served at %s", addr, l.Addr())
		} else if !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", addr, err, want)
		}
	}
	url, _ := serve(t, newMetrics("id", "DiT-S/2"), ":0")
	if !strings.HasPrefix(url, "http://localhost:") {
		t.Errorf("address %s cannot be opened", url)
	}
	scrape(t, url)
}
