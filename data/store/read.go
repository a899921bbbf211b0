package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/ditrun/ditrun/internal/transfer"
)

// remoteFile reads ranges of an object. Opening it asks nothing.
type remoteFile struct {
	ctx context.Context
	b   *bucket
	key string
	o   Object
}

func (f *remoteFile) Close() error { return nil }

// maxFailures is how often in a row a read may fail, with hardly a byte, before it is given up: with the pauses
// between, some twenty seconds of throttling or of no network.
const maxFailures = 8

// pause before attempt n after a failure: doubling from first, with chance so that many readers that were turned away
// together do not come back together.
func pause(first time.Duration, n int) time.Duration {
	d := min(first<<n, 10*time.Second)
	return d/2 + rand.N(d/2)
}

// ReadAt reads with as many requests as it takes: what was read before a connection broke is not asked for again.
func (f *remoteFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read s3://%s/%s: offset %d", f.b.name, f.key, off)
	}
	want := int(min(int64(len(p)), max(f.o.Size-off, 0)))
	done, failures := 0, 0
	for done < want {
		n, err := f.get(p[done:want], off+int64(done))
		done += n
		if n >= transfer.LeastBytes {
			failures = 0
		}
		if err == nil {
			continue
		}
		if failures++; failures >= maxFailures || !passing(err) || f.ctx.Err() != nil {
			return done, fmt.Errorf("read s3://%s/%s: bytes %d to %d of %d: %w", f.b.name, f.key, off+int64(done),
				off+int64(want), f.o.Size, f.b.explain(err))
		}
		select {
		case <-time.After(pause(f.b.pause, failures-1)):
		case <-f.ctx.Done():
		}
	}
	if want < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// errPermanent marks what another attempt would meet again.
var errPermanent = errors.New("not repeated")

// passing says whether an error may be gone at the next attempt.
func passing(err error) bool {
	if errors.Is(err, errPermanent) || errors.Is(err, context.Canceled) {
		return false
	}
	var r minio.ErrorResponse
	if errors.As(err, &r) && r.StatusCode != 0 {
		return r.StatusCode == http.StatusTooManyRequests || r.StatusCode == http.StatusRequestTimeout ||
			r.StatusCode >= 500
	}
	return true // of the connection
}

// get makes one request for the bytes of p at off and returns how many came.
func (f *remoteFile) get(p []byte, off int64) (int, error) {
	var o minio.GetObjectOptions
	if err := o.SetRange(off, off+int64(len(p))-1); err != nil {
		return 0, fmt.Errorf("%w: %w", errPermanent, err)
	}
	if err := o.SetMatchETag(f.o.Version); err != nil {
		return 0, fmt.Errorf("%w: %w", errPermanent, err)
	}
	body, info, header, err := f.b.read.GetObject(f.ctx, f.b.name, f.key, o)
	if err != nil {
		if minio.ToErrorResponse(err).StatusCode == http.StatusPreconditionFailed {
			return 0, fmt.Errorf("%w: the object was changed since it was listed: start again", errPermanent)
		}
		return 0, err
	}
	defer body.Close()
	if info.ETag != f.o.Version {
		return 0, fmt.Errorf("%w: the object was changed since it was listed (etag %q, then %q): start again",
			errPermanent, info.ETag, f.o.Version)
	}
	whole := off == 0 && int64(len(p)) == f.o.Size
	if r := header.Get("Content-Range"); !strings.HasPrefix(r, fmt.Sprintf("bytes %d-%d/", off, off+int64(len(p))-1)) &&
		!(r == "" && whole) {
		return 0, fmt.Errorf("%w: the server sent the range %q instead of %d-%d", errPermanent, r, off,
			off+int64(len(p))-1)
	}
	n := 0
	for n < len(p) {
		k, err := body.Read(p[n:])
		n += k
		if err != nil && n < len(p) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	return n, nil
}
