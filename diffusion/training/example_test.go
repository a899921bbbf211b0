package training_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/latents/latentstest"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/torch"
)

// A model is trained on latents, as encode.Run and `ditrun encode-latents` make them.
func Example() {
	dir, err := os.MkdirTemp("", "run")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	encoded := filepath.Join(dir, "latents")
	plan := latentstest.Plan(32) // made-up latents in three classes
	plan.Height, plan.Width = 4, 4
	if _, err := latentstest.Encode(context.Background(), encoded, plan); err != nil {
		log.Fatal(err)
	}

	set, err := latents.Open(encoded)
	if err != nil {
		log.Fatal(err)
	}
	defer set.Close()
	src, err := samples.Latents(set)
	if err != nil {
		log.Fatal(err)
	}
	config, err := training.ConfigFor("DiT-24x2x2/2", src.Set()) // or DiT-S/2; sizes and classes are those of the set
	if err != nil {
		log.Fatal(err)
	}
	config.GlobalBatchSize, config.MaxSteps, config.LR = 8, 3, 1e-3

	result, err := training.Run(context.Background(), training.Job{
		Device: torch.CPU, Config: config, Source: src, Dir: filepath.Join(dir, "checkpoints"),
		Hooks: training.Hooks{
			Start: func(params, first, total int) { fmt.Println(params, "parameters,", total, "steps") },
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Step, "steps done, weights in", filepath.Base(result.Checkpoint))
	// Output:
	// 30232 parameters, 3 steps
	// 3 steps done, weights in 0000003
}
