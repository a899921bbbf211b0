package schedule

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Space returns the steps, of a process of T, that the spec keeps, ascending:
//
//	""          all of them
//	"250"       250 steps, spread evenly from the first to the last
//	"10,15,20"  T cut into three equal sections, 10, 15 and 20 steps from each
//	"ddim50"    0, s, 2s, ... for the smallest stride s that gives 50 steps
//
// It gives the steps of the original code, whose rounding is part of what a
// step count means: positions are accumulated in floating point and rounded
// half to even.
func Space(T int, spec string) ([]int, error) {
	use, err := space(T, spec)
	if err != nil {
		return nil, fmt.Errorf("num-sampling-steps %q: %w", spec, err)
	}
	return use, nil
}

func space(T int, spec string) ([]int, error) {
	if T < 1 {
		return nil, fmt.Errorf("the process has %d steps", T)
	}
	if rest, ok := strings.CutPrefix(spec, "ddim"); ok {
		want, err := strconv.Atoi(rest)
		if err != nil {
			return nil, fmt.Errorf(`%q is not a number of steps; want "ddim" and a number, as in "ddim50"`, rest)
		}
		return stride(T, want)
	}
	if spec == "" {
		spec = strconv.Itoa(T)
	}
	parts := strings.Split(spec, ",")
	if len(parts) > T {
		return nil, fmt.Errorf("%d sections of a process of %d steps", len(parts), T)
	}
	var use []int
	start := 0
	for i, part := range parts {
		count, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || count < 0 {
			return nil,
				fmt.Errorf(`%q is not a number of steps; want a number, numbers with commas, or "ddim" and a number`,
					part)
		}
		size := T / len(parts)
		if i < T%len(parts) {
			size++
		}
		if count > size {
			if len(parts) == 1 {
				return nil, fmt.Errorf("%d steps of a process of %d", count, size)
			}
			return nil, fmt.Errorf("%d steps of a section of %d", count, size)
		}
		step := 1.0
		if count > 1 {
			step = float64(size-1) / float64(count-1)
		}
		at := 0.0
		for range count {
			use = append(use, start+int(math.RoundToEven(at)))
			at += step
		}
		start += size
	}
	if len(use) == 0 {
		return nil, fmt.Errorf("keeps no step")
	}
	return slices.Compact(use), nil
}

// stride returns 0, s, 2s, ... below T for the smallest s that gives want steps.
// Like the original it tries no stride of T, so a single step cannot be had.
func stride(T, want int) ([]int, error) {
	for s := 1; s < T; s++ {
		if (T+s-1)/s == want {
			use := make([]int, want)
			for i := range use {
				use[i] = i * s
			}
			return use, nil
		}
	}
	return nil, fmt.Errorf("no integer stride over %d steps gives %d", T, want)
}
