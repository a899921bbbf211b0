package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// A partial is a folder beside the output, .NAME.KEY.partial, where pictures lie until all of them are there. The
// key is that of the request, so that the same command continues with its own pictures and no others.
type partial struct {
	dir, out string
	lock     *disk.Lock
	state    partialState
	pictures pictureStore
	others   []string // folders of other requests for the same output
}

// partialState is the file that says how far a partial is: pictures beyond are drawn again.
type partialState struct {
	Key   string `json:"key"`
	Done  int    `json:"done"`
	Total int    `json:"total"`
	Bytes int64  `json:"bytes,omitempty"` // of an .npz, with the pictures that are done
}

// A pictureStore keeps the pictures of a partial.
type pictureStore interface {
	// add writes the next pictures, the first of them being number at, and syncs them. Bytes is that of partialState.
	add(at int, p sampling.Pictures) (bytes int64, err error)
	// finish ends the file or folder and returns its path.
	finish() (path string, err error)
	close()
}

const (
	partialEnd   = ".partial"
	partialFile  = "state.json"
	partialLock  = "lock"
	partialItems = "pictures" // a folder, or with .npz a file
)

// errDamaged says that the pictures of a partial are not what its state says.
var errDamaged = errors.New("damaged")

// openPartial opens the partial for total pictures, of a request with a key, whose whole batches have so many. The
// store is opened for what the state says; where that turns out wrong, for nothing.
func openPartial(out, key string, total, batch int,
	open func(items string, s partialState) (pictureStore, error)) (*partial, error) {
	out, err := filepath.Abs(out)
	if err != nil {
		return nil, err
	}
	p := &partial{out: out}
	p.dir = filepath.Join(filepath.Dir(out), fmt.Sprintf(".%s.%.12s%s", filepath.Base(out), key, partialEnd))
	for _, dir := range partialsOf(out) {
		if dir != p.dir {
			p.others = append(p.others, dir)
		}
	}
	if err := os.Mkdir(p.dir, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if p.lock, err = disk.TryLock(filepath.Join(p.dir, partialLock)); err != nil {
		if errors.Is(err, disk.ErrLocked) {
			err = fmt.Errorf("%s: another process is drawing these pictures", out)
		}
		return nil, err
	}
	disk.SweepFolder(p.dir)
	p.state = readPartial(p.dir)
	s := p.state
	if s.Key != key || s.Total != total || s.Done < 0 || s.Done > total || s.Done%batch != 0 && s.Done != total {
		p.state = partialState{Key: key, Total: total}
	}
	items := filepath.Join(p.dir, partialItems)
	if p.pictures, err = open(items, p.state); errors.Is(err, errDamaged) {
		p.state = partialState{Key: key, Total: total}
		p.pictures, err = open(items, p.state)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// readPartial reads the state of the partial in dir; what is no state is that of nothing.
func readPartial(dir string) (s partialState) {
	text, err := os.ReadFile(filepath.Join(dir, partialFile))
	if err != nil || json.Unmarshal(text, &s) != nil {
		return partialState{}
	}
	return s
}

// partialsOf lists the partials of an output, whatever the request.
func partialsOf(out string) (dirs []string) {
	dir, base := filepath.Split(out)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		key, ok := strings.CutPrefix(e.Name(), "."+base+".")
		if key, is := strings.CutSuffix(key, partialEnd); ok && is && e.IsDir() && len(key) == 12 {
			dirs = append(dirs, filepath.Join(dir, e.Name()))
		}
	}
	return dirs
}

// sweepPartials removes partials that nobody uses and whose pictures have their name already: of a command that was
// killed in its last moment.
func sweepPartials(out string) {
	out, err := filepath.Abs(out)
	if err != nil {
		return
	}
	for _, dir := range partialsOf(out) {
		if !exists(filepath.Join(dir, partialItems)) {
			removePartial(dir)
		}
	}
}

// removePartial removes a partial unless a process uses it.
func removePartial(dir string) {
	if lock, err := disk.TryLock(filepath.Join(dir, partialLock)); err == nil {
		os.RemoveAll(dir)
		lock.Unlock()
	}
}

func (p *partial) have() int { return p.state.Done }

func (p *partial) add(made sampling.Pictures) error {
	bytes, err := p.pictures.add(p.state.Done, made)
	if err != nil {
		return err
	}
	p.state.Done += len(made.Pix) / (3 * made.Height * made.Width)
	p.state.Bytes = bytes
	text, err := json.Marshal(p.state)
	if err != nil {
		return err
	}
	return disk.WriteBytes(filepath.Join(p.dir, partialFile), append(text, '\n'))
}

func (p *partial) finish() error {
	made, err := p.pictures.finish()
	if err != nil {
		return err
	}
	if err := disk.Place(made, p.out); err != nil {
		return err
	}
	// What other requests left for this output has no use now.
	for _, dir := range p.others {
		removePartial(dir)
	}
	p.state.Done = 0
	return nil
}

// close ends the use of the partial. It returns how many pictures are kept to be continued with.
func (p *partial) close() int {
	if p.pictures != nil {
		p.pictures.close()
	}
	if p.state.Done == 0 {
		os.RemoveAll(p.dir)
	}
	p.lock.Unlock()
	return p.state.Done
}

// momentaryPauses are those before new tries of a write that failed for a reason which may pass.
func momentaryPauses() []time.Duration {
	return []time.Duration{time.Second, 3 * time.Second, 10 * time.Second}
}

// A folderStore keeps single pictures.
type folderStore struct {
	ctx   context.Context
	dir   string
	n     int
	what  asked
	names []string
}

func openFolderStore(ctx context.Context, dir string, s partialState, what asked,
	names []string) (pictureStore, error) {
	if s.Done == 0 {
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	} else if !exists(sheet.NumberedName(dir, s.Done-1)) {
		return nil, errDamaged
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	disk.SweepFolder(dir)
	return &folderStore{ctx, dir, s.Total, what, names}, nil
}

func (f *folderStore) add(at int, p sampling.Pictures) (int64, error) {
	images, err := sheet.Batch(p.Pix, len(p.Pix)/(3*p.Height*p.Width), p.Width, p.Height)
	if err != nil {
		return 0, err
	}
	for i, img := range images {
		path := sheet.NumberedName(f.dir, at+i)
		err := disk.Retry(f.ctx, momentaryPauses(), func() error { return sheet.WritePNG(path, img) })
		if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func (f *folderStore) finish() (string, error) {
	return f.dir, writeLabels(f.dir, f.n, f.what, f.names)
}

func (f *folderStore) close() {}

// An npzStore keeps pixels in the .npz that they will be in. What a command before wrote is written again in thought
// alone: it passes through the writer, which sums it up, and is not put into the file.
type npzStore struct {
	path   string
	file   *retryFile
	npz    *checkpoint.NPZWriter
	pixels io.Writer
	labels []int64
}

func openNPZStore(ctx context.Context, path string, s partialState, height, width int,
	labels []int) (st pictureStore, err error) {
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
	if labels != nil {
		n.labels = make([]int64, len(labels))
		for i, l := range labels {
			n.labels[i] = int64(l)
		}
	}
	n.npz = checkpoint.NewNPZWriter(n.file)
	if n.pixels, err = n.npz.BeginUint8("arr_0", s.Total, height, width, 3); err != nil {
		return nil, err
	}
	if s.Done == 0 {
		return n, nil
	}
	begin, err := n.npz.Flush()
	if err != nil {
		return nil, err
	}
	if begin+3*int64(height)*int64(width)*int64(s.Done) != s.Bytes {
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
		if err := n.npz.Add(checkpoint.Int64Array("arr_1", n.labels, len(n.labels))); err != nil {
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
		err := disk.Retry(f.ctx, momentaryPauses(), func() error {
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
