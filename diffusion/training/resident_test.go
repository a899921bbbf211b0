package training

import (
	"context"
	"testing"

	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// TestResidentEqualsDisk: training on latents in the device's memory gives the very checkpoint, in either order.
func TestResidentEqualsDisk(t *testing.T) {
	for _, dtype := range []checkpoint.DType{checkpoint.F32, checkpoint.F16} {
		for _, order := range []string{stream.ShuffleOrder, stream.BlockOrder} {
			plan := syntheticPlan(60)
			plan.DType = dtype
			plan.Flip = dtype == checkpoint.F16 // of one view, and of two
			l, cfg, dir := synthetic(t, plan), small(12), t.TempDir()
			cfg.DataOrder = order
			if !plan.Flip {
				cfg.FlipProb = 0
			}
			want, _ := run(t, cfg, l, dir, "", Hooks{})
			src, err := samples.Resident(l, torchtest.Device(t))
			if err != nil {
				t.Fatal(err)
			}
			got, err := Run(context.Background(),
				Job{Device: torchtest.Device(t), Config: cfg, Source: src, Dir: t.TempDir()})
			src.Close()
			if err != nil {
				t.Fatal(err)
			}
			sameCheckpoint(t, string(dtype)+" "+order, got.Checkpoint, want.Checkpoint)

			// The order is part of the stream.
			cfg.MaxSteps++
			cfg.DataOrder = map[string]string{stream.ShuffleOrder: stream.BlockOrder,
				stream.BlockOrder: stream.ShuffleOrder}[order]
			if _, err := Check(cfg, samples.SetOf(l), 1, want.Checkpoint); err == nil {
				t.Error("a run goes on in another order")
			}
		}
	}
	if n := torch.Live(); n != 0 {
		t.Errorf("%d tensors live", n)
	}
}
