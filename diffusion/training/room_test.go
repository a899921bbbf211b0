package training

import "testing"

// What is counted before a run is what it then writes: the rule of retire, played through.
func TestCheckpointsAreCounted(t *testing.T) {
	for _, c := range []struct {
		every, keepLast, keepEvery, first, last, have int
		written, more                                 int
	}{
		{every: 100, last: 1000, written: 10, more: 10},
		{every: 100, last: 1001, written: 11, more: 11},
		{every: 100, last: 50, written: 1, more: 1},
		{every: 100, first: 250, last: 1000, have: 2, written: 8, more: 8},
		{every: 100, first: 1000, last: 1000, have: 10},
		{every: 100, keepLast: 1, last: 1000, written: 10, more: 2},
		{every: 100, keepLast: 3, last: 1000, written: 10, more: 4},
		{every: 100, keepLast: 3, last: 200, written: 2, more: 2},
		{every: 100, keepLast: 3, first: 500, last: 1000, have: 3, written: 5, more: 1},
		{every: 100, keepLast: 3, first: 100, last: 1000, have: 1, written: 9, more: 3},
		{every: 100, keepLast: 1, keepEvery: 500, last: 2000, written: 20, more: 6},
		{every: 100, keepLast: 2, keepEvery: 150, last: 600, written: 6, more: 5},
	} {
		cfg := Config{CkptEvery: c.every, KeepLast: c.keepLast, KeepEvery: c.keepEvery}
		if written, more := cfg.Checkpoints(c.first, c.last, c.have); written != c.written || more != c.more {
			t.Errorf("%+v: %d are written, %d more at once", c, written, more)
		}
	}
}
