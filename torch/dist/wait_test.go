package dist

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ditrun/ditrun/internal/testtool"
	"github.com/ditrun/ditrun/torch"
)

func init() {
	// The store, and all else that this process listens on, is out of reach for other machines.
	tasks["on loopback"] = func(g *Group) error {
		if err := g.Barrier(0); err != nil {
			return err
		}
		defer g.Barrier(0) // nobody leaves before the others have looked
		listening, err := listeningSockets()
		if err != nil {
			return err
		}
		port := fmt.Sprintf(":%04X", g.env.Port)
		for _, s := range listening {
			if strings.HasSuffix(s, port) && s != "0100007F"+port {
				return fmt.Errorf("the store listens at %s", s)
			}
		}
		if !strings.Contains(strings.Join(listening, " "), "0100007F"+port) {
			return fmt.Errorf("no store listens on loopback: %s", listening)
		}
		return nil
	}
}

// listeningSockets returns the local addresses, as the kernel writes them, of all sockets of this machine that listen.
func listeningSockets() ([]string, error) {
	var found []string
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 3 && f[3] == "0A" {
				found = append(found, f[1])
			}
		}
	}
	return found, nil
}

func TestStoreOnLoopback(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, more := range [][]string{nil, {"MASTER_ADDR=" + host}, {"MASTER_ADDR=localhost", "LOCAL_WORLD_SIZE=1",
		"LOCAL_RANK=0"}} {
		allOK(t, ranks(t, 2, 2, 30, "on loopback", more...))
	}
}

// A rank that waits for others names them within seconds.
func TestMissingRankIsNamed(t *testing.T) {
	t.Parallel() // it mostly waits
	res := ranks(t, 1, 3, 8, "collectives", "DITRUN_TEST_DIST_TELL=1")[0]
	first, last, _ := strings.Cut(res.output, "\n")
	if !strings.HasPrefix(first, "waiting for rank 1, 2 of 3 at 127.0.0.1:") || !strings.HasSuffix(first, "s so far)") {
		t.Errorf("first %q", first)
	}
	if !strings.HasPrefix(last, "open: rank 0 of 3: missing after 8s at the store 127.0.0.1:") ||
		strings.Contains(last, "\n") {
		t.Errorf("then %q", last)
	}
}

// opening opens a group and returns what it told and how it ended. It is cancelled after the time given, 0 for never.
func opening(t *testing.T, e Env, timeout, cancelAfter time.Duration) (told []string, cause, err error) {
	t.Helper()
	if err := torch.Available(); err != nil {
		testtool.Missing(t, "libtorch is not there: ", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	cause = errors.New("told to stop")
	if cancelAfter > 0 {
		time.AfterFunc(cancelAfter, func() { cancel(cause) })
	}
	var mu sync.Mutex
	_, err = Open(ctx, e, "gloo", timeout, func(text string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, text)
	})
	return told, cause, err
}

// What ends a rank that waits is the reason given, not that others are missing.
func TestInterruptedWhileWaiting(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, e := range []Env{
		{Rank: 0, World: 2, LocalWorld: 2, Port: testtool.FreePort(t)},
		{Rank: 1, World: 2, LocalRank: 1, LocalWorld: 2, Port: testtool.FreePort(t)},
		{Rank: 1, World: 2, LocalWorld: 1, Addr: "no-such-host.invalid", Port: 1},
	} {
		_, cause, err := opening(t, e, 10*time.Minute, 300*time.Millisecond)
		if !errors.Is(err, cause) || strings.Contains(err.Error(), "missing") {
			t.Errorf("%+v: %v", e, err)
		}
	}
}

func TestStoreThatIsAwaited(t *testing.T) {
	t.Parallel() // it mostly waits
	e := Env{Rank: 1, World: 2, LocalRank: 1, LocalWorld: 2, Port: testtool.FreePort(t)}
	told, _, err := opening(t, e, 5*time.Second, 0)
	if want := fmt.Sprintf("waiting for rank 0 of 2 at 127.0.0.1:%d: connection refused (",
		e.Port); len(told) != 1 || !strings.HasPrefix(told[0], want) {
		t.Errorf("told %q, want %q", told, want)
	}
	if want := fmt.Sprintf("rank 1 of 2: store 127.0.0.1:%d: connect: not done within 5s: connection refused",
		e.Port); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// A name that nobody knows is told at once, and given up long before the time-out.
func TestUnknownName(t *testing.T) {
	t.Parallel() // it mostly waits
	for rank := range 2 {
		e := Env{Rank: rank, World: 2, LocalWorld: 1, Addr: "no-such-host.invalid", Port: 29551}
		told, _, err := opening(t, e, 4*time.Second, 0)
		if len(told) == 0 || !strings.HasPrefix(told[0], "MASTER_ADDR: lookup no-such-host.invalid") ||
			!strings.Contains(told[0], "waiting up to 2s for the name to be known") {
			t.Errorf("rank %d: told %q", rank, told)
		}
		if err == nil || !strings.HasPrefix(err.Error(),
			fmt.Sprintf("rank %d of 2: MASTER_ADDR: lookup no-such-host.invalid", rank)) {
			t.Errorf("rank %d: error %v", rank, err)
		}
	}
}

// It tells again and again for how long it has waited.
func TestTellsAgain(t *testing.T) {
	told := make(chan string, 10)
	w := newWaitReport(func(text string) { told <- text })
	w.start = time.Now().Add(-95 * time.Second)
	w.next = time.Now()
	stop := w.during("connecting the ranks")
	if text := <-told; !strings.HasPrefix(text, "connecting the ranks (1m3") {
		t.Errorf("told %q", text)
	}
	stop()
	if w.due() || time.Until(w.next) > nextReport {
		t.Errorf("tells again in %v", time.Until(w.next))
	}
}

// A store that is taken over from a listening socket refuses a port that another has.
func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e := Env{Rank: 0, World: 2, LocalWorld: 2, Port: l.Addr().(*net.TCPAddr).Port}
	if _, _, err := opening(t, e, 10*time.Second, 0); err == nil || !strings.Contains(err.Error(),
		"address already in use") {
		t.Errorf("%v", err)
	}
}
