// Command denoise compares models that were trained on different objectives, whose losses are of different things and
// so cannot be compared: at equal levels of noise, on latents that no model was trained on, how wrong is the noise that
// follows from what each model predicts?
//
//	denoise LATENTS RUN...   prints a JSON object: lambda, and for each run the mean squared errors at each
//
// Lambda is ln(alpha/sigma), 0 where there is as much noise as data. The levels are those of DiT's betas, evenly in
// lambda; on the linear path they have other times, and samples scaled by a factor, but as much noise for the data. The
// mean over lambda is, up to a constant, the variational bound on the likelihood (Kingma et al. 2021).
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"math"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/diffusion/gaussian"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/philox"
)

const (
	numLevels  = 20
	numLatents = 1000 // evenly from all, which are in the order of their classes
	batch      = 250
)

type result struct {
	Lambda []float64            `json:"lambda"`
	Errors map[string][]float64 `json:"errors"` // by the name of the run's folder
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: denoise LATENTS RUN...")
	}
	r, err := measure(os.Args[1], os.Args[2:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		log.Fatal("denoise: ", err)
	}
}

func measure(path string, runs []string) (*result, error) {
	set, err := latents.Open(path)
	if err != nil {
		return nil, err
	}
	defer set.Close()
	steps, err := levels()
	if err != nil {
		return nil, err
	}
	r := &result{Errors: map[string][]float64{}}
	for _, l := range steps {
		r.Lambda = append(r.Lambda, l.Lambda())
	}
	for _, run := range runs {
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			m, info, err := dit.Open(s, run)
			if err != nil {
				return err
			}
			r.Errors[filepath.Base(run)], err = errorsOf(s.NoGrad(), m, info, set, steps)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", run, err)
		}
	}
	return r, nil
}

// levels are steps of DiT, evenly in lambda from the last to the first.
func levels() (out []schedule.Level, err error) {
	process, err := gaussian.New("")
	if err != nil {
		return nil, err
	}
	all := process.Grid()
	all = all[:len(all)-1] // without the end, where there is no noise
	first, last := all[0].Lambda(), all[len(all)-1].Lambda()
	next := 0
	for i := range numLevels {
		for all[next].Lambda() < first+float64(i)/(numLevels-1)*(last-first)-1e-9 {
			next++
		}
		out = append(out, all[next])
	}
	return out, nil
}

// errorsOf returns the mean squared error of the noise at each level.
func errorsOf(s *torch.Scope, m *dit.DiT, info dit.Info, set *latents.Set, steps []schedule.Level) ([]float64, error) {
	prediction := schedule.Noise
	if p := info.Process; p.IsFlow() {
		if p.Path != string(schedule.Linear) || p.NoiseAtOne {
			return nil, fmt.Errorf("it predicts %s: want the linear path, data at 1", p)
		}
		prediction = schedule.Prediction(p.Objective)
	}
	sums := make([]float64, len(steps))
	for lo := 0; lo < numLatents; lo += batch {
		err := s.Try(func(s *torch.Scope) error {
			x0, labels, err := read(s, set, info.ScalingFactor, lo)
			if err != nil {
				return err
			}
			index := s.Narrow(s.Arange(numLatents, torch.Int64), 0, lo, batch)
			for i, l := range steps {
				if info.Process.IsFlow() {
					l = schedule.Path{Kind: schedule.Linear}.At(1 / (1 + l.Rho()))
				}
				sums[i] += s.Sub(func(s *torch.Scope) *torch.Tensor {
					noise := s.PhiloxNormal(1, philox.TagStartNoise, s.Zeros(torch.Int64, 1), index, x0.Shape()[1:]...)
					x := s.Add(s.MulScalar(x0, l.Alpha), s.MulScalar(noise, l.Sigma))
					t := s.Full(l.T, torch.Float32, batch)
					if !info.Process.IsFlow() {
						t = s.To(t, torch.Int64)
					}
					output := s.Narrow(m.Forward(s, x, t, dit.Condition{Labels: labels}), 1, 0, x0.Dim(1))
					from := l.NoiseFrom(prediction)
					found := s.Add(s.MulScalar(x, from.X), s.MulScalar(output, from.Output))
					return s.Mean(s.Square(s.Subtract(found, noise)))
				}).Item()
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for i := range sums {
		sums[i] /= numLatents / batch
	}
	return sums, nil
}

// read draws a batch of scaled latents from their posteriors.
func read(s *torch.Scope, set *latents.Set, scale float64, lo int) (x0, labels *torch.Tensor, err error) {
	if set.Len() < numLatents {
		return nil, nil, fmt.Errorf("%s: %d latents, want at least %d", set.Dir(), set.Len(), numLatents)
	}
	of := set.Manifest()
	n := of.Channels * of.Height * of.Width
	var values []float32
	var classes []int64
	moments, noise := make([]float32, 2*n), make([]float32, n)
	for i := lo; i < lo+batch; i++ {
		record := i * set.Len() / numLatents
		if err := set.Read(record, false, moments); err != nil {
			return nil, nil, err
		}
		philox.Normals(noise, 1, philox.TagPosterior, 0, uint64(record))
		for j, mean := range moments[:n] {
			deviation := math.Exp(float64(moments[n+j]) / 2)
			values = append(values, float32(scale*(float64(mean)+deviation*float64(noise[j]))))
		}
		classes = append(classes, set.Label(record))
	}
	return torch.From(s, values, batch, of.Channels, of.Height, of.Width), torch.From(s, classes, batch), nil
}
