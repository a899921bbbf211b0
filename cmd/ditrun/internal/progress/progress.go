// Package progress shows that a long command goes on, and how far it is: a bar on a terminal, plain lines in a file or
// a pipe, nothing when asked to be quiet. A bar speaks by itself while the work reports nothing, so that no work is
// silent for a minute: see [New], [BetweenLines] and [Wait].
package progress

import (
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
)

const (
	// drawInterval spaces the redraws of the bar.
	drawInterval = 100 * time.Millisecond
	// tickInterval is how often a bar looks whether it has been silent for too long.
	tickInterval = time.Second
	// longestSilence is the longest time between two plain lines.
	longestSilence = 50 * time.Second
	// rateSample and rateMemory shape the speed that is shown: a new sample every half second, forgotten over ten.
	rateSample = 500 * time.Millisecond
	rateMemory = 10 * time.Second
)

// A rhythm says how long a bar keeps silent. The pauses between plain lines grow from least to longestSilence, to a
// tenth of the time that has passed.
type rhythm struct {
	first time.Duration // before the first plain line
	least time.Duration // between two of them
	draw  time.Duration // before the bar is drawn on a terminal
}

var (
	counts  = rhythm{first: 2 * time.Second, least: 10 * time.Second}
	between = rhythm{first: 30 * time.Second, least: 30 * time.Second}
	waits   = rhythm{first: 10 * time.Second, least: 10 * time.Second, draw: time.Second}
)

// Bar counts units of work toward a total. Its methods may be called from
// several goroutines; they never fail and never block on more than the write.
type Bar struct {
	mu      sync.Mutex
	w       io.Writer
	title   string
	unit    string // "" for work that is not counted
	note    string
	total   int64 // 0: unknown
	quiet   bool
	summary bool // a last line
	rhythm  rhythm
	bar     *progressbar.ProgressBar // nil: plain lines
	now     func() time.Time
	stop    chan struct{} // closed at the end

	n, base  int64 // base: what was done before the first Add, kept out of the rate
	start    time.Time
	shown    time.Time // the last time that it, or another writer, spoke
	lines    int
	drawn    bool
	hidden   bool
	finished bool

	// The speed of the work as a whole, for the time that is left: from the first report on, since what comes before
	// it (opening files, the first step on a device) is not repeated.
	firstTime time.Time
	firstN    int64

	sampleTime time.Time
	sampleGap  time.Duration // between the last two samples
	sampleN    int64
	rate       float64 // smoothed, to be divided by weight
	weight     float64
}

// New starts a bar that writes to w, normally standard error. Title names the
// work ("encode"), unit what is counted, in the plural ("images"; "bytes" are shown as MB or GB); total is 0
// when it is not known. A bar is drawn when w is a terminal, plain lines are
// written otherwise, nothing at all when quiet is set.
func New(w io.Writer, title, unit string, total int64, quiet bool) *Bar {
	return newBar(w, title, unit, total, quiet, IsTerminal(w), time.Now).watch(counts)
}

// BetweenLines is New for work that prints lines of its own: in a file or a pipe the bar speaks only when they do not
// come, and has no last line.
func BetweenLines(w io.Writer, title, unit string, total int64, quiet bool) *Bar {
	b := newBar(w, title, unit, total, quiet, IsTerminal(w), time.Now)
	b.summary = b.bar != nil
	return b.watch(between)
}

// Wait starts a bar for work that is not counted: where it takes long its title is shown ("opening latents"), with the
// time that has passed.
func Wait(w io.Writer, title string, quiet bool) *Bar {
	b := newBar(w, title, "", 0, quiet, IsTerminal(w), time.Now)
	b.summary = false
	return b.watch(waits)
}

// IsTerminal says whether w is a terminal that can redraw a line.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

func newBar(w io.Writer, title, unit string, total int64, quiet, terminal bool, now func() time.Time) *Bar {
	b := &Bar{w: w, title: format.Line(title), unit: unit, total: max(total, 0), quiet: quiet, summary: true,
		rhythm: counts, now: now, stop: make(chan struct{})}
	b.start = now()
	b.shown, b.sampleTime = b.start, b.start
	if terminal && !quiet {
		limit := b.total
		if limit == 0 {
			limit = -1 // the library's word for "not known": a spinner
		}
		// The text is ours (Describe below), so that both forms say the same
		// and a resumed run does not count its old steps as speed.
		b.bar = progressbar.NewOptions64(limit,
			progressbar.OptionSetWriter(w),
			progressbar.OptionShowDescriptionAtLineEnd(),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(false),
			progressbar.OptionUseANSICodes(true),
			progressbar.OptionSetWidth(24),
			progressbar.OptionSpinnerType(14),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionSetTheme(progressbar.Theme{
				Saucer: "\u2588", SaucerPadding: "\u00b7", BarStart: "|", BarEnd: "|",
			}),
		)
	}
	return b
}

// watch shows the bar while nothing is reported, until it ends.
func (b *Bar) watch(r rhythm) *Bar {
	b.rhythm = r
	if b.quiet {
		return b
	}
	go func() {
		ticker := time.NewTicker(tickInterval)
		defer ticker.Stop()
		for {
			select {
			case <-b.stop:
				return
			case <-ticker.C:
				b.tick()
			}
		}
	}()
	return b
}

func (b *Bar) tick() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.show()
}

// Start says that n units were done before, by an earlier run that this one
// continues: they count towards the total and not towards the speed.
func (b *Bar) Start(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n, b.base, b.sampleN = n, n, n
	b.start, b.firstTime = b.now(), time.Time{}
	b.sampleTime, b.shown = b.start, b.start
}

// Add counts n more units.
func (b *Bar) Add(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count(b.n + int64(n))
}

// Set says that n units are done in all.
func (b *Bar) Set(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count(n)
}

// Describe sets a note shown after the counts, such as "loss 0.1234"; the
// empty string takes it away.
func (b *Bar) Describe(note string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note = format.Line(note)
}

// Interrupt takes the bar off the screen while f writes whole lines to the
// same terminal, then lets it come back. In a file or a pipe these lines stand for the bar's own.
func (b *Bar) Interrupt(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear()
	f()
	if b.bar == nil {
		b.shown = b.now()
	} else if b.drawn {
		b.draw()
	}
}

// Hide takes the bar off the screen, or keeps it silent, while another one shows a part of the work; Show lets it come
// back.
func (b *Bar) Hide() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear()
	b.hidden = true
}

// Show ends Hide.
func (b *Bar) Show() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hidden = false
	b.shown = b.now()
}

// clear takes the bar off the screen.
func (b *Bar) clear() {
	if b.bar != nil && !b.finished && !b.hidden {
		_ = b.bar.Clear()
	}
}

// Finish ends the bar and leaves one line with the count, time and mean speed.
// Further calls do nothing. A command that fails calls Abort instead.
func (b *Bar) Finish() {
	b.end(true)
}

// Abort ends the bar without claiming an end: on a terminal the bar goes, so
// that the error stands on a line of its own.
func (b *Bar) Abort() {
	b.end(false)
}

func (b *Bar) end(finished bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.finished {
		return
	}
	b.clear()
	b.finished = true
	close(b.stop)
	if b.bar != nil {
		_ = b.bar.Exit()
	}
	if b.quiet || !finished || !b.summary {
		return
	}
	elapsed := b.now().Sub(b.start)
	line := fmt.Sprintf("%s: %s%s in %s", b.title, b.amount(b.n-b.base), b.name(b.n-b.base), format.Duration(elapsed))
	if s := elapsed.Seconds(); s >= 0.05 && b.n > b.base {
		line += ", " + b.speed(float64(b.n-b.base)/s)
	}
	fmt.Fprintln(b.w, withNote(line, b.note, format.LineWidth))
}

// count takes the units that are done, and a sample of the speed, and shows the state when it is time.
func (b *Bar) count(n int64) {
	b.n = n
	now := b.now()
	if b.firstTime.IsZero() && n > b.base {
		b.firstTime, b.firstN = now, n
	}
	if dt := now.Sub(b.sampleTime); dt >= rateSample {
		forget := math.Exp(-dt.Seconds() / rateMemory.Seconds())
		b.rate = b.rate*forget + (1-forget)*float64(b.n-b.sampleN)/dt.Seconds()
		b.weight = b.weight*forget + (1 - forget)
		b.sampleTime, b.sampleGap, b.sampleN = now, dt, b.n
	}
	b.show()
}

// show shows the state when it is time.
func (b *Bar) show() {
	if b.quiet || b.finished || b.hidden {
		return
	}
	now := b.now()
	if b.bar != nil {
		if now.Sub(b.shown) >= drawInterval && now.Sub(b.start) >= b.rhythm.draw {
			b.shown = now
			b.draw()
		}
		return
	}
	wait := b.rhythm.first
	if b.lines > 0 {
		wait = min(max(b.rhythm.least, now.Sub(b.start)/10), longestSilence)
	}
	if now.Sub(b.shown) >= wait {
		b.shown = now
		b.lines++
		fmt.Fprintln(b.w, withNote(b.text(), b.note, format.LineWidth))
	}
}

func (b *Bar) draw() {
	if b.finished || b.hidden {
		return
	}
	b.drawn = true
	n, room := b.n, spinnerRoom
	if b.total > 0 {
		// One less than the whole: at the whole the library ends the bar,
		// which is for Finish to do.
		n, room = min(n, b.total-1), barRoom
	}
	b.bar.Describe(b.fit(b.columns() - room))
	_ = b.bar.Set64(n)
}

// columns is the width of the terminal.
func (b *Bar) columns() int {
	if f, ok := b.w.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
	}
	return format.LineWidth
}

// Left estimates the time to the total, at the speed of the work so far; false where that is not known.
func (b *Bar) Left() (time.Duration, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left()
}

func (b *Bar) left() (time.Duration, bool) {
	now := b.now()
	done, since := b.n-b.firstN, now.Sub(b.firstTime)
	if b.firstTime.IsZero() || done <= 0 || since <= 0 {
		done, since = b.n-b.base, now.Sub(b.start)
	}
	left := b.total - b.n
	if left <= 0 || done <= 0 || since <= 0 {
		return 0, false
	}
	seconds := since.Seconds() * float64(left) / float64(done)
	return time.Duration(seconds * float64(time.Second)), seconds < longestETA
}
