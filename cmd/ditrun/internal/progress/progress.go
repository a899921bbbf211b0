// Package progress shows how far a long command is: a bar on a terminal, one
// plain line per interval in a file or a pipe, nothing when asked to be quiet.
package progress

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
)

const (
	// lineInterval spaces the plain lines; the first comes earlier, so that a
	// reader of the log soon sees a rate.
	lineInterval = 10 * time.Second
	firstLine    = 2 * time.Second
	// drawInterval spaces the redraws of the bar.
	drawInterval = 100 * time.Millisecond
	// rateSample and rateMemory shape the speed: a new sample every half
	// second, forgotten over ten, so that the ETA neither jumps nor lags.
	rateSample = 500 * time.Millisecond
	rateMemory = 10 * time.Second
)

// Bar counts units of work toward a total. Its methods may be called from
// several goroutines; they never fail and never block on more than the write.
type Bar struct {
	mu    sync.Mutex
	w     io.Writer
	title string
	unit  string
	note  string
	total int64 // 0: unknown
	quiet bool
	bar   *progressbar.ProgressBar // nil: plain lines
	now   func() time.Time

	n, base  int64 // base: what was done before the first Add, kept out of the rate
	start    time.Time
	shown    time.Time
	lines    int
	finished bool

	sampleTime time.Time
	sampleN    int64
	rate       float64 // smoothed, to be divided by weight
	weight     float64
}

// New starts a bar that writes to w, normally standard error. Title names the
// work ("encode"), unit what is counted, in the plural ("images"); total is 0
// when it is not known. A bar is drawn when w is a terminal, plain lines are
// written otherwise, nothing at all when quiet is set.
func New(w io.Writer, title, unit string, total int64, quiet bool) *Bar {
	return newBar(w, title, unit, total, quiet, IsTerminal(w), time.Now)
}

// IsTerminal says whether w is a terminal that can redraw a line.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

func newBar(w io.Writer, title, unit string, total int64, quiet, terminal bool, now func() time.Time) *Bar {
	b := &Bar{w: w, title: format.Line(title), unit: unit, total: max(total, 0), quiet: quiet, now: now}
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

// Start says that n units were done before, by an earlier run that this one
// continues: they count towards the total and not towards the speed.
func (b *Bar) Start(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n, b.base, b.sampleN = n, n, n
	b.start = b.now()
	b.sampleTime, b.shown = b.start, b.start
}

// Add counts n more units.
func (b *Bar) Add(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n += int64(n)
	b.update()
}

// Set says that n units are done in all.
func (b *Bar) Set(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n = n
	b.update()
}

// Describe sets a note shown after the counts, such as "loss 0.1234"; the
// empty string takes it away.
func (b *Bar) Describe(note string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note = format.Line(note)
}

// Interrupt takes the bar off the screen while f writes whole lines to the
// same terminal, then lets it come back.
func (b *Bar) Interrupt(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bar != nil && !b.finished {
		_ = b.bar.Clear()
	}
	f()
	if b.bar != nil && !b.finished && b.n > b.base {
		b.draw()
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

func (b *Bar) end(summary bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.finished {
		return
	}
	b.finished = true
	if b.bar != nil {
		_ = b.bar.Clear()
		_ = b.bar.Exit()
	}
	if b.quiet || !summary {
		return
	}
	elapsed := b.now().Sub(b.start)
	line := fmt.Sprintf("%s: %s %s in %s", b.title, format.Count(b.n-b.base), b.unit, format.Duration(elapsed))
	if s := elapsed.Seconds(); s >= 0.05 && b.n > b.base {
		line += fmt.Sprintf(", %s %s/s", format.Rate(float64(b.n-b.base)/s), b.unit)
	}
	fmt.Fprintln(b.w, line+b.suffix())
}

// update takes a speed sample and shows the state when it is time.
func (b *Bar) update() {
	if b.quiet || b.finished {
		return
	}
	now := b.now()
	if dt := now.Sub(b.sampleTime); dt >= rateSample {
		forget := math.Exp(-dt.Seconds() / rateMemory.Seconds())
		b.rate = b.rate*forget + (1-forget)*float64(b.n-b.sampleN)/dt.Seconds()
		b.weight = b.weight*forget + (1 - forget)
		b.sampleTime, b.sampleN = now, b.n
	}
	if b.bar != nil {
		if now.Sub(b.shown) >= drawInterval {
			b.shown = now
			b.draw()
		}
		return
	}
	wait := lineInterval
	if b.lines == 0 {
		wait = firstLine
	}
	if now.Sub(b.shown) >= wait {
		b.shown = now
		b.lines++
		fmt.Fprintln(b.w, b.text())
	}
}

func (b *Bar) draw() {
	n := b.n
	if b.total > 0 {
		// One less than the whole: at the whole the library ends the bar,
		// which is for Finish to do.
		n = min(n, b.total-1)
	}
	_ = b.bar.Set64(n)
	b.bar.Describe(clip(b.text(), b.columns()-barRoom))
}

// barRoom is what the line needs beside the text: percentage, frame and a bar
// of six. The library shortens the bar to fit but not the text, and a line that
// wraps cannot be redrawn.
const barRoom = 18

// columns is the width of the terminal.
func (b *Bar) columns() int {
	if f, ok := b.w.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
	}
	return 80
}

// clip cuts s to at most n characters, after a whole item where there is one.
func clip(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	cut := string(runes[:max(n, 0)])
	if i := strings.LastIndex(cut, ", "); i > 0 {
		cut = cut[:i]
	}
	return cut
}

// text is the state in words: "encode: 12,288/60,000 images, 1,234 images/s,
// ETA 39s".
func (b *Bar) text() string {
	s := b.title + ": " + format.Count(b.n)
	if b.total > 0 {
		s += "/" + format.Count(b.total)
	}
	s += " " + b.unit
	if b.weight > 0 && b.rate > 0 {
		rate := b.rate / b.weight
		s += ", " + format.Rate(rate) + " " + b.unit + "/s"
		if left := b.total - b.n; left > 0 {
			// Past a year the figure says only that nothing moves.
			if seconds := float64(left) / rate; seconds < 365*24*3600 {
				s += ", ETA " + eta(seconds)
			}
		}
	}
	return s + b.suffix()
}

// eta is a duration without the tenths, which no estimate has.
func eta(seconds float64) string {
	if seconds < 9.5 {
		return fmt.Sprintf("%.0fs", seconds)
	}
	return format.Duration(time.Duration(seconds * float64(time.Second)))
}

func (b *Bar) suffix() string {
	if b.note == "" {
		return ""
	}
	return ", " + b.note
}
