package dit_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
)

// A model is made, saved and opened again.
func Example() {
	config, err := dit.Named("DiT-24x2x2/2") // width, depth, heads and patch; or DiT-XL/2
	if err != nil {
		log.Fatal(err)
	}
	config.SetInput(8, 8) // the size of its latents
	config.SetCondition(dit.OnClass, 3, 0, 0)
	dir, err := os.MkdirTemp("", "model")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "model.safetensors")

	gen, err := torch.NewGenerator(torch.CPU, 1)
	if err != nil {
		log.Fatal(err)
	}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		m, err := dit.New(s, config)
		if err != nil {
			return err
		}
		defer m.Close()
		m.Init(s, gen)
		return m.Save(path, dit.Info{Classes: []string{"cat", "dog", "hen"}, ScalingFactor: 0.18215})
	})
	if err != nil {
		log.Fatal(err)
	}

	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		m, info, err := dit.Open(s, path)
		if err != nil {
			return err
		}
		defer m.Close()
		x := s.Randn(gen, 2, 4, 8, 8)
		t, y := torch.From(s, []int64{0, 999}, 2), torch.From(s, []int64{1, 2}, 2)
		out := m.Forward(s.NoGrad(), x, t, dit.Condition{Labels: y})
		fmt.Println(info.Config.Name(), info.Classes, out.Shape())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: DiT-24x2x2/2 [cat dog hen] [2 8 8 8]
}

// The size and the cost of a model, without libtorch.
func ExampleConfig() {
	config := dit.XL2
	fmt.Printf("%s: %d tokens, %.1f million parameters, %.1f GMACs\n", config.Name(), config.NumTokens(),
		float64(config.NumParams())/1e6, config.MACs()/1e9)
	// Output: DiT-XL/2: 256 tokens, 675.1 million parameters, 118.6 GMACs
}
