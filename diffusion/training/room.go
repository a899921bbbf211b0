package training

// CheckpointBytes is about what a checkpoint takes on a disk: the weights, their averages and AdamW's two moments, all
// Float32.
func (c Config) CheckpointBytes() int64 { return int64(4 * 4 * c.Model.NumParams()) }

// Checkpoints counts what a run writes that goes on after the step first and ends with the step last, where there are
// have checkpoints already. More is how many more than these there are at once, at most: with KeepLast an old one is
// removed when the new one is whole.
func (c Config) Checkpoints(first, last, have int) (written, more int) {
	if first >= last {
		return 0, 0
	}
	if written = last/c.CkptEvery - first/c.CkptEvery; last%c.CkptEvery != 0 {
		written++
	}
	if c.KeepLast == 0 {
		return written, written
	}
	more = c.KeepLast + 1 - min(have, c.KeepLast)
	if c.KeepEvery > 0 {
		every := leastCommonMultiple(c.CkptEvery, c.KeepEvery)
		more += last/every - first/every
	}
	return written, min(written, more)
}

func leastCommonMultiple(a, b int) int {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}
