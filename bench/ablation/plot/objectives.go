package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"gonum.org/v1/plot/plotter"
)

// The runs of objectives.sh, and the solvers that samples were drawn with: with noise in each step, and without.
var objectives = []struct {
	name    string
	solvers [2]string
}{
	{"eps", [2]string{"ddpm", "ddim"}}, {"min-snr", [2]string{"ddpm", "ddim"}},
	{"velocity", [2]string{"sde-euler", "euler"}}, {"velocity-logit-normal", [2]string{"sde-euler", "euler"}},
}

// A judgement is what judge.py --json says of samples.
type judgement struct {
	Samples   int
	Agreement float64 // in percent
	Diversity float64 // in grey levels
	Real      float64 `json:"real_diversity"`
	Judge     float64 `json:"judge_accuracy"`
}

// denoised is what command denoise prints.
type denoised struct {
	Lambda []float64
	Errors map[string][]float64
}

func compareObjectives(dir string) error {
	var noise denoised
	if err := readJSON(filepath.Join(dir, "denoise.json"), &noise); err != nil {
		return err
	}
	loss := newPlot("training loss, of different things", "step", "loss")
	denoise := newPlot("error of the noise, over that of eps", "lambda = ln(alpha / sigma)", "ratio")
	denoise.Legend.Top = false // where the curves are not
	fmt.Println("| objective | training loss | error of the noise | recognised, with noise and without | spread |")
	fmt.Println("|---|---|---|---|---|")
	var last judgement
	for _, o := range objectives {
		run, err := losses(filepath.Join(dir, o.name, "log.jsonl"))
		if err != nil {
			return err
		}
		if err := add(loss, o.name, run[3:], false); err != nil { // the first steps would hide the others
			return err
		}
		errors := noise.Errors[o.name]
		if len(errors) == 0 {
			return fmt.Errorf("denoise.json has no run %s", o.name)
		}
		var ratios plotter.XYs
		for i, e := range errors {
			ratios = append(ratios, plotter.XY{X: noise.Lambda[i], Y: e / noise.Errors["eps"][i]})
		}
		if err := add(denoise, o.name, ratios, true); err != nil {
			return err
		}
		var judged [2]judgement
		for i, solver := range o.solvers {
			if err := readJSON(filepath.Join(dir, o.name+"-"+solver+".json"), &judged[i]); err != nil {
				return err
			}
		}
		fmt.Printf("| %s | %.4f | %.4f | %s %.1f %%, %s %.1f %% | %.1f, %.1f |\n", o.name, tailOf(run), mean(errors),
			o.solvers[0], judged[0].Agreement, o.solvers[1], judged[1].Agreement, judged[0].Diversity,
			judged[1].Diversity)
		last = judged[1]
	}
	fmt.Printf("\n%d samples each; %.1f %% of the real test pictures are recognised; their spread is %.1f.\n",
		last.Samples, last.Judge, last.Real)
	loss.X.Min, loss.X.Max, loss.Y.Min = 0, 2400, 0
	denoise.Y.Min, denoise.Y.Max = 0, 1.2
	return drawPair(filepath.Join(dir, "objectives.png"), loss, denoise)
}

func readJSON(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}
