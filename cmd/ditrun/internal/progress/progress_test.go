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
	for range 48 { // 48 batches of 256 in 12 seconds: 1,024/s
		c.advance(250 * time.Millisecond)
		b.Add(256)
	}
	c.advance(time.Second)
	b.Finish()
	b.Finish()
	want := "encode: 2,048/60,000 images, 1,024/s, ETA 57s\n" +
		"encode: 12,288/60,000 images, 1,024/s, ETA 47s\n" +
		"encode: 12,288 images in 13s, 945/s\n"
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
	want := "scan: 10 files, 2.50/s, 3 bad\n" +
		"scan: 10 files in 4.0s, 2.50/s, 3 bad\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

// TestOneUnit: one thing is not called by its plural.
func TestOneUnit(t *testing.T) {
	var out bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	b := newBar(&out, "encode", "pictures", 1, false, false, c.now)
	c.advance(4 * time.Second)
	b.Set(0)
	b.Set(1)
	b.Finish()
	if want := "encode: 0/1 picture\nencode: 1 picture in 4.0s, 0.25/s\n"; out.String() != want {
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
	want := "train: 950/1,000 steps, 10.0/s, ETA 5s\n" +
		"train: 50 steps in 5.0s, 10.0/s\n"
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
	for _, want := range []string{"train: 1/4 steps, 1.00/s, ETA 3s", "\033[2K\ra log line\n",
		"train: 6 steps in 6.0s, 1.00/s\n"} {
		if !strings.Contains(s, want) {
			t.Errorf("%q is not in %q", want, s)
		}
	}
	if !strings.HasSuffix(s, "\033[2K\rtrain: 6 steps in 6.0s, 1.00/s\n") {
		t.Errorf("the last line does not stand alone: %q", s)
	}
}

func TestClip(t *testing.T) {
	for _, c := range []struct {
		s    string
		n    int
		want string
	}{{"train: 1 step", 5, "train"}, {"train: 1 step, loss 0.1", 20, "train: 1 step"}, {"train", 5, "train"},
		{"train", 0, ""}, {"train", -3, ""}, {"train: 12/400,000 steps", 22, "train: 12/400,000"},
		{"\u2588\u2588\u2588", 2, "\u2588\u2588"}} {
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

// A bar speaks while nothing is reported: it says how far the work is, and never keeps silent for a minute.
func TestSpeaksBySilence(t *testing.T) {
	var out bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	b := newBar(&out, "sample", "steps", 250, false, false, c.now)
	c.advance(time.Second)
	b.Add(1)
	silence, said, longest, shortest := 0, 0, 0, 3600
	for second := range 7200 {
		c.advance(time.Second)
		b.tick()
		silence++
		if n := strings.Count(out.String(), "\n"); n > said {
			if said > 0 {
				longest, shortest = max(longest, silence), min(shortest, silence)
			}
			silence, said = 0, n
		}
		if second == 30 {
			b.Interrupt(func() {}) // a line of another writer counts
			silence = 0
		}
	}
	if longest >= 60 || shortest < 5 {
		t.Errorf("lines come after %d to %d seconds, want 5 to 60", shortest, longest)
	}
	first := "sample: 1/250 steps, 1.00/s, ETA 8m18s\nsample: 1/250 steps, ETA 49m48s\n"
	if !strings.HasPrefix(out.String(), first) { // a speed of long ago is none
		t.Errorf("the first lines are not\n%s\nbut\n%s", first, out.String()[:200])
	}
}

// On a narrow terminal the time that is left comes first.
func TestFit(t *testing.T) {
	c := &clock{time.Unix(0, 0)}
	b := newBar(&bytes.Buffer{}, "train", "steps", 400_000, true, false, c.now)
	b.Describe("loss 0.1234")
	c.advance(time.Second)
	b.Add(10)
	for n, want := range map[int]string{
		80: "train: 10/400,000 steps, 10.0/s, ETA 11h07m, loss 0.1234",
		50: "train: 10/400,000 steps, 10.0/s, ETA 11h07m",
		40: "train: 10/400,000, ETA 11h07m",
		22: "train, ETA 11h07m",
		12: "train:",
	} {
		if got := b.fit(n); got != want {
			t.Errorf("%d columns: %q, want %q", n, got, want)
		}
	}
}

func TestWaitSaysHowLong(t *testing.T) {
	var out bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	b := newBar(&out, "opening latents", "", 0, false, false, c.now)
	b.summary, b.rhythm = false, waits
	for range 25 {
		c.advance(time.Second)
		b.tick()
	}
	b.Hide()
	for range 25 {
		c.advance(time.Second)
		b.tick()
	}
	b.Show()
	b.Finish()
	if want := "opening latents: 10s so far\nopening latents: 20s so far\n"; out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

// What a bar counts as bytes reads as one does, and no plain line is wider than a terminal.
func TestWidth(t *testing.T) {
	var out bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	b := newBar(&out, "fetch model.safetensors", "bytes", 2_700_000_000, false, false, c.now)
	c.advance(10 * time.Second)
	b.Set(450_000_000)
	b.Finish()
	want := "fetch model.safetensors: 450 MB/2.70 GB, 45.0 MB/s, ETA 50s\n" +
		"fetch model.safetensors: 450 MB in 10s, 45.0 MB/s\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	out.Reset()
	b = newBar(&out, "encode", "pictures", 1_281_167, false, false, c.now)
	b.Describe("encoder waits 100 %, 12 batches too large for fp16, 123 bad pictures")
	for range 3 {
		c.advance(100 * time.Second)
		b.Add(123_456)
	}
	b.Finish()
	for line := range strings.Lines(out.String()) {
		if n := len([]rune(strings.TrimSpace(line))); n > 80 || !strings.Contains(line, "encoder waits 100 %") {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
}
