// Command plot draws what the studies found, and prints a table of it.
//
//	plot blocks DIR       the loss against steps and arithmetic: reads DIR/models.json and
//	                      DIR/runs/BLOCK-MODEL-SEED/log.jsonl, writes DIR/ablation.png
//	plot objectives DIR   the loss, and the error of the noise: reads DIR/NAME/log.jsonl, DIR/NAME-SOLVER.json of
//	                      judge.py and DIR/denoise.json, writes DIR/objectives.png
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"log"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/diffusion/runs"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// A row is a model from `ditrun models --json`, with its results in the study.
type row struct {
	Model  string  `json:"model"`
	Block  string  `json:"block"`
	GMACs  float64 `json:"gmacs"`
	params int     // from the run, which has fewer classes
	runs   []plotter.XYs
}

// tail is the last part of a run whose mean loss counts: its last steps alone are noise.
const tail = 0.2

// tailOf is the mean loss of the last part of a run.
func tailOf(run plotter.XYs) float64 {
	last := run[len(run)-int(math.Ceil(tail*float64(len(run)))):]
	sum := 0.0
	for _, p := range last {
		sum += p.Y
	}
	return sum / float64(len(last))
}

// final is tailOf each run.
func (r row) final() (losses []float64) {
	for _, run := range r.runs {
		losses = append(losses, tailOf(run))
	}
	return losses
}

var colors = map[string]color.Color{ // Okabe and Ito
	"in-context": color.NRGBA{0, 114, 178, 255}, "cross-attention": color.NRGBA{213, 94, 0, 255},
	"adaln": color.NRGBA{0, 158, 115, 255}, "adaln-zero": color.NRGBA{20, 20, 20, 255},

	"eps": color.NRGBA{20, 20, 20, 255}, "min-snr": color.NRGBA{0, 158, 115, 255},
	"velocity": color.NRGBA{0, 114, 178, 255}, "velocity-logit-normal": color.NRGBA{213, 94, 0, 255},
}

func main() {
	log.SetFlags(0)
	study := map[string]func(dir string) error{"blocks": compareBlocks, "objectives": compareObjectives}
	if len(os.Args) != 3 || study[os.Args[1]] == nil {
		log.Fatal("usage: plot blocks|objectives DIR")
	}
	if err := study[os.Args[1]](os.Args[2]); err != nil {
		log.Fatal("plot: ", err)
	}
}

func compareBlocks(dir string) error {
	rows, err := read(dir)
	if err != nil {
		return err
	}
	table(rows)
	return drawBlocks(filepath.Join(dir, "ablation.png"), rows)
}

func read(dir string) (rows []row, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "models.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &rows); err != nil {
		return nil, err
	}
	for i := range rows {
		r := &rows[i]
		logs, err := filepath.Glob(
			filepath.Join(dir, "runs", r.Block+"-"+strings.ReplaceAll(r.Model, "/", "-")+"-[0-9]", "log.jsonl"))
		if err != nil || len(logs) == 0 {
			return nil, errors.Join(err, fmt.Errorf("no run of %s with %s blocks", r.Model, r.Block))
		}
		for _, path := range logs {
			run, err := losses(path)
			if err != nil {
				return nil, err
			}
			r.runs = append(r.runs, run)
			if r.params, err = params(filepath.Join(filepath.Dir(path), "log.txt")); err != nil {
				return nil, err
			}
		}
	}
	return rows, nil
}

func params(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "DiT Parameters: ")
	count, _, _ := strings.Cut(rest, "\n")
	return strconv.Atoi(strings.ReplaceAll(count, ",", ""))
}

func losses(path string) (run plotter.XYs, err error) {
	steps, err := runs.ReadLog(path)
	if err != nil {
		return nil, err
	}
	for _, at := range steps {
		run = append(run, plotter.XY{X: float64(at.Step), Y: float64(at.Loss)})
	}
	if len(run) == 0 {
		return nil, fmt.Errorf("%s: no log steps", path)
	}
	return run, nil
}

func table(rows []row) {
	fmt.Println("| model | block | parameters | MMACs | loss, last fifth of the steps |\n|---|---|---|---|---|")
	for _, r := range rows {
		var words []string
		for _, v := range r.final() {
			words = append(words, fmt.Sprintf("%.4f", v))
		}
		fmt.Printf("| %s | %s | %d | %.2f | %s |\n", r.Model, r.Block, r.params, 1e3*r.GMACs, strings.Join(words, ", "))
	}
}

func drawBlocks(path string, rows []row) error {
	steps, cost := newPlot("training loss of "+largest(rows)+", seed 0", "step", "loss"),
		newPlot("loss at the end against arithmetic, seed 0", "million multiply-accumulates of a forward pass",
			"loss, last fifth of the steps")
	cost.X.Scale, cost.X.Tick.Marker = plot.LogScale{},
		plot.ConstantTicks{{Value: 1, Label: "1"}, {Value: 3, Label: "3"}, {Value: 10, Label: "10"},
			{Value: 30, Label: "30"}}
	for _, block := range []string{"in-context", "cross-attention", "adaln", "adaln-zero"} {
		var points plotter.XYs
		for _, r := range rows {
			if r.Block != block {
				continue
			}
			points = append(points, plotter.XY{X: 1e3 * r.GMACs, Y: r.final()[0]})
			if r.Model == largest(rows) {
				if err := add(steps, block, r.runs[0][3:], false); err != nil { // the first steps would hide the others
					return err
				}
			}
		}
		if err := add(cost, block, points, true); err != nil {
			return err
		}
	}
	cost.X.Min, cost.X.Max = 0.9, 32
	return drawPair(path, steps, cost)
}

// drawPair draws two plots side by side.
func drawPair(path string, left, right *plot.Plot) error {
	canvas := vgimg.NewWith(vgimg.UseWH(10*vg.Inch, 4.5*vg.Inch), vgimg.UseDPI(100))
	c := draw.Crop(draw.New(canvas), 6, -14, 5, -6)
	middle := (c.Min.X + c.Max.X) / 2
	left.Draw(draw.Crop(c, 0, c.Min.X-middle-8, 0, 0))
	right.Draw(draw.Crop(c, middle+8-c.Min.X, 0, 0, 0))
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := (vgimg.PngCanvas{Canvas: canvas}).WriteTo(f); err != nil {
		return err
	}
	return f.Close()
}

func largest(rows []row) string {
	return slices.MaxFunc(rows, func(a, b row) int { return a.params - b.params }).Model
}

func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	for _, f := range []*font.Font{&p.Title.TextStyle.Font, &p.Legend.TextStyle.Font, &p.X.Label.TextStyle.Font,
		&p.Y.Label.TextStyle.Font, &p.X.Tick.Label.Font, &p.Y.Tick.Label.Font} {
		f.Variant = "Sans"
	}
	p.Title.Padding, p.Legend.Padding = 6, 3
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	return p
}

func add(p *plot.Plot, name string, xys plotter.XYs, marks bool) error {
	line, points, err := plotter.NewLinePoints(xys)
	if err != nil {
		return err
	}
	line.Color, line.Width = colors[name], vg.Points(1.5)
	points.Color, points.Shape, points.Radius = colors[name], draw.CircleGlyph{}, vg.Points(3)
	p.Add(line)
	if marks {
		p.Add(points)
	}
	p.Legend.Add(name, line)
	return nil
}
