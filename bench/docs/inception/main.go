// Inception writes a network with random weights in the form of the published file: inception FILE.pth.
package main

import (
	"fmt"
	"os"

	"github.com/ditrun/ditrun/diffusion/metrics/inception"
	"github.com/ditrun/ditrun/torch"
)

func main() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		gen, err := torch.NewGenerator(torch.CPU, 1)
		if err != nil {
			return err
		}
		n := inception.New(s)
		defer n.Close()
		n.Init(s, gen)
		return n.Save(os.Args[1])
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "inception:", err)
		os.Exit(1)
	}
}
