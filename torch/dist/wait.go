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
	// A rank that waits says so after the first, then every time after the second.
	firstReport = 2 * time.Second
	nextReport  = 30 * time.Second
	// nameWait is how long the name of the store's machine may be unknown: a cluster may learn it only when the machine
	// is up, but a misspelt name is never known.
	nameWait = time.Minute
	// dialWait limits one attempt to connect.
	dialWait = 5 * time.Second
)

// errNotDone is the cause where Open's context ended because Open took too long.
var errNotDone = errors.New("not done")

// A waitReport tells what a rank waits for while it joins a group.
type waitReport struct {
	say   func(text string)
	start time.Time
	next  time.Time
}

func newWaitReport(say func(text string)) *waitReport {
	if say == nil {
		say = func(string) {}
	}
	now := time.Now()
	return &waitReport{say, now, now.Add(firstReport)}
}

// due reports whether it is time to tell again.
func (w *waitReport) due() bool { return !time.Now().Before(w.next) }

// tell says what is waited for.
func (w *waitReport) tell(format string, args ...any) {
	w.next = time.Now().Add(nextReport)
	w.say(fmt.Sprintf("%s (%v so far)", fmt.Sprintf(format, args...), time.Since(w.start).Round(time.Second)))
}

// during tells what is waited for until stop is called.
func (w *waitReport) during(text string) (stop func()) {
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
	var unknown time.Time // when the name was first found to be
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if err = try(ctx, host, addr, g.serves); err == nil {
			return nil
		}
		name := (*net.DNSError)(nil)
		switch isName := errors.As(err, &name); {
		case ctx.Err() != nil:
		case isName && unknown.IsZero():
			unknown = time.Now()
			g.wait.tell("MASTER_ADDR: %v: waiting up to %v for the name to be known", name, nameWait)
		case isName && time.Since(unknown) > nameWait:
			return fmt.Errorf("MASTER_ADDR: %w: not known for %v", name, nameWait)
		case g.wait.due():
			g.wait.tell("waiting for %s at %s: %v", keeper, addr, withoutAddress(err))
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errNotDone) {
				return cause
			}
			return fmt.Errorf("store %s: connect: not done within %v: %w", addr, g.timeout, withoutAddress(err))
		case <-time.After(pause):
		}
	}
}

// try connects once, or looks up the name where this process will keep the store.
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

// withoutAddress drops the address from an error of the net package, for messages that have it already.
func withoutAddress(err error) error {
	if o := (*net.OpError)(nil); errors.As(err, &o) {
		err = o.Err
	}
	return errors.New(strings.TrimPrefix(err.Error(), "connect: "))
}
