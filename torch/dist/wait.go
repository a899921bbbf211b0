package dist

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

const (
	// A rank that waits says so first and then every so often.
	firstWord = 2 * time.Second
	nextWord  = 30 * time.Second
	// nameWait is how long the name of the store's machine may be unknown: a cluster may begin to know it when the
	// machine is there, but a name with a mistake in it never comes.
	nameWait = time.Minute
	// dialWait is for one try to connect.
	dialWait = 5 * time.Second
)

// errNotDone is why the context of an Open ends that takes too long.
var errNotDone = errors.New("not done")

// A waiting tells what a rank waits for while it joins a group.
type waiting struct {
	say   func(text string)
	start time.Time
	next  time.Time
}

func newWaiting(say func(text string)) *waiting {
	if say == nil {
		say = func(string) {}
	}
	now := time.Now()
	return &waiting{say, now, now.Add(firstWord)}
}

// due reports whether it is time to tell again.
func (w *waiting) due() bool { return !time.Now().Before(w.next) }

// tell says what is waited for.
func (w *waiting) tell(format string, args ...any) {
	w.next = time.Now().Add(nextWord)
	w.say(fmt.Sprintf("%s (%v so far)", fmt.Sprintf(format, args...), time.Since(w.start).Round(time.Second)))
}

// during tells what is waited for until stop is called.
func (w *waiting) during(text string) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			case <-time.After(time.Until(w.next)):
				w.tell("%s", text)
			}
		}
	}()
	return func() { close(end); <-ended }
}

// reach waits until the store at addr answers, or, for the rank that is to keep it, until the name of its machine is
// known.
func (g *Group) reach(ctx context.Context, addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	keeper := fmt.Sprintf("rank 0 of %d", g.env.World)
	if g.env.AgentStore {
		keeper = "the store of the launcher"
	}
	nameWait := min(nameWait, g.timeout/2)
	var unknown time.Time // since when the name is
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if err = try(ctx, host, addr, g.serves); err == nil {
			return nil
		}
		name := (*net.DNSError)(nil)
		switch isName := errors.As(err, &name); {
		case ctx.Err() != nil:
		case isName && unknown.IsZero():
			unknown = time.Now()
			g.waiting.tell("MASTER_ADDR: %v: waiting up to %v for the name to be known", name, nameWait)
		case isName && time.Since(unknown) > nameWait:
			return fmt.Errorf("MASTER_ADDR: %w: not known for %v", name, nameWait)
		case g.waiting.due():
			g.waiting.tell("waiting for %s at %s: %v", keeper, addr, bare(err))
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errNotDone) {
				return cause
			}
			return fmt.Errorf("store %s: connect: not done within %v: %w", addr, g.timeout, bare(err))
		case <-time.After(pause):
		}
	}
}

// try connects once, or looks the name up where this process will keep the store.
func try(ctx context.Context, host, addr string, lookup bool) error {
	if lookup {
		_, err := net.DefaultResolver.LookupHost(ctx, host)
		return err
	}
	c, err := (&net.Dialer{Timeout: dialWait}).DialContext(ctx, "tcp", addr)
	if err == nil {
		c.Close()
	}
	return err
}

// bare drops what repeats the address from an error of the net package.
func bare(err error) error {
	if o := (*net.OpError)(nil); errors.As(err, &o) {
		err = o.Err
	}
	return errors.New(strings.TrimPrefix(err.Error(), "connect: "))
}
