package sheet

import (
	"image"
	"math"
)

// mostOblong is how many times its shorter side the longer side of a sheet may be for the sake of a class a row.
const mostOblong = 2.5

// columnsOf chooses how many of n cells stand in a row, where the distance between cells is pitch and each run of cells
// shows one class: whole runs, if that makes no strip, in the best shape that fits into the room. It returns 0 where
// none does.
func columnsOf(n, run int, pitch, room image.Point) int {
	best, lowest := 0, math.Inf(1)
	for _, step := range []int{run, 1} {
		for c := step; c <= n; c += step {
			rows := (n + c - 1) / c
			w, h := c*pitch.X, rows*pitch.Y
			if w > room.X || h > room.Y {
				continue
			}
			ratio := float64(w) / float64(h)
			if step > 1 && !nearSquare(ratio) {
				continue
			}
			if cost := unshapeliness(ratio) + float64(c*rows-n)/float64(c*rows); cost < lowest {
				best, lowest = c, cost
			}
		}
		if best > 0 {
			return best
		}
	}
	return 0
}

func nearSquare(ratio float64) bool { return ratio <= mostOblong && ratio >= 1/mostOblong }

// unshapeliness is how far a ratio of width to height is from those between a square and 4:3.
func unshapeliness(ratio float64) float64 {
	return max(0, -math.Log(ratio), math.Log(ratio)-math.Log(4.0/3))
}

// runLength is how many cells in a row have the same label, from the first on, where it is the same number throughout,
// and more than one and fewer than all. Else it is 1.
func runLength(labels []Label) int {
	run := 1
	for run < len(labels) && labels[run] == labels[0] {
		run++
	}
	if run == len(labels) || len(labels)%max(run, 1) != 0 {
		return 1
	}
	for i, l := range labels {
		if l != labels[i-i%run] {
			return 1
		}
	}
	return run
}
