package data

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
