package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// drip sends n bytes, each after a pause.
func drip(w http.ResponseWriter, r *http.Request, n int, pause time.Duration) {
	for range n {
		if _, err := w.Write([]byte("x")); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(pause):
		}
	}
}

func TestLimit(t *testing.T) {
	whole := bytes.Repeat([]byte("0123456789"), 50_000)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/whole":
			w.Write(whole)
		case "/silent":
			<-r.Context().Done()
		case "/half":
			w.Header().Set("Content-Length", "1000000")
			w.Write(whole)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/drip":
			drip(w, r, 1_000_000, 20*time.Millisecond)
		}
	}))
	defer srv.Close()
	limits := Limits{700 * time.Millisecond, 700 * time.Millisecond}
	client := http.Client{Transport: Limit(http.DefaultTransport, limits)}
	for path, answered := range map[string]bool{"/silent": false, "/half": true, "/drip": true} {
		resp, err := client.Get(srv.URL + path)
		var n int64
		if err == nil {
			n, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		stall := (*StallError)(nil)
		if !errors.As(err, &stall) || stall.Answered != answered {
			t.Errorf("%s: error %v after %d bytes", path, err, n)
		}
		if path == "/half" && n != int64(len(whole)) {
			t.Errorf("%d bytes before the stall, want %d", n, len(whole))
		}
	}
	// A reader that takes its time is not the server's fault.
	resp, err := client.Get(srv.URL + "/whole")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got []byte
	for part := make([]byte, 200_000); ; {
		n, err := resp.Body.Read(part)
		got = append(got, part[:n]...)
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if len(got) < 300_000 {
			time.Sleep(limits.Idle * 3 / 2)
		}
	}
	if !bytes.Equal(got, whole) {
		t.Errorf("%d bytes or others, want %d", len(got), len(whole))
	}
	// What the caller cancels is no stall.
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/whole", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(req); !errors.Is(err, cause) || errors.As(err, new(*StallError)) {
		t.Errorf("cancelled: %v", err)
	}
}
