package dist

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/internal/native"
)

// A Store keeps small values by name for all processes of a run. It is gone when the process that keeps it ends: rank
// 0, or the agent that started the ranks. A call that gets no answer ends after a minute, or the time-out given to
// [Open] where that is less.
type Store struct {
	addr    string
	timeout time.Duration // of a call

	mu   sync.Mutex // one call at a time
	raw  native.Store
	lost error // once set, no call is made any more
}

const callTimeout = time.Minute

// errLeft says that a call has not returned.
var errLeft = errors.New("no answer")

// within makes a call that may hang, as where the network loses packets. A call that takes longer than the time-out, or
// than ctx lasts, is left behind: what it returns later goes to drop, which may be nil.
func within[T any](ctx context.Context, timeout time.Duration, call func() (T, error), drop func(T)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := call()
		done <- outcome{value, err}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w within %v", errLeft, timeout))
	defer cancel()
	select {
	case o := <-done:
		return o.value, reason(o.err)
	case <-ctx.Done():
	}
	go func() {
		if o := <-done; o.err == nil && drop != nil {
			drop(o.value)
		}
	}()
	err := context.Cause(ctx)
	if !errors.Is(err, errLeft) {
		err = fmt.Errorf("%w (%w)", err, errLeft)
	}
	var zero T
	return zero, err
}

// listen returns a socket that listens at addr, for the store to take over.
func listen(addr string) (fd int, err error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return -1, err
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return -1, err
	}
	defer f.Close()
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

// dial connects to the store at addr; with serve this process keeps it, and with local it listens at addr alone, not on
// every network.
func dial(ctx context.Context, addr string, serve, local bool, prefix string, timeout time.Duration) (*Store, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	listener := -1
	if serve && local {
		if listener, err = listen(addr); err != nil {
			return nil, fmt.Errorf("store %s: serve: %w", addr, withoutAddress(err))
		}
	}
	// libtorch gives up by itself, with a better text.
	raw, err := within(ctx, timeout+5*time.Second, func() (native.Store, error) {
		return lent.NewStore(host, number, serve, listener, prefix, timeout.Milliseconds())
	}, native.Store.Close)
	if err != nil {
		verb := "connect"
		if serve {
			verb = "serve"
		}
		return nil, fmt.Errorf("store %s: %s: %w", addr, verb, err)
	}
	return &Store{addr: addr, timeout: min(timeout, callTimeout), raw: raw}, nil
}

// call makes one call to the store, unless one before it was left behind.
func call[T any](s *Store, what string, f func() (T, error)) (value T, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != nil {
		return value, s.lost
	}
	if value, err = within(context.Background(), s.timeout, f, nil); err == nil {
		return value, nil
	}
	err = fmt.Errorf("store %s: %s: %w", s.addr, what, err)
	if errors.Is(err, errLeft) {
		s.lost = err
	}
	return value, err
}

func (s *Store) lose(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = err
}

// reason is libtorch's message without the name of the operation.
func reason(err error) error {
	var e *torch.Error
	if !errors.As(err, &e) {
		return err // nil too
	}
	return errors.New(strings.TrimRight(e.Msg, ". "))
}

// Set stores value under key.
func (s *Store) Set(key string, value []byte) error {
	_, err := call(s, "set "+key, func() (struct{}, error) { return struct{}{}, s.raw.Set(key, value) })
	return err
}

// Add adds delta to the number under key, 0 where there is none, and returns the sum. A key for numbers is used with
// Add only.
func (s *Store) Add(key string, delta int64) (sum int64, err error) {
	return call(s, "add to "+key, func() (int64, error) { return s.raw.Add(key, delta) })
}

// Delete removes key; one that is not there is no error.
func (s *Store) Delete(key string) error {
	_, err := call(s, "delete "+key, func() (bool, error) { return s.raw.Delete(key) })
	return err
}

// Get waits for key until ctx ends, and returns its value.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.wait(ctx, []string{key}); err != nil {
		return nil, err
	}
	return call(s, "get "+key, func() ([]byte, error) { return s.raw.Get(key) })
}

// Wait waits until all keys have values. Its error names those that have none.
func (s *Store) Wait(keys []string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), timeout, fmt.Errorf("not there after %v", timeout))
	defer cancel()
	err := s.wait(ctx, keys)
	if err == nil || ctx.Err() == nil {
		return err
	}
	missing := slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		has, _ := s.has(key)
		return has
	})
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("store %s: %s: not there after %v", s.addr, strings.Join(missing, ", "), timeout)
}

func (s *Store) has(keys ...string) (bool, error) {
	return call(s, "look for "+keys[0], func() (bool, error) { return s.raw.Has(keys...) })
}

// wait asks again and again: a call that waited in the store could not be cancelled, and would keep others waiting.
func (s *Store) wait(ctx context.Context, keys []string) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		has, err := s.has(keys...)
		if has || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("store %s: wait for %s: %w", s.addr, strings.Join(keys, ", "), context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// close ends the connection, unless a call that does not return still uses it.
func (s *Store) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lost = fmt.Errorf("store %s: closed", s.addr)
		s.raw.Close()
	}
}
