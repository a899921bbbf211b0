// Command inverse measures how well the way back of DDIM undoes DDIM on a trained model, without guidance: it draws
// latents from noise, follows them back to noise, and draws from that again. How far each return is from its start is
// the root of the mean square, where noise has 1.
//
//	inverse CHECKPOINT   a model of classes that ditrun train made on eps, such as build/demo/run
package main

import (
	"fmt"
	"log"
	"math"
	"os"
	"strconv"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/gaussian"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/diffusion/solver"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/philox"
)

const (
	samples = 20
	steps   = 100
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: inverse CHECKPOINT")
	}
	if err := torch.Run(torch.CPU, func(s *torch.Scope) error { return measure(s, os.Args[1]) }); err != nil {
		log.Fatal("inverse: ", err)
	}
}

func measure(s *torch.Scope, path string) error {
	m, info, err := dit.Open(s, path)
	if err != nil {
		return err
	}
	if info.Process.IsFlow() || !info.Config.HasClass() {
		return fmt.Errorf("%s: want a model of DiT's process with classes", path)
	}
	s = s.NoGrad()
	cfg := info.Config
	index := s.Arange(samples, torch.Int64)
	labels := make([]int64, samples)
	for i := range labels {
		labels[i] = int64(i % cfg.NumClasses)
	}
	y := torch.From(s, labels, samples)
	noise := s.PhiloxNormal(0, philox.TagStartNoise, s.Zeros(torch.Int64, 1), index, cfg.InChannels, cfg.InputSize,
		cfg.Width())
	model := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
		return m.Forward(s, x, t, dit.Condition{Labels: y})
	}
	follow := func(c solver.Config, from *torch.Tensor) *torch.Tensor {
		v, err := solver.New(s, c)
		if err != nil {
			log.Fatal("inverse: ", err)
		}
		x, _ := diffusion.Sample(s, v, model, from, nil, func(int) error { return nil })
		return x
	}
	own, err := gaussian.New(strconv.Itoa(steps))
	if err != nil {
		return err
	}

	fmt.Println("| grid | corrections | noise, data, noise | data, noise, data |\n|---|---|---|---|")
	for _, grid := range []string{"respaced", "linspace", "karras", "lambda"} {
		c := solver.Config{Name: "ddim", Steps: steps, Spacing: schedule.Spacing(grid)}
		if grid == "respaced" {
			c.Grid = own.Grid()
		}
		data := follow(c, noise)
		for corrections := range 3 {
			back := c
			back.Reverse, back.Corrections = true, corrections
			encoded := follow(back, data)
			fmt.Printf("| %s | %d | %.4f | %.4f |\n", grid, corrections, rms(s, encoded, noise),
				rms(s, follow(c, encoded), data))
		}
	}
	return nil
}

func rms(s *torch.Scope, a, b *torch.Tensor) float64 {
	return math.Sqrt(s.Mean(s.Square(s.Subtract(a, b))).Item())
}
