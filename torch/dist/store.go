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

	"github.com/ditrun/ditrun/torch"
)

// A Store keeps small values by name for all processes of a run. It is gone when the process that keeps it ends: rank
// 0, or the agent that started the ranks. Every call ends within the time-out given to [Open].
type Store struct {
	addr    string
	timeout time.Duration

	mu   sync.Mutex // one call at a time
	raw  *torch.Store
	lost error // once set, no call is made any more
}

// errLeft says that a call has not returned.
var errLeft = errors.New("no answer")

// within makes a call that may hang, where the network swallows what was sent: then it is left behind.
func within(ctx context.Context, timeout time.Duration, call func() error) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w within %v", errLeft, timeout))
	defer cancel()
	select {
	case err := <-done:
		return reason(err)
	case <-ctx.Done():
		return fmt.Errorf("%w (%w)", context.Cause(ctx), errLeft)
	}
}

// dial connects to the store at addr; with serve this process keeps it.
func dial(ctx context.Context, addr string, serve bool, prefix string, timeout time.Duration) (*Store, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	var raw *torch.Store
	// libtorch gives up by itself, with a better text.
	err = within(ctx, timeout+5*time.Second, func() (err error) {
		raw, err = torch.NewStore(host, number, serve, prefix, timeout.Milliseconds())
		return err
	})
	if err != nil {
		verb := "connect"
		if serve {
			verb = "serve"
		}
		return nil, fmt.Errorf("store %s: %s: %w", addr, verb, err)
	}
	return &Store{addr: addr, timeout: timeout, raw: raw}, nil
}

func (s *Store) do(what string, call func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != nil {
		return s.lost
	}
	err := within(context.Background(), s.timeout, call)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("store %s: %s: %w", s.addr, what, err)
	if errors.Is(err, errLeft) {
		s.lost = err
	}
	return err
}

// reason is libtorch's message without what it says of its own sources.
func reason(err error) error {
	var e *torch.Error
	if !errors.As(err, &e) {
		return err // nil too
	}
	msg := e.Msg
	if strings.HasPrefix(msg, "[") { // [/pytorch/.../pair.cc:538] Connection closed by peer
		if _, text, ok := strings.Cut(msg, "] "); ok {
			msg = text
		}
	}
	return errors.New(strings.TrimRight(msg, ". "))
}

// Set stores value under key.
func (s *Store) Set(key string, value []byte) error {
	return s.do("set "+key, func() error { return s.raw.Set(key, value) })
}

// Add adds delta to the number under key, 0 where there is none, and returns the sum. A key for numbers is used with
// Add only.
func (s *Store) Add(key string, delta int64) (sum int64, err error) {
	err = s.do("add to "+key, func() (err error) {
		sum, err = s.raw.Add(key, delta)
		return err
	})
	return sum, err
}

// Delete removes key; one that is not there is no error.
func (s *Store) Delete(key string) error {
	return s.do("delete "+key, func() error {
		_, err := s.raw.Delete(key)
		return err
	})
}

// Get waits for key until ctx ends, and returns its value.
func (s *Store) Get(ctx context.Context, key string) (value []byte, err error) {
	if err := s.wait(ctx, []string{key}); err != nil {
		return nil, err
	}
	err = s.do("get "+key, func() (err error) {
		value, err = s.raw.Get(key)
		return err
	})
	return value, err
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

func (s *Store) has(keys ...string) (has bool, err error) {
	err = s.do("look for "+keys[0], func() (err error) {
		has, err = s.raw.Has(keys...)
		return err
	})
	return has, err
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
