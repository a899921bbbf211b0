package checkpoint_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

// A file is read and written without libtorch.
func Example() {
	dir, err := os.MkdirTemp("", "checkpoint")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "model.safetensors")
	bias := []float32{0.5, -1, 2}
	err = checkpoint.Write(path, []checkpoint.Tensor{{
		Info: checkpoint.Info{Name: "proj.bias", DType: checkpoint.F16, Shape: []int64{3}},
		Data: checkpoint.EncodeFloats(bias, checkpoint.F16),
	}}, map[string]string{"made_by": "example"})
	if err != nil {
		log.Fatal(err)
	}

	f, err := checkpoint.Open(path) // or a .pt of torch.save, or an index of several files
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	fmt.Println(f.Metadata()["made_by"])
	for _, t := range f.Tensors() {
		values, err := checkpoint.Floats(f, t.Name)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(t.Name, t.DType, t.Shape, values)
	}
	// Output:
	// example
	// proj.bias F16 [3] [0.5 -1 2]
}
