package main

import (
	"fmt"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// A latentsFile collects what --save-latents writes.
type latentsFile struct {
	path  string
	x     []float32
	shape []int // of the last batch
}

func (f *latentsFile) add(x []float32, shape []int) {
	f.x, f.shape = append(f.x, x...), shape
}

// write writes the scaled latents of all pictures, [N, C, I, J]; divided by scaling_factor they can be decoded.
func (f *latentsFile) write(info dit.Info) error {
	if f.path == "" {
		return nil
	}
	shape := []int64{-1, int64(f.shape[1]), int64(f.shape[2]), int64(f.shape[3])}
	shape[0] = int64(len(f.x)) / (shape[1] * shape[2] * shape[3])
	t := checkpoint.Tensor{Info: checkpoint.Info{Name: "latents", DType: checkpoint.F32, Shape: shape},
		Data: checkpoint.EncodeFloats(f.x, checkpoint.F32)}
	return checkpoint.Write(f.path, []checkpoint.Tensor{t},
		map[string]string{"scaling_factor": fmt.Sprint(info.ScalingFactor)})
}
