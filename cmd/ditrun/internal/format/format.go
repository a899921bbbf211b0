// Package format writes numbers the way the command prints them: 1,281,167
// images, 1.5 GB, 2m05s.
package format

import (
	"fmt"
	"strconv"
	"time"
)

// LineWidth is the width of lines for a terminal that nobody has made wider, and where there is none.
const LineWidth = 80

// Count writes n with a comma between thousands: 1281167 is "1,281,167".
func Count(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// Bytes writes n with a decimal unit and about three digits: 1536000 is
// "1.54 MB".
func Bytes(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	v, i := float64(n), 0
	// 999.5, not 1000: the value below it would be printed as "1000 kB".
	for (v >= 999.5 || v <= -999.5) && i < len(units)-1 {
		v /= 1000
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return digits(v) + " " + units[i]
}

// Rate writes a number of things per second: whole and with commas from 100
// up, about three digits below.
func Rate(v float64) string {
	if v >= 100 && v < 1e15 {
		return Count(int64(v + 0.5))
	}
	return digits(v)
}

// digits keeps three significant digits of values from 0.01 to 1000.
func digits(v float64) string {
	abs := v
	if abs < 0 {
		abs = -abs
	}
	switch {
	case abs >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case abs >= 9.995:
		return fmt.Sprintf("%.1f", v)
	case abs >= 0.01 || abs == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.2g", v)
}

// Duration writes d to the precision a person waiting for it wants: "0.4s",
// "39s", "2m05s", "3h20m".
func Duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Duration(-d)
	case d < 9950*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	// Up to an hour seconds count; beyond it, minutes.
	d = d.Round(time.Second)
	if d >= time.Hour {
		d = d.Round(time.Minute)
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	if d < time.Minute {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
}

// Estimate is Duration without the tenths of a second, which no estimate has, and in days beyond two: "3s", "39s",
// "5d07h".
func Estimate(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d >= 48*time.Hour:
		d = d.Round(time.Hour)
		return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
	return Duration(d)
}
