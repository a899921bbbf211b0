package classes

import (
	"slices"
	"testing"
)

func TestBalance(t *testing.T) {
	abc := []string{"a", "b c", "d"}
	for _, c := range []struct {
		classes []string
		counts  []int
		want    []string
	}{
		{abc, []int{100, 120, 90}, nil},
		{Unnamed(), []int{3}, nil},
		{abc, []int{9, 12, 3}, []string{"every class has fewer than 20 pictures: a model will mostly repeat them"}},
		{abc, []int{400, 30, 0}, []string{"without pictures: d",
			"a has 13 times the pictures of b c: training draws pictures, not classes, so it sees b c that much less"}},
		{abc, []int{25, 30, 5}, []string{"fewer than 20 pictures: d (5): the model will mostly repeat them"}},
	} {
		if got := Balance(c.classes, c.counts); !slices.Equal(got, c.want) {
			t.Errorf("%v: %q, want %q", c.counts, got, c.want)
		}
	}
}
