package gallery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
)

// A Partial is a folder beside an output, .NAME.KEY.partial, where pictures lie until all of them are there. The key is
// that of the request, so that it is continued with its own pictures and no others.
type Partial struct {
	Dir         string
	Done, Total int // Done counts the first ones without a gap
}

// Partials lists what there is of an output, whatever the request.
func Partials(path string) (list []Partial) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	for _, dir := range partialsOf(path) {
		if s, err := readState(dir); err == nil && !s.Placed {
			list = append(list, Partial{dir, s.Done, s.Total})
		}
	}
	return list
}

// A partial is the output that is kept in a [Partial]. Processes that draw it claim one batch after the other by a
// lock; the kernel gives up those of a process that dies, and its batch is drawn by whoever looks next. Batches behind
// a gap are files of their own; whoever adds one joins those that follow the gap, so that few lie there.
type partial struct {
	dir, out string
	key      string
	set      Set
	lock     *disk.Lock // shared, as long as the partial is used
	store    store
	others   []Partial

	mu        sync.Mutex
	done      []bool             // by batch, as far as is known
	from      int                // the batches before are done
	claims    map[int]*disk.Lock // by batch
	elsewhere int                // pictures that are done and were not added here
	begun     bool               // what is there was read
	placed    bool
}

// partialState is the file that says how far a partial is.
type partialState struct {
	About string `json:"about"` // for people
	Key   string `json:"key"`
	Done  int    `json:"done"` // the first pictures, joined
	Total int    `json:"total"`
	// Bytes are those of the file of pictures, with those that are done; a folder has none.
	Bytes int64 `json:"bytes,omitempty"`
	// CRC32 is that of the array in an .npz so far; older versions did not keep it.
	CRC32 *uint32 `json:"crc32,omitempty"`
	// Job is the last that drew. Once the output has its name, the state stays until all processes of the job know.
	Job    string `json:"job,omitempty"`
	Placed bool   `json:"placed,omitempty"`
}

// A span is the pictures lo to hi-1 of a batch.
type span struct{ lo, hi int }

// A store keeps the pictures of a partial. Without a lock of its own: a batch is put by whoever has claimed it, and
// the joined ones are changed under the lock joinLock alone.
type store interface {
	// begin prepares the joined pictures for what the state says, or changes it to what is there of them.
	begin(s *partialState) error
	// has says whether a batch was put.
	has(b span) bool
	// put writes and syncs a batch that is not joined yet.
	put(b span, p sampling.Pictures) error
	// join adds the next batch to those that are joined: the pictures, or where these are nil what was put. Where
	// that is damaged the error is errDamaged, and has says that it is missing.
	join(s *partialState, b span, p *sampling.Pictures) error
	// joined is called when the state is written.
	joined(b span)
	// finish ends the file or folder and returns its path.
	finish(s *partialState) (path string, err error)
}

const (
	keyLength    = 12 // of the key that stands in the name of the folder
	partialEnd   = ".partial"
	partialFile  = "state.json"
	partialLock  = "lock"      // shared by the processes that draw
	joinLock     = "join.lock" // of the one that joins
	partialItems = "pictures"  // what is joined: a file, or a folder of pictures
	leftPrefix   = "left-"     // and the rank of a process of a job that knows that the output has its name
)

// errDamaged says that the pictures of a batch are not what they were.
var errDamaged = errors.New("damaged")

// errMissing is the error of Finish where a batch turned out to be damaged: it has to be drawn again.
var errMissing = errors.New("a batch is missing")

// openPartial opens the partial of a set for what its state says, or for nothing where the pictures are not that.
func openPartial(ctx context.Context, path string, set Set) (Output, error) {
	key, err := set.Key()
	if err != nil {
		return nil, err
	}
	p := &partial{key: key, set: set, claims: map[int]*disk.Lock{}, done: make([]bool, set.batches())}
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
	if err := p.share(ctx); err != nil {
		return nil, err
	}
	if err := p.begin(ctx); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// ErrNoLocks says that several processes cannot share the work since the file system has no locks.
var ErrNoLocks = errors.New("the file system has no locks")

// share makes the folder and takes a share of its lock, by which others know that it is used.
func (p *partial) share(ctx context.Context) error {
	lockPath := filepath.Join(p.dir, partialLock)
	for deadline := time.Now().Add(time.Second); ; {
		if err := os.Mkdir(p.dir, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		f, err := os.OpenFile(lockPath, os.O_CREATE|os.O_WRONLY, 0o666)
		if err == nil {
			f.Close()
			if p.set.Alone {
				p.lock, err = disk.TryLock(lockPath)
			} else {
				p.lock, err = disk.TryShare(lockPath)
			}
		}
		switch {
		case err == nil && !p.lock.Held() && p.set.Job.World > 1:
			p.lock.Remove()
			os.Remove(p.dir) // where nothing is in it
			return fmt.Errorf("%s: %w, by which processes share the work", filepath.Dir(p.out), ErrNoLocks)
		case err == nil:
			return nil
		case errors.Is(err, fs.ErrNotExist): // somebody removed what another had finished
		case errors.Is(err, disk.ErrLocked): // for a moment only, where somebody looks whether it can be removed
			if time.Now().After(deadline) {
				return fmt.Errorf("%s: another process is drawing these pictures", p.out)
			}
		default:
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// begin reads what is there.
func (p *partial) begin(ctx context.Context) error {
	lock, err := disk.WaitLock(ctx, filepath.Join(p.dir, joinLock))
	if err != nil {
		return err
	}
	defer lock.Unlock()
	disk.SweepFolder(p.dir)
	p.store = newStore(ctx, kindOf(p.out), p.dir, p.set)
	s, err := readState(p.dir)
	if err != nil {
		return err
	}
	switch {
	case s.Key == p.key && s.Total == p.set.Count && s.Done == s.Total && p.isPlaced():
		if s.Job == p.set.Job.ID && s.Job != "" {
			p.refresh(s)
			p.begun = true
			return nil
		}
		fallthrough // the same is to be drawn once more
	case !s.fits(p.key, p.set):
		s = partialState{Key: p.key, Total: p.set.Count}
	}
	s.Job, s.Placed = p.set.Job.ID, false
	s.About = fmt.Sprintf("pictures that ditrun sample draws for %s; the same command continues", filepath.Base(p.out))
	if err := p.store.begin(&s); err != nil {
		return err
	}
	if err := p.writeState(s); err != nil {
		return err
	}
	if err := p.look(); err != nil {
		return err
	}
	p.begun = true
	return nil
}

// look notes all that is done.
func (p *partial) look() error {
	s, err := readState(p.dir)
	if err != nil {
		return err
	}
	p.refresh(s)
	for b := p.from; b < len(p.done); b++ {
		if p.store.has(p.set.span(b)) {
			p.note(b)
		}
	}
	return nil
}

// isPlaced says whether the joined pictures have the name of the output already.
func (p *partial) isPlaced() bool {
	_, err := os.Stat(filepath.Join(p.dir, partialItems))
	if err == nil {
		return false
	}
	_, err = os.Stat(p.out)
	return err == nil
}

// fits says whether a state can be that of a set.
func (s partialState) fits(key string, set Set) bool {
	whole := s.Done == s.Total || s.Done == 0 || set.BatchSize > 0 && s.Done%set.BatchSize == 0
	return s.Key == key && s.Total == set.Count && s.Done >= 0 && s.Done <= s.Total && whole
}

// readState reads the state of the partial in dir. Where there is none, or it is damaged, that is the state of nothing;
// one that cannot be read for the moment is an error, since pictures may be there.
func readState(dir string) (s partialState, err error) {
	text, err := os.ReadFile(filepath.Join(dir, partialFile))
	if errors.Is(err, fs.ErrNotExist) {
		return partialState{}, nil
	}
	if err != nil {
		return partialState{}, err
	}
	if json.Unmarshal(text, &s) != nil {
		return partialState{}, nil
	}
	return s, nil
}

func (p *partial) writeState(s partialState) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return disk.WriteBytes(filepath.Join(p.dir, partialFile), append(text, '\n'))
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
// that were killed in their last moment, or of a job some processes of which did not come. It says whether the output
// is that of the job.
func sweepPartials(out string, job Job) (ofJob bool) {
	out, err := filepath.Abs(out)
	if err != nil {
		return false
	}
	for _, dir := range partialsOf(out) {
		s, err := readState(dir)
		if err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, partialItems)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if job.ID != "" && s.Job == job.ID && s.Total > 0 && s.Done == s.Total {
			ofJob = true
			continue
		}
		removePartial(dir)
	}
	return ofJob
}

// removePartial removes a partial unless a process uses it.
func removePartial(dir string) {
	if lock, err := disk.TryLock(filepath.Join(dir, partialLock)); err == nil {
		os.RemoveAll(dir)
		lock.Unlock()
	}
}

func (p *partial) Others() []Partial { return p.others }

func (p *partial) Done() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for b, done := range p.done {
		if done {
			at := p.set.span(b)
			n += at.hi - at.lo
		}
	}
	return n
}

func (p *partial) Elsewhere() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.elsewhere
}

// refresh notes what a state says to be done.
func (p *partial) refresh(s partialState) {
	if s.Key != p.key || s.Total != p.set.Count { // damaged meanwhile
		return
	}
	for p.from < len(p.done) && (p.set.span(p.from).hi <= s.Done || p.done[p.from]) {
		p.note(p.from)
		p.from++
	}
}

// note notes that a batch is done by somebody else. One of this process may be there while Add has not returned yet.
func (p *partial) note(b int) {
	if !p.done[b] && p.claims[b] == nil {
		at := p.set.span(b)
		p.done[b] = true
		p.elsewhere += at.hi - at.lo
	}
}

// Next waits where all that is missing is claimed by other processes.
func (p *partial) Next(ctx context.Context) (batch int, ok bool, err error) {
	for ctx.Err() == nil {
		b, held, err := p.claim()
		if err != nil || b >= 0 || !held {
			return b, b >= 0, err
		}
		if err := pause(ctx); err != nil {
			return 0, false, err
		}
	}
	return 0, false, context.Cause(ctx)
}

// pollEvery is how often a process looks whether the batches that others hold are done.
const pollEvery = 100 * time.Millisecond

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pollEvery):
		return nil
	}
}

// claim claims the first batch that is missing and free; -1 where there is none. Held says whether others hold some.
func (p *partial) claim() (batch int, held bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, err := readState(p.dir)
	if err != nil {
		return -1, false, err
	}
	p.refresh(s)
	for b := p.from; b < len(p.done); b++ {
		if p.done[b] || p.claims[b] != nil {
			continue
		}
		if p.store.has(p.set.span(b)) {
			p.note(b)
			continue
		}
		lock, err := disk.TryLock(p.claimPath(b))
		if errors.Is(err, disk.ErrLocked) {
			held = true
			continue
		}
		if err != nil {
			return -1, false, err
		}
		// Somebody who held it a moment ago may have drawn it, and somebody else may have joined it since.
		if s, err = readState(p.dir); err != nil {
			lock.Remove()
			return -1, false, err
		}
		if p.refresh(s); p.done[b] || p.store.has(p.set.span(b)) {
			p.note(b)
			lock.Remove()
			continue
		}
		p.claims[b] = lock
		return b, false, nil
	}
	return -1, held, nil
}

func (p *partial) claimPath(b int) string {
	return filepath.Join(p.dir, fmt.Sprintf("batch-%06d.lock", b))
}

func (p *partial) Add(batch int, pictures sampling.Pictures) error {
	lock, err := disk.TryLock(filepath.Join(p.dir, joinLock))
	switch {
	case errors.Is(err, disk.ErrLocked): // who joins does so with this one, or whoever comes next
		err = p.store.put(p.set.span(batch), pictures)
	case err == nil:
		err = p.addAndJoin(p.set.span(batch), pictures)
		lock.Unlock()
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done[batch] = true
	if lock := p.claims[batch]; lock != nil {
		lock.Remove()
		delete(p.claims, batch)
	}
	return nil
}

// addAndJoin adds a batch and joins those that follow without a gap.
func (p *partial) addAndJoin(at span, pictures sampling.Pictures) error {
	s, err := readState(p.dir)
	if err != nil {
		return err
	}
	if s.Done != at.lo {
		if err := p.store.put(at, pictures); err != nil {
			return err
		}
	} else if err := p.join(&s, &pictures); err != nil {
		return err
	}
	for s.Done < s.Total && p.store.has(p.set.next(s.Done)) {
		if err := p.join(&s, nil); err != nil && !errors.Is(err, errDamaged) {
			return err
		} else if err != nil {
			return nil // it is drawn again
		}
	}
	return nil
}

// join joins the next batch and keeps the state.
func (p *partial) join(s *partialState, pictures *sampling.Pictures) error {
	at := p.set.next(s.Done)
	if err := p.store.join(s, at, pictures); err != nil {
		return err
	}
	s.Done = at.hi
	if err := p.writeState(*s); err != nil {
		return err
	}
	p.store.joined(at)
	return nil
}

func (p *partial) Finish(ctx context.Context) error {
	lock, err := disk.WaitLock(ctx, filepath.Join(p.dir, joinLock))
	if err != nil {
		return err
	}
	defer lock.Unlock()
	s, err := readState(p.dir)
	if err != nil {
		return err
	}
	if !s.Placed && !(s.Done == s.Total && p.isPlaced()) {
		if err := p.place(&s); err != nil {
			return err
		}
	}
	p.placed = true
	return nil
}

// place joins what is left, and gives the output its name.
func (p *partial) place(s *partialState) error {
	for s.Done < s.Total {
		err := errDamaged
		if p.store.has(p.set.next(s.Done)) {
			err = p.join(s, nil)
		}
		if errors.Is(err, errDamaged) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.from = s.Done / p.set.BatchSize
			p.done[p.from] = false
			return errMissing
		}
		if err != nil {
			return err
		}
	}
	whole, err := p.store.finish(s)
	if err != nil {
		return err
	}
	if err := disk.Place(whole, p.out); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(p.dir, partialItems)); err != nil { // pixels of a sheet
		return err
	}
	// What other requests left for this output has no use now.
	for _, other := range p.others {
		removePartial(other.Dir)
	}
	if s.Placed = true; p.set.Job.World > 1 {
		return p.writeState(*s)
	}
	return nil
}

func (p *partial) Close() int {
	for _, lock := range p.claims {
		lock.Remove()
	}
	clear(p.claims)
	kept, empty := 0, p.placed
	if p.begun && !p.placed {
		err := p.look()
		kept = p.Done()
		empty = err == nil && kept == 0
	}
	job := p.set.Job
	if p.placed && job.World > 1 {
		// Should this fail, the folder stays until the next command for this output.
		os.WriteFile(filepath.Join(p.dir, fmt.Sprint(leftPrefix, job.Rank)), nil, 0o666)
	}
	p.lock.Unlock()
	lock, err := disk.TryLock(filepath.Join(p.dir, partialLock))
	if err != nil { // others use it
		return kept
	}
	defer lock.Unlock()
	switch {
	case p.placed && job.World > 1:
		if countPrefixed(p.dir, leftPrefix) >= job.World {
			os.RemoveAll(p.dir)
		}
	case empty || !p.begun && onlyLocks(p.dir):
		os.RemoveAll(p.dir)
	}
	return kept
}

// onlyLocks says whether nothing was ever drawn in a folder.
func onlyLocks(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.IsDir() || e.Name() != partialLock && e.Name() != joinLock
	})
}

func countPrefixed(dir, prefix string) (n int) {
	entries, _ := os.ReadDir(dir) // who cannot read it leaves it
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			n++
		}
	}
	return n
}
