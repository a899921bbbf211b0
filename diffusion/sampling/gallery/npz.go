package gallery

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint/numpy"
)

// An npzStore keeps pixels in the .npz that they will be in. Pixels that are in the file already pass through the
// writer, which needs their checksum, and are not written again.
type npzStore struct {
	path   string
	file   *retryFile
	npz    *numpy.NPZWriter
	pixels io.Writer
	labels []int64
}

func openNPZStore(ctx context.Context, path string, s partialState, set Set) (store pictureStore, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() < s.Bytes {
		return nil, errDamaged
	}
	if err := f.Truncate(s.Bytes); err != nil {
		return nil, err
	}
	n := &npzStore{path: path, file: &retryFile{File: f, ctx: ctx, kept: s.Bytes}}
	if set.Labels != nil {
		n.labels = make([]int64, len(set.Labels))
		for i, l := range set.Labels {
			n.labels[i] = int64(l)
		}
	}
	n.npz = numpy.NewNPZWriter(n.file)
	if n.pixels, err = n.npz.BeginUint8("arr_0", s.Total, set.Height, set.Width, 3); err != nil {
		return nil, err
	}
	if s.Done == 0 {
		return n, nil
	}
	begin, err := n.npz.Flush()
	if err != nil {
		return nil, err
	}
	if begin+3*int64(set.Height)*int64(set.Width)*int64(s.Done) != s.Bytes {
		return nil, errDamaged
	}
	if _, err := io.Copy(n.pixels, untilReader{ctx, io.NewSectionReader(f, begin, s.Bytes-begin)}); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *npzStore) add(_ int, p sampling.Pictures) (int64, error) {
	if _, err := n.pixels.Write(p.Pix); err != nil {
		return 0, err
	}
	bytes, err := n.npz.Flush()
	if err != nil {
		return 0, err
	}
	return bytes, n.file.sync()
}

func (n *npzStore) finish() (string, error) {
	if n.labels != nil {
		if err := n.npz.Add(numpy.Int64Array("arr_1", n.labels, len(n.labels))); err != nil {
			return "", err
		}
	}
	if err := n.npz.Close(); err != nil {
		return "", err
	}
	return n.path, n.file.sync()
}

func (n *npzStore) close() { n.file.Close() }

// A retryFile is written from its beginning, each write tried again where its error may pass. The first bytes, which it
// has, are dropped.
type retryFile struct {
	*os.File
	ctx      context.Context
	at, kept int64
}

func (f *retryFile) Write(p []byte) (int, error) {
	n := len(p)
	skip := min(max(f.kept-f.at, 0), int64(n))
	f.at += skip
	if p = p[skip:]; len(p) > 0 {
		err := disk.Retry(f.ctx, disk.Pauses(), func() error {
			_, err := f.WriteAt(p, f.at)
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("write %s: %w", f.Name(), disk.Bare(err))
		}
		f.at += int64(len(p))
	}
	return n, nil
}

func (f *retryFile) sync() error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), disk.Bare(err))
	}
	return nil
}

// An untilReader fails with the cause of ctx once that has ended.
type untilReader struct {
	ctx context.Context
	io.Reader
}

func (r untilReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}
