package stream

import (
	"context"
	"slices"
	"testing"
)

// TestBlockWindows: tasks go through in their order, in groups that read the blocks of one window of the order, and
// of the next where a batch or a short block lies across the border.
func TestBlockWindows(t *testing.T) {
	const n, batch = 601, 10
	r := &blockReader{l: openTest(t, n), perBlock: 2, batch: batch, flip: true}
	for _, share := range []Share{{}, {World: 2, Rank: 1}, {World: 5, Rank: 3, MicroBatches: 2}, {Offset: 7}} {
		tasks := func() []task {
			return slices.Collect(epochTasks(n, batch, 3, 4, 150, share, r.permute))
		}
		var got []task
		windows := 0
		for w := range r.windows(slices.Values(tasks())) {
			blocks := map[int]bool{}
			for _, task := range w {
				for _, i := range task.items {
					blocks[i/2] = true
				}
			}
			if len(blocks) > windowBlocks+batch {
				t.Errorf("%+v: window %d reads %d blocks", share, windows, len(blocks))
			}
			windows++
			got = append(got, w...)
		}
		same := func(a, b task) bool { return a.at == b.at && slices.Equal(a.items, b.items) }
		if !slices.EqualFunc(got, tasks(), same) {
			t.Errorf("%+v: other tasks", share)
		}
		if !slices.EqualFunc(slices.Collect(r.ahead(t.Context(), slices.Values(tasks()))), got, same) {
			t.Errorf("%+v: other tasks when read ahead", share)
		}
		// An epoch of 601 records takes 5 windows of 128; tasks 4 to 149 are of 3 epochs.
		if windows < 12 || windows > 15 {
			t.Errorf("%+v: %d windows", share, windows)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range r.ahead(ctx, epochTasks(n, batch, 3, 0, 0, Share{}, r.permute)) { // for ever, but for ctx
	}
}
