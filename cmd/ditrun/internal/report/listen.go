package report

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// ListenForMetrics opens addr, HOST:PORT, for [Metrics.Serve]. An empty host means every address of the machine, port
// 0 a free port.
func ListenForMetrics(addr string) (net.Listener, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fmt.Errorf("serve metrics: %w: want HOST:PORT, such as localhost:9464, or :9464 for every network",
			err)
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
	server := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 1 << 14}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(&fewClients{Listener: l}) // ends by stop; should the listener fail, training goes on without
	}()
	at := l.Addr().(*net.TCPAddr)
	host := at.IP.String()
	if at.IP.IsUnspecified() {
		host = "localhost"
	}
	url = "http://" + net.JoinHostPort(host, fmt.Sprint(at.Port)) + "/metrics"
	return url, sync.OnceFunc(func() { server.Close(); <-done })
}

// maxClients is how many connections the metrics have at once: each takes a descriptor that the run may need.
const maxClients = 16

// fewClients is a listener with at most maxClients connections. A new one takes the place of the oldest, so that
// clients which hold theirs and ask nothing keep nobody out.
type fewClients struct {
	net.Listener

	mu   sync.Mutex
	open []*client // the oldest first
}

type client struct {
	net.Conn
	of *fewClients
}

func (l *fewClients) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &client{conn, l}
	var oldest *client
	l.mu.Lock()
	if len(l.open) == maxClients {
		oldest, l.open = l.open[0], l.open[1:]
	}
	l.open = append(l.open, c)
	l.mu.Unlock()
	if oldest != nil {
		oldest.Conn.Close()
	}
	return c, nil
}

func (c *client) Close() error {
	c.of.mu.Lock()
	c.of.open = slices.DeleteFunc(c.of.open, func(o *client) bool { return o == c })
	c.of.mu.Unlock()
	return c.Conn.Close()
}
