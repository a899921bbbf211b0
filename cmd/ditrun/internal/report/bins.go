package report

import (
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// binColors go from the timesteps with little noise to those with much.
var binColors = []color.NRGBA{
	{R: 68, G: 1, B: 84, A: 255}, {R: 72, G: 40, B: 120, A: 255}, {R: 62, G: 74, B: 137, A: 255}, {R: 49, G: 104, B: 142, A: 255}, {R: 38, G: 130, B: 142, A: 255},
	{R: 31, G: 158, B: 137, A: 255}, {R: 53, G: 183, B: 121, A: 255}, {R: 110, G: 206, B: 88, A: 255}, {R: 181, G: 200, B: 30, A: 255}, {R: 226, G: 168, B: 20, A: 255},
}

// plotBins draws the error by timestep, nil where no record has it.
func plotBins(points []point, last int) (*plot.Plot, error) {
	n := 0
	for _, pt := range points {
		n = max(n, len(pt.bins))
	}
	if n == 0 {
		return nil, nil
	}
	p := newPlot("error by timestep t", "mean squared error")
	p.Legend.TextStyle.Font.Size = 9.5
	p.Legend.Padding = 1
	var all plotter.XYs
	for bin := range n {
		var of []point
		for _, pt := range points {
			if bin < len(pt.bins) {
				of = append(of, point{step: pt.step, loss: float64(pt.bins[bin])})
			}
		}
		raw, smooth := curves(of)
		if len(raw) == 0 {
			continue
		}
		all = append(all, smooth...)
		line, err := plotter.NewLine(thin(smooth))
		if err != nil {
			return nil, err
		}
		line.LineStyle = draw.LineStyle{Color: binColors[bin*len(binColors)/n], Width: 1.4}
		p.Add(line)
		if len(smooth) == 1 { // a line needs two
			dot, err := plotter.NewScatter(smooth)
			if err != nil {
				return nil, err
			}
			dot.GlyphStyle = draw.GlyphStyle{Color: line.Color, Radius: vg.Points(2.4), Shape: draw.CircleGlyph{}}
			p.Add(dot)
		}
		first, last := binRange(bin, n)
		p.Legend.Add(fmt.Sprintf("t %d-%d", first, last), line)
	}
	setAxes(p, all, last)
	// Room for the legend beside the curves.
	p.X.Max += 0.2 * math.Max(float64(last), 1)
	return p, nil
}

// timesteps is the number of steps of the diffusion.
const timesteps = 1000

// binRange returns the first and the last timestep of stretch i of n.
func binRange(i, n int) (first, last int) { return i * timesteps / n, (i+1)*timesteps/n - 1 }
