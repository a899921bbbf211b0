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

// savedLatents says what a file of --save-latents holds, "" of any other file.
func savedLatents(path string) string {
	f, err := checkpoint.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	t, ok := f.Lookup("latents")
	factor := f.Metadata()["scaling_factor"]
	if !ok || len(t.Shape) != 4 || len(f.Tensors()) != 1 || factor == "" {
		return ""
	}
	return fmt.Sprintf("scaled latents of %s from `ditrun sample --save-latents`, %dx%dx%d each, scaling factor %s",
		plural(int(t.Shape[0]), "picture"), t.Shape[1], t.Shape[2], t.Shape[3], factor)
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
