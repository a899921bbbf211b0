package stream

import (
	"slices"
	"testing"
)

func TestPermutationIsRandperm(t *testing.T) {
	const imagenet = 1281167
	// The first entries of torch.randperm(1281167) with seeds 0 and 1.
	for seed, want := range map[uint32][]int{
		0: {1069931, 571398, 762430, 399643, 899707, 226472, 855447, 424110},
		1: {24379, 1219368, 1037816, 384707},
	} {
		if got := Permutation(seed, 0, imagenet)[:len(want)]; !slices.Equal(got, want) {
			t.Errorf("seed %d: %v, want %v", seed, got, want)
		}
	}
	// torch.manual_seed(0); torch.randperm(10)
	if got, want := Permutation(0, 0, 10), []int{4, 1, 7, 5, 3, 9, 0, 8, 6, 2}; !slices.Equal(got, want) {
		t.Errorf("n 10: %v, want %v", got, want)
	}
}

func TestPermutationProperties(t *testing.T) {
	for _, n := range []int{0, 1, 2, 7, 624, 1000} {
		p := Permutation(3, 5, n)
		if !slices.Equal(p, Permutation(8, 0, n)) {
			t.Errorf("n %d: seed 3 epoch 5 differs from seed 8 epoch 0", n)
		}
		s := slices.Sorted(slices.Values(p))
		for i, v := range s {
			if v != i {
				t.Fatalf("n %d: not a permutation: %v", n, p)
			}
		}
	}
	if slices.Equal(Permutation(0, 0, 1000), Permutation(0, 1, 1000)) {
		t.Error("two epochs have the same order")
	}
}

// TestBlockOrder: each sample once, another order in each epoch, and no window reads other blocks than its own.
func TestBlockOrder(t *testing.T) {
	for _, c := range []struct{ n, perBlock int }{{1, 8}, {7, 8}, {1000, 3}, {5000, 8}, {64 * 8 * 3, 8}} {
		order := blockOrder(3, 1, c.n, c.perBlock)
		if got := slices.Clone(order); len(got) != c.n {
			t.Fatalf("%+v: %d samples", c, len(got))
		} else {
			slices.Sort(got)
			for i, v := range got {
				if i != v {
					t.Fatalf("%+v: sample %d is not there once", c, i)
				}
			}
		}
		if c.n > 100 && (slices.Equal(order, blockOrder(3, 2, c.n, c.perBlock)) ||
			slices.Equal(order, blockOrder(4, 1, c.n, c.perBlock))) {
			t.Errorf("%+v: the same order in another epoch or of another seed", c)
		}
		if !slices.Equal(order, blockOrder(3, 1, c.n, c.perBlock)) {
			t.Errorf("%+v: not the same order again", c)
		}
		in := map[int]int{} // the windows of each block
		for at, i := range order {
			w := at / (c.perBlock * windowBlocks)
			b := i / c.perBlock
			if before, ok := in[b]; ok && before != w && c.n%c.perBlock == 0 {
				t.Fatalf("%+v: block %d is in windows %d and %d", c, b, before, w)
			}
			in[b] = w
		}
		neighbours := 0
		for at := 1; at < len(order); at++ {
			if order[at] == order[at-1]+1 {
				neighbours++
			}
		}
		if c.n > 1000 && neighbours > c.n/50 {
			t.Errorf("%+v: %d neighbours are neighbours yet", c, neighbours)
		}
	}
}
