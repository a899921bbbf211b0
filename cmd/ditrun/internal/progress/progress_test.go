package progress

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is a time that moves only when told.
type clock struct{ t time.Time }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }

func TestPlainLines(t *testing.T) {
	var out bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	b := newBar(&out, "encode", "images", 60000, false, false, c.now)
	for range 48 { // 48 batches of 256 in 12 seconds: 1,024 images/s
		c.advance(250 * time.Millisecond)
		b.Add(256)
	}
	c.advance(time.Second)
	b.Finish()
	b.Finish()
	want := "encode: 2,048/60,000 images, 1,024 images/s, ETA 57s\n" +
		"encode: 12,288/60,000 images, 1,024 images/s, ETA 47s\n" +
		"encode: 12,288 images in 13s, 945 images/s\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestUnknownTotalAndNote(t *testing.T) {
	var out bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	b := newBar(&out, "scan", "files", 0, false, false, c.now)
	b.Describe("3 bad")
	c.advance(4 * time.Second)
	b.Add(10)
	b.Finish()
	want := "scan: 10 files, 2.50 files/s, 3 bad\n" +
		"scan: 10 files in 4.0s, 2.50 files/s, 3 bad\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestResumedWorkIsNotSpeed(t *testing.T) {
	var out bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	b := newBar(&out, "train", "steps", 1000, false, false, c.now)
	c.advance(time.Hour) // loading the checkpoint is not speed either
	b.Start(900)
	c.advance(5 * time.Second)
	b.Set(950)
	b.Finish()
	want := "train: 950/1,000 steps, 10.0 steps/s, ETA 5s\n" +
		"train: 50 steps in 5.0s, 10.0 steps/s\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestQuietAndAbortWriteNothing(t *testing.T) {
	var out bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	quiet := newBar(&out, "train", "steps", 10, true, true, c.now)
	failed := newBar(&out, "train", "steps", 10, false, false, c.now)
	for _, b := range []*Bar{quiet, failed} {
		b.Add(1)
	}
	c.advance(time.Minute)
	quiet.Add(5)
	quiet.Finish()
	failed.Abort()
	failed.Add(5)
	failed.Finish()
	if out.Len() != 0 {
		t.Errorf("wrote %q", out.String())
	}
}

func TestTerminalBar(t *testing.T) {
	var out bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	b := newBar(&out, "train", "steps", 4, false, true, c.now)
	for range 6 { // two more than announced must not break the bar
		c.advance(time.Second)
		b.Add(1)
		// The library throttles by the real clock.
		time.Sleep(time.Millisecond)
	}
	b.Interrupt(func() { out.WriteString("a log line\n") })
	b.Finish()
	s := out.String()
	for _, want := range []string{"train: 1/4 steps, 1.00 steps/s, ETA 3s", "\033[2K\ra log line\n",
		"train: 6 steps in 6.0s, 1.00 steps/s\n"} {
		if !strings.Contains(s, want) {
			t.Errorf("%q is not in %q", want, s)
		}
	}
	if !strings.HasSuffix(s, "\033[2K\rtrain: 6 steps in 6.0s, 1.00 steps/s\n") {
		t.Errorf("the last line does not stand alone: %q", s)
	}
}

func TestClip(t *testing.T) {
	for _, c := range []struct {
		s    string
		n    int
		want string
	}{{"train: 1 step", 5, "train"}, {"train: 1 step, loss 0.1", 20, "train: 1 step"}, {"train", 5, "train"},
		{"train", 0, ""}, {"train", -3, ""}, {"\u2588\u2588\u2588", 2, "\u2588\u2588"}} {
		if got := clip(c.s, c.n); got != c.want {
			t.Errorf("clip(%q, %d) = %q, want %q", c.s, c.n, got, c.want)
		}
	}
}

func TestConcurrentAdd(t *testing.T) {
	var out bytes.Buffer
	b := newBar(&out, "encode", "images", 800, false, false, time.Now)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				b.Add(1)
			}
		})
	}
	wg.Wait()
	b.Finish()
	if !strings.HasPrefix(out.String(), "encode: 800 images in ") {
		t.Errorf("got %q", out.String())
	}
}
