package hub

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ditrun/ditrun/internal/transfer"
)

// A PartialError is a download that failed, of which Path holds the first Bytes bytes: the same call continues there.
type PartialError struct {
	err   error
	Path  string
	Bytes int64
}

func (e *PartialError) Error() string { return e.err.Error() }
func (e *PartialError) Unwrap() error { return e.err }

// A finalError would be met again by another try.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

func final(err error) error { return finalError{err} }

var (
	errNoSpace = final(errors.New("not enough disk space"))
	errTooLong = final(errors.New("the server sends more than it said"))
	errEndless = final(errors.New("the server still sends"))
	errRange   = errors.New("the server does not continue the file")
	errNoMark  = errors.New("the server says nothing by which the file could be continued: no ETag, no Last-Modified")
)

// A statusError is an answer that is no file.
type statusError struct {
	what  string
	code  int
	after time.Duration // that the server asks to wait
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("%s: the server answers %d %s", e.what, e.code, http.StatusText(e.code))
	switch e.code {
	case http.StatusUnauthorized, http.StatusForbidden:
		text += ": accept its licence on the web page of the repository, and set HF_TOKEN"
	case http.StatusNotFound:
		text += ": no such repository, revision or file, or a private one (HF_TOKEN)"
	}
	return text
}

func statusOf(what string, r *http.Response) *statusError {
	seconds, _ := strconv.Atoi(r.Header.Get("Retry-After"))
	return &statusError{what, r.StatusCode, time.Duration(min(max(seconds, 0), 3600)) * time.Second}
}

// ErrOffline says that the user wants no network.
var ErrOffline = errors.New("HF_HUB_OFFLINE is set")

// An UnreachableError says that a server, or the proxy before it, does not answer at all: there is no network, its name
// is not known, or nobody listens there.
type UnreachableError struct {
	Host  string
	proxy bool // it is the proxy that does not answer
	why   string
	err   error
}

func (e *UnreachableError) Error() string {
	if e.proxy {
		return e.Host + " cannot be reached through the proxy: " + e.why
	}
	return e.Host + " cannot be reached: " + e.why
}

func (e *UnreachableError) Unwrap() error { return e.err }

// unreachable makes an [UnreachableError] of an error of net/http where it is one, and returns others as they are.
func unreachable(err error) error {
	var (
		request *url.Error
		network *net.OpError
		name    *net.DNSError
	)
	if !errors.As(err, &request) || !errors.As(err, &network) || !neverConnected(network) {
		return err
	}
	e := &UnreachableError{proxy: network.Op == proxyConnect, err: err}
	if u, err := url.Parse(request.URL); err == nil {
		e.Host = u.Host
	}
	if errors.As(err, &name) {
		e.why = name.Err
	} else {
		cause := network.Err
		for inner := cause; inner != nil; inner = errors.Unwrap(inner) {
			cause = inner
		}
		e.why = cause.Error()
	}
	return e
}

const proxyConnect = "proxyconnect" // as net/http calls it

func neverConnected(e *net.OpError) bool { return e.Op == "dial" || e.Op == proxyConnect }

// broken are parts of the errors of net/http for answers that are no HTTP; it has no types for them.
var broken = []string{"malformed", "bad Content-Length", "response headers exceeded", "failed to parse Location header"}

func isBroken(err error) bool {
	return slices.ContainsFunc(broken, func(text string) bool { return strings.Contains(err.Error(), text) })
}

// again returns how often a request is to be made whose try, counted from 0, ended with err, and the pause before the
// next.
func again(err error, try int) (pause time.Duration, tries int) {
	pause = min(time.Second<<try, maxWait)
	var (
		status  *statusError
		network *net.OpError
		stall   *transfer.StallError
	)
	switch {
	case errors.As(err, new(finalError)), isBroken(err),
		errors.As(err, new(*fs.PathError)), // of this machine: no space, a limit, no permission
		errors.As(err, new(*tls.CertificateVerificationError)), errors.As(err, new(tls.RecordHeaderError)),
		errors.Is(err, http.ErrSchemeMismatch),
		errors.As(err, &network) && neverConnected(network):
		return 0, 1
	case errors.As(err, &status):
		if status.code != http.StatusTooManyRequests && status.code < 500 {
			return 0, 1
		}
		return min(max(pause, status.after), maxWait), maxTries
	case errors.Is(err, errNoMark): // all of it again
		return pause, 2
	case errors.As(err, &stall) && !stall.Answered:
		return pause, 3
	}
	return pause, maxTries
}
