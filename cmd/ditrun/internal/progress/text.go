package progress

import (
	"strings"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
)

const (
	// barRoom is what the line needs beside the text: percentage, frame and a bar
	// of six. The library shortens the bar to fit but not the text, and a line that
	// wraps cannot be redrawn. spinnerRoom is that without a total.
	barRoom, spinnerRoom = 18, 6

	bytesUnit = "bytes"
	// Past a year the time that is left says only that nothing moves.
	longestETA = 365 * 24 * 3600
)

// fit returns the state in words for n columns: with what matters most where they are few.
func (b *Bar) fit(n int) string {
	s := b.text()
	if len([]rune(s)) <= n {
		return withNote(s, b.note, n)
	}
	if left, known := b.left(); known {
		end := ", ETA " + format.Estimate(left)
		for _, s := range []string{b.title + ": " + b.amount(b.n) + "/" + b.amount(b.total) + end, b.title + end} {
			if len([]rune(s)) <= n {
				return s
			}
		}
	}
	return clip(s, n)
}

// text is the state in words: "encode: 12,288/60,000 images, 1,234/s, ETA 39s", or "opening latents: 12s so far".
func (b *Bar) text() string {
	if b.unit == "" {
		return b.title + ": " + format.Estimate(b.now().Sub(b.start)) + " so far"
	}
	s := b.title + ": " + b.amount(b.n)
	of := b.n
	if b.total > 0 {
		of = b.total
		s += "/" + b.amount(of)
	}
	s += b.name(of)
	// A speed of long ago is none: the work pauses.
	moves := b.now().Sub(b.sampleTime) <= max(rateMemory, 3*b.sampleGap)
	if b.weight > 0 && b.rate > 0 && moves {
		s += ", " + b.speed(b.rate/b.weight)
	}
	if left, known := b.left(); known {
		s += ", ETA " + format.Estimate(left)
	}
	return s
}

// amount is a number of units, without their name where they are bytes.
func (b *Bar) amount(n int64) string {
	if b.unit == bytesUnit {
		return format.Bytes(n)
	}
	return format.Count(n)
}

// name is a blank and what n units are called; bytes have their name in the amount.
func (b *Bar) name(n int64) string {
	switch {
	case b.unit == bytesUnit:
		return ""
	case n == 1:
		return " " + strings.TrimSuffix(b.unit, "s")
	}
	return " " + b.unit
}

// speed is a number of units per second.
func (b *Bar) speed(v float64) string {
	if b.unit == bytesUnit {
		return format.Bytes(int64(v)) + "/s"
	}
	return format.Rate(v) + "/s"
}

// withNote adds to s what fits of a note into a line of n columns, in whole items.
func withNote(s, note string, n int) string {
	if note == "" {
		return s
	}
	for item := range strings.SplitSeq(note, ", ") {
		longer := s + ", " + item
		if len([]rune(longer)) > n {
			break
		}
		s = longer
	}
	return s
}

// clip cuts s to at most n characters, after a whole item or word where there is one.
func clip(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	cut := string(runes[:max(n, 0)])
	if i := strings.LastIndex(string(runes[:max(n, 0)+1]), ", "); i > 0 {
		return cut[:i]
	}
	if i := strings.LastIndex(cut, " "); i > 0 {
		return cut[:i]
	}
	return cut
}
