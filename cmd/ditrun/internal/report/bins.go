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

const (
	binsHeight = 4 * vg.Inch
	// legendHeight is the strip of names above the curves, in rows of legendColumns.
	legendHeight  = 0.5 * vg.Inch
	legendGap     = 8
	legendColumns = 5
	numTimesteps  = 1000 // that training draws from
)

// binColors go from dark to light as t grows, and differ in hue too; the last
// is as light as a line on white may be. (Samples of matplotlib's "plasma".)
var binColors = []color.NRGBA{
	{13, 8, 135, 255}, {65, 4, 157, 255}, {106, 0, 168, 255}, {143, 13, 164, 255}, {177, 42, 144, 255},
	{204, 71, 120, 255}, {225, 100, 98, 255}, {240, 128, 76, 255}, {250, 158, 59, 255}, {240, 190, 30, 255},
}

// binRange returns the first and the last timestep of stretch i of n.
func binRange(i, n int) (first, last int) { return i * numTimesteps / n, (i+1)*numTimesteps/n - 1 }

// binCurves returns the running mean of each stretch of timesteps; none where
// no log step has any.
func binCurves(points []point) []plotter.XYs {
	n := 0
	for _, pt := range points {
		n = max(n, len(pt.bins))
	}
	all, some := make([]plotter.XYs, n), false
	for i := range all {
		_, all[i] = curves(points, func(pt point) float64 {
			if i >= len(pt.bins) {
				return math.NaN()
			}
			return float64(pt.bins[i])
		})
		some = some || len(all[i]) > 0
	}
	if !some {
		return nil
	}
	return all
}

// binsPanel draws one line a stretch of timesteps. The names come apart from
// the plot: ten of them would cover the curves.
func binsPanel(byTimestep []plotter.XYs, last int) (*plot.Plot, []plot.Legend, error) {
	p := newPlot("mean squared error (MSE) by timestep t, running mean", "MSE")
	var drawn plotter.XYs
	var names []plot.Legend
	for i, xys := range byTimestep {
		style := draw.LineStyle{Color: binColors[i*len(binColors)/len(byTimestep)], Width: 1.5}
		line := &plotter.Line{LineStyle: style}
		name := plot.NewLegend()
		name.TextStyle = p.Legend.TextStyle
		name.Left = true
		name.ThumbnailWidth = 18
		lo, hi := binRange(i, len(byTimestep))
		name.Add(fmt.Sprintf("t %d-%d", lo, hi), line)
		names = append(names, name)
		if len(xys) == 0 {
			continue
		}
		drawn = append(drawn, xys...)
		line, err := plotter.NewLine(thin(xys))
		if err != nil {
			return nil, nil, err
		}
		line.LineStyle = style
		p.Add(line)
		if len(xys) < 40 { // one point is no line
			dots, err := plotter.NewScatter(xys)
			if err != nil {
				return nil, nil, err
			}
			dots.GlyphStyle = draw.GlyphStyle{Color: style.Color, Radius: 2.2, Shape: draw.CircleGlyph{}}
			p.Add(dots)
		}
	}
	setAxes(p, drawn, last)
	return p, names, nil
}

// drawBoth draws the panels with their axes of steps one above the other, and
// the names between the lower one's title and its curves.
func drawBoth(top draw.Canvas, upper *plot.Plot, bottom draw.Canvas, lower *plot.Plot, names []plot.Legend) {
	left := func(p *plot.Plot, c draw.Canvas) vg.Length { return p.DataCanvas(c).Min.X - c.Min.X }
	shift := left(lower, bottom) - left(upper, top)
	upper.Draw(draw.Crop(top, max(shift, 0), 0, 0, 0))
	bottom = draw.Crop(bottom, max(-shift, 0), 0, 0, 0)
	title := lower.Title
	lower.Title.Text = ""
	body := draw.Crop(bottom, 0, 0, 0, -legendHeight-legendGap-title.TextStyle.Font.Size-title.Padding)
	lower.Draw(body)

	data := lower.DataCanvas(body)
	bottom.FillText(title.TextStyle, vg.Point{X: bottom.Center().X, Y: bottom.Max.Y}, title.Text)
	rows := (len(names) + legendColumns - 1) / legendColumns
	cell := vg.Point{X: (data.Max.X - data.Min.X) / legendColumns, Y: legendHeight / vg.Length(rows)}
	for i, name := range names {
		x := data.Min.X + vg.Length(i%legendColumns)*cell.X
		y := body.Max.Y + legendGap + legendHeight - vg.Length(i/legendColumns+1)*cell.Y
		c := bottom
		c.Rectangle = vg.Rectangle{Min: vg.Point{X: x, Y: y}, Max: vg.Point{X: x + cell.X, Y: y + cell.Y}}
		name.Draw(c)
	}
}
