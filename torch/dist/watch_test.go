package dist

import (
	"testing"
	"time"
)

func TestVerdict(t *testing.T) {
	now := time.Unix(1000, 0)
	ago := func(s int) time.Time { return now.Add(-time.Duration(s) * time.Second) }
	alive := func(n int64, step int64) *beat { return &beat{N: n, At: now, Step: step, Since: ago(40)} }
	failed := func(b *beat, failed, left string) *beat { b.Failed, b.Left = failed, left; return b }
	old := &beat{N: 7, At: ago(62), Step: 1204}
	early := &beat{N: 2, At: ago(3), Step: -1}
	for _, c := range []struct {
		name          string
		before, after []*beat
		want          string
	}{
		{"silent", []*beat{nil, alive(1, 5), old, alive(1, 5)},
			[]*beat{nil, failed(alive(4, 5), "", "x"), old, failed(alive(4, 5), "", "x")},
			"rank 2 has not been heard of for 62 s: its last step was 1204"},
		{"silent before a step", []*beat{nil, early}, []*beat{nil, early},
			"rank 1 has not been heard of for 3 s: it had not begun its first step"},
		{"never there", []*beat{nil, nil}, []*beat{nil, nil}, "rank 1 has never been heard of"},
		{"two", []*beat{nil, nil, old}, []*beat{nil, nil, old},
			"rank 1 has never been heard of; rank 2 has not been heard of for 62 s: its last step was 1204"},
		{"many", make([]*beat, 7), make([]*beat, 7),
			"rank 1 has never been heard of; rank 2 has never been heard of; rank 3 has never been heard of; rank 4 " +
				"has never been heard of; and 2 more"},
		{"gave up and ended", []*beat{nil, failed(alive(4, 5), "disk full", ""), alive(3, 5)},
			[]*beat{nil, failed(alive(4, 5), "disk full", ""), failed(alive(4, 5), "", "closed")},
			"rank 1 gave up: disk full"},
		{"busy", []*beat{nil, alive(1, 9), alive(1, 9)}, []*beat{nil, alive(3, 9), failed(alive(4, 9), "", "closed")},
			"rank 1 is alive but has been at step 9 for 40 s"},
		{"busy before a step", []*beat{nil, alive(1, -1)}, []*beat{nil, alive(3, -1)},
			"rank 1 is alive but has not begun its first step"},
		{"ended before us", []*beat{nil, alive(1, 9)}, []*beat{nil, failed(alive(1, 9), "", "timed out")},
			"rank 1 ended: timed out"},
		{"alone", []*beat{nil}, []*beat{nil}, ""},
	} {
		if got := verdict(c.before, c.after, 0, now); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
