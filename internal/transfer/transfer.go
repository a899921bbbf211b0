// Package transfer makes HTTP requests whose waits end: for the beginning of an answer, and for its bytes.
package transfer

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Limits say how long a request waits.
type Limits struct {
	Header time.Duration // for a connection and the header of the answer
	Idle   time.Duration // for the next LeastBytes of a body, or its end
}

// DefaultLimits are for servers on the internet.
var DefaultLimits = Limits{Header: 10 * time.Second, Idle: 30 * time.Second}

// LeastBytes must come within [Limits.Idle]. A connection that brings less is as good as broken: a model would take
// years.
const LeastBytes = 1000

// A StallError says that a server kept a request waiting too long. Another request may succeed.
type StallError struct {
	Answered bool // the header had come
	After    time.Duration
}

func (e *StallError) Error() string {
	if !e.Answered {
		return fmt.Sprintf("no answer within %v", e.After)
	}
	return fmt.Sprintf("fewer than %d bytes came within %v", LeastBytes, e.After)
}

// Limit returns next with requests, and the bodies of their answers, that fail with a [StallError] where the server
// takes longer than l. The time that the caller takes between reads does not count. Bodies must be closed.
func Limit(next http.RoundTripper, l Limits) http.RoundTripper { return limited{next, l} }

type limited struct {
	next http.RoundTripper
	Limits
}

func (t limited) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	late := time.AfterFunc(t.Header, func() { cancel(&StallError{false, t.Header}) })
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	if !late.Stop() && err == nil { // the body could not be read any more
		resp.Body.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		err = stallOr(ctx, err)
		cancel(nil)
		return nil, err
	}
	b := &body{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, idle: t.Idle}
	b.late = time.AfterFunc(t.Idle, func() { cancel(&StallError{true, t.Idle}) })
	b.late.Stop()
	resp.Body = b
	return resp, nil
}

// stallOr returns the stall for which a request was cancelled, else err.
func stallOr(ctx context.Context, err error) error {
	if s, ok := context.Cause(ctx).(*StallError); ok {
		return s
	}
	return err
}

type body struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	idle   time.Duration
	late   *time.Timer
	waited time.Duration // in reads that brought bytes
	bytes  int           // that they brought
}

func (b *body) Read(p []byte) (int, error) {
	start := time.Now()
	b.late.Reset(max(b.idle-b.waited, 0))
	n, err := b.ReadCloser.Read(p)
	b.late.Stop()
	b.waited += time.Since(start)
	if b.bytes += n; b.bytes >= LeastBytes {
		b.bytes, b.waited = 0, 0
	}
	if err != nil && err != io.EOF {
		err = stallOr(b.ctx, err)
	}
	return n, err
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.late.Stop()
	b.cancel(nil)
	return err
}
