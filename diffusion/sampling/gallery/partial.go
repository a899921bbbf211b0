package gallery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
)

// A Partial is a folder beside an output, .NAME.KEY.partial, where pictures lie until all of them are there. The key is
// that of the request, so that it is continued with its own pictures and no others.
type Partial struct {
	Dir         string
	Done, Total int
}

// Partials lists what there is of an output, whatever the request.
func Partials(path string) (list []Partial) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	for _, dir := range partialsOf(path) {
		s := readState(dir)
		list = append(list, Partial{dir, s.Done, s.Total})
	}
	return list
}

// A partial is the output that is kept in a [Partial].
type partial struct {
	dir, out string
	lock     *disk.Lock
	state    partialState
	pictures pictureStore
	others   []Partial
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
	// add writes and syncs the next pictures, of which the first has this number. Bytes is that of partialState.
	add(first int, p sampling.Pictures) (bytes int64, err error)
	// finish ends the file or folder and returns its path.
	finish() (path string, err error)
	close()
}

const (
	keyLength    = 12 // of the key that stands in the name of the folder
	partialEnd   = ".partial"
	partialFile  = "state.json"
	partialLock  = "lock"
	partialItems = "pictures" // a folder, or with .npz a file
)

// errDamaged says that the pictures of a partial are not what its state says.
var errDamaged = errors.New("damaged")

// openPartial opens the partial of a set for what its state says, or for nothing where the pictures are not that.
func openPartial(ctx context.Context, path string, set Set) (Output, error) {
	key, err := set.Key()
	if err != nil {
		return nil, err
	}
	p := &partial{}
	if p.out, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	name := fmt.Sprintf(".%s.%.*s%s", filepath.Base(p.out), keyLength, key, partialEnd)
	p.dir = filepath.Join(filepath.Dir(p.out), name)
	for _, other := range Partials(p.out) {
		if other.Dir != p.dir {
			p.others = append(p.others, other)
		}
	}
	if err := os.Mkdir(p.dir, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if p.lock, err = disk.TryLock(filepath.Join(p.dir, partialLock)); err != nil {
		if errors.Is(err, disk.ErrLocked) {
			err = fmt.Errorf("%s: another process is drawing these pictures", p.out)
		}
		return nil, err
	}
	disk.SweepFolder(p.dir)
	nothing := partialState{Key: key, Total: set.Count}
	if p.state = readState(p.dir); !p.state.fits(key, set) {
		p.state = nothing
	}
	if p.pictures, err = p.openStore(ctx, set); errors.Is(err, errDamaged) {
		p.state = nothing
		p.pictures, err = p.openStore(ctx, set)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// fits says whether a state can be that of a set.
func (s partialState) fits(key string, set Set) bool {
	whole := s.Done == s.Total || set.BatchSize > 0 && s.Done%set.BatchSize == 0
	return s.Key == key && s.Total == set.Count && s.Done >= 0 && s.Done <= s.Total && (whole || s.Done == 0)
}

func (p *partial) openStore(ctx context.Context, set Set) (pictureStore, error) {
	path := filepath.Join(p.dir, partialItems)
	if kindOf(p.out) == npzKind {
		return openNPZStore(ctx, path, p.state, set)
	}
	return openFolderStore(ctx, path, p.state, set)
}

// readState reads the state of the partial in dir; what is no state is that of nothing.
func readState(dir string) (s partialState) {
	text, err := os.ReadFile(filepath.Join(dir, partialFile))
	if err != nil || json.Unmarshal(text, &s) != nil {
		return partialState{}
	}
	return s
}

// partialsOf lists the folders of the partials of an output, by its absolute path.
func partialsOf(out string) (dirs []string) {
	dir, base := filepath.Split(out)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		key, ok := strings.CutPrefix(e.Name(), "."+base+".")
		if key, ended := strings.CutSuffix(key, partialEnd); ok && ended && e.IsDir() && len(key) == keyLength {
			dirs = append(dirs, filepath.Join(dir, e.Name()))
		}
	}
	return dirs
}

// sweepPartials removes partials that no process uses and whose pictures have their name already: they are of processes
// that were killed in their last moment.
func sweepPartials(out string) {
	out, err := filepath.Abs(out)
	if err != nil {
		return
	}
	for _, dir := range partialsOf(out) {
		if _, err := os.Stat(filepath.Join(dir, partialItems)); err != nil {
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

func (p *partial) Done() int { return p.state.Done }

func (p *partial) Others() []Partial { return p.others }

func (p *partial) Add(pictures sampling.Pictures) error {
	bytes, err := p.pictures.add(p.state.Done, pictures)
	if err != nil {
		return err
	}
	p.state.Done += pictures.Len()
	p.state.Bytes = bytes
	text, err := json.Marshal(p.state)
	if err != nil {
		return err
	}
	return disk.WriteBytes(filepath.Join(p.dir, partialFile), append(text, '\n'))
}

func (p *partial) Finish() error {
	whole, err := p.pictures.finish()
	if err != nil {
		return err
	}
	if err := disk.Place(whole, p.out); err != nil {
		return err
	}
	// What other requests left for this output has no use now.
	for _, other := range p.others {
		removePartial(other.Dir)
	}
	p.state.Done = 0
	return nil
}

func (p *partial) Close() int {
	if p.pictures != nil {
		p.pictures.close()
	}
	if p.state.Done == 0 {
		os.RemoveAll(p.dir)
	}
	p.lock.Unlock()
	return p.state.Done
}
