package dist

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Each rank tells the others every second that it is alive, and sooner when it begins a step, but leaves a gap between
// two beats.
const (
	beatEvery = time.Second
	beatGap   = 200 * time.Millisecond
)

// A beat is what a rank last told of itself.
type beat struct {
	N      int64     `json:"n"`                // counts the beats
	At     time.Time `json:"at"`               // by the rank's clock
	Step   int64     `json:"step"`             // the last one it began, -1 before the first
	Since  time.Time `json:"since"`            // when it began it
	Failed string    `json:"failed,omitempty"` // why it gave up by itself
	Left   string    `json:"left,omitempty"`   // why it ends because of another
}

// A watchdog tells the other ranks, through a second connection to the store, that this one is alive and at which step
// it is. When something has gone wrong, it reads what they told.
type watchdog struct {
	rank, world int
	keeper      string // who keeps the store
	store       *Store
	step        atomic.Int64
	since       atomic.Int64  // Unix nanoseconds
	stepped     chan struct{} // a step began that the others have not been told of
	stop        chan struct{}
	stopped     sync.WaitGroup

	mu   sync.Mutex // guards what follows
	last beat
}

func startWatchdog(s *Store, env Env) *watchdog {
	w := &watchdog{rank: env.Rank, world: env.World, keeper: "rank 0", store: s, stepped: make(chan struct{}, 1),
		stop: make(chan struct{})}
	if env.AgentStore {
		w.keeper = "the launcher"
	}
	w.at(-1)
	w.stopped.Go(func() {
		tick := time.NewTicker(beatEvery)
		defer tick.Stop()
		for w.say(beat{}) == nil {
			select {
			case <-w.stop:
				return
			case <-time.After(beatGap):
			}
			select {
			case <-w.stop:
				return
			case <-tick.C:
			case <-w.stepped:
			}
		}
	})
	return w
}

func (w *watchdog) at(step int) {
	w.since.Store(time.Now().UnixNano())
	w.step.Store(int64(step))
	select {
	case w.stepped <- struct{}{}:
	default:
	}
}

func beatKey(rank int) string { return fmt.Sprintf("beat/%d", rank) }

// say writes the next beat. The reasons in news stay in the beats that follow; later ones win.
func (w *watchdog) say(news beat) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last.N++
	w.last.At, w.last.Step, w.last.Since = time.Now(), w.step.Load(), time.Unix(0, w.since.Load())
	w.last.Failed, w.last.Left = cmp.Or(news.Failed, w.last.Failed), cmp.Or(news.Left, w.last.Left)
	value, err := json.Marshal(w.last)
	if err != nil {
		return err
	}
	return w.store.Set(beatKey(w.rank), value)
}

// read returns the beats of the other ranks, nil for a rank that has none.
func (w *watchdog) read() ([]*beat, error) {
	beats := make([]*beat, w.world)
	for r := range beats {
		if r == w.rank {
			continue
		}
		has, err := w.store.has(beatKey(r))
		if err != nil {
			return nil, err
		}
		if !has {
			continue
		}
		value, err := w.store.Get(context.Background(), beatKey(r))
		if err != nil {
			return nil, err
		}
		beats[r] = &beat{}
		if err := json.Unmarshal(value, beats[r]); err != nil {
			return nil, fmt.Errorf("%s: %w", beatKey(r), err)
		}
	}
	return beats, nil
}

// verdict says which ranks are at fault, from their beats at one moment and some beats later. It names the ranks
// that fell silent; if there are none, those that gave up by themselves; then those that are alive, but not in the
// collective, as they would have noticed that it failed; then those that noticed. A rank is silent where its beat
// did not go on, so that the clocks of the machines do not matter: they only tell for how long. It returns "" where
// nothing stands out.
func verdict(before, after []*beat, self int, now time.Time) string {
	age := func(t time.Time) string { return fmt.Sprintf("%.0f s", max(0, now.Sub(t).Seconds())) }
	var silent, failed, busy, left []string
	for r, b := range after {
		switch {
		case r == self:
		case b == nil:
			silent = append(silent, fmt.Sprintf("rank %d has never been heard of", r))
		case b.Failed != "":
			failed = append(failed, fmt.Sprintf("rank %d gave up: %s", r, b.Failed))
		case b.Left != "":
			left = append(left, fmt.Sprintf("rank %d ended: %s", r, b.Left))
		case before[r] != nil && before[r].N == b.N:
			last := "it had not begun its first step"
			if b.Step >= 0 {
				last = fmt.Sprintf("its last step was %d", b.Step)
			}
			silent = append(silent, fmt.Sprintf("rank %d has not been heard of for %s: %s", r, age(b.At), last))
		case b.Step < 0:
			busy = append(busy, fmt.Sprintf("rank %d is alive but has not begun its first step", r))
		default:
			busy = append(busy, fmt.Sprintf("rank %d is alive but has been at step %d for %s", r, b.Step, age(b.Since)))
		}
	}
	for _, found := range [][]string{silent, failed, busy, left} {
		if len(found) > 0 {
			return shorten(found, 4, "; ")
		}
	}
	return ""
}

// shorten joins the first n of a list and says how many more there are.
func shorten(list []string, n int, sep string) string {
	if len(list) > n {
		list = append(slices.Clone(list[:n]), fmt.Sprintf("and %d more", len(list)-n))
	}
	return strings.Join(list, sep)
}

// explain asks the store who is at fault. It takes a little over two beats.
func (w *watchdog) explain() string {
	before, err := w.read()
	after := before
	if err == nil {
		time.Sleep(beatEvery*2 + beatEvery/2)
		after, err = w.read()
	}
	if err != nil {
		return fmt.Sprintf("who is at fault is not known, as %s keeps the store and does not answer: %v", w.keeper, err)
	}
	return verdict(before, after, w.rank, time.Now())
}

func (w *watchdog) end() {
	close(w.stop)
	w.stopped.Wait()
	w.store.close()
}
