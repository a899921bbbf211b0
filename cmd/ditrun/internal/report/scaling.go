package report

import (
	"fmt"
	"image/color"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/ditrun/ditrun/diffusion/scaling"
	"github.com/ditrun/ditrun/internal/disk"
)

// Scaling is what [PlotScaling] draws. Without runs it is the paper's models alone.
type Scaling struct {
	Runs     []ScalingRun
	Images   float64 // at which losses are compared
	Law      *scaling.Law
	Frontier *scaling.Law // nil where there is none
	Best     []scaling.Best
	Paper    *scaling.Law // of the paper's FIDs
}

// A ScalingRun is one run of [Scaling].
type ScalingRun struct {
	Model string
	Patch int
	Curve scaling.Curve
	Loss  scaling.Point
}

const panelHeight = 3.6 * vg.Inch

// patchColors are those of Okabe and Ito, which the colour-blind tell apart.
var patchColors = []color.Color{
	color.NRGBA{R: 0, G: 114, B: 178, A: 255}, color.NRGBA{R: 213, G: 94, B: 0, A: 255},
	color.NRGBA{R: 0, G: 158, B: 115, A: 255}, color.NRGBA{R: 204, G: 121, B: 167, A: 255},
	color.NRGBA{R: 20, G: 20, B: 20, A: 255},
}

// PlotScaling draws runs into a .png or .svg: their losses against the arithmetic of their models, the losses of the
// whole training against that of the training, and below both the paper's models.
func PlotScaling(path string, s Scaling) error {
	paper, err := s.paperPanel()
	panels := []*plot.Plot{paper}
	if err == nil && len(s.Runs) > 0 {
		var first, second *plot.Plot
		if first, err = s.lossPanel(); err == nil {
			second, err = s.computePanel()
		}
		panels = []*plot.Plot{first, second, paper}
	}
	if err != nil {
		return fmt.Errorf("plot %s: %w", path, err)
	}
	height := panelHeight * vg.Length(len(panels))
	var canvas interface {
		vg.CanvasSizer
		io.WriterTo
	} = vgsvg.New(plotWidth, height)
	if filepath.Ext(path) == ".png" {
		canvas = vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(plotWidth, height), vgimg.UseDPI(plotDPI),
			vgimg.UseBackgroundColor(color.White))}
	}
	c := draw.New(canvas)
	for i, p := range panels {
		below := panelHeight * vg.Length(len(panels)-1-i)
		p.Draw(margins(draw.Crop(c, 0, 0, below, -panelHeight*vg.Length(i))))
	}
	return disk.WriteFile(path, func(w io.Writer) error {
		_, err := canvas.WriteTo(w)
		return err
	})
}

func (s Scaling) lossPanel() (*plot.Plot, error) {
	patches := byPatch{}
	for _, r := range s.Runs {
		patches[r.Patch] = append(patches[r.Patch], plotter.XY{X: r.Curve.MACs / 1e9, Y: r.Loss.Mean()})
	}
	p := newPlot(fmt.Sprintf("Loss after %s pictures", stepLabel(s.Images)), "loss")
	p.X.Label.Text = "GMACs of a forward pass of one picture"
	return p, patches.draw(p, s.Law, 1e9)
}

func (s Scaling) paperPanel() (*plot.Plot, error) {
	patches := byPatch{}
	for _, m := range scaling.Paper() {
		patches[m.PatchSize] = append(patches[m.PatchSize], plotter.XY{X: m.Gflops, Y: m.FID})
	}
	p := newPlot("The paper's models: FID-50K at 400k steps, ImageNet, 256 pixels, no guidance", "FID")
	p.X.Label.Text = "Gflops of the paper (GMACs) of a forward pass of one picture"
	return p, patches.draw(p, s.Paper, 1)
}

// byPatch are the points of models by the size of their patches.
type byPatch map[int]plotter.XYs

// draw draws the points, in a colour and shape for each size, and the law, if not nil, whose x is unit times theirs.
func (b byPatch) draw(p *plot.Plot, law *scaling.Law, unit float64) error {
	sizes := slices.Sorted(maps.Keys(b))
	var all plotter.XYs
	for _, size := range sizes {
		all = append(all, b[size]...)
	}
	logAxes(p, all)
	if law != nil {
		if err := addLaw(p, law, all, unit); err != nil {
			return err
		}
	}
	for i, size := range sizes {
		if err := addPoints(p, b[size], i, fmt.Sprintf("patch %d", size)); err != nil {
			return err
		}
	}
	return nil
}

func (s Scaling) computePanel() (*plot.Plot, error) {
	p := newPlot("Loss against the arithmetic of the training so far", "loss")
	p.X.Label.Text = "GMACs of the training"
	var all plotter.XYs
	for i, r := range s.Runs {
		var raw []point
		for k, images := range r.Curve.Images {
			raw = append(raw, point{step: int(images), loss: r.Curve.Losses[k]})
		}
		_, smooth := curves(raw, func(pt point) float64 { return pt.loss })
		for k := range smooth {
			smooth[k].X = r.Curve.Compute(smooth[k].X) / 1e9
		}
		smooth = smooth[len(smooth)/20:] // the first steps would be most of the picture
		all = append(all, smooth...)
		line, err := plotter.NewLine(thin(smooth))
		if err != nil {
			return nil, err
		}
		line.LineStyle = draw.LineStyle{Color: patchColors[i%len(patchColors)], Width: 1.2}
		if i >= len(patchColors) {
			line.Dashes = []vg.Length{vg.Points(4 + 2*float64(i/len(patchColors))), vg.Points(2)}
		}
		p.Add(line)
		p.Legend.Add(r.Model, line)
	}
	logAxes(p, all)
	if s.Frontier != nil {
		var ends plotter.XYs
		for _, b := range s.Best {
			ends = append(ends, plotter.XY{X: b.Compute / 1e9, Y: b.Mean()})
		}
		if err := addLaw(p, s.Frontier, ends, 1e9); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func addPoints(p *plot.Plot, points plotter.XYs, i int, name string) error {
	dots, err := plotter.NewScatter(points)
	if err != nil {
		return err
	}
	shapes := []draw.GlyphDrawer{draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, draw.PyramidGlyph{}}
	dots.GlyphStyle = draw.GlyphStyle{Color: patchColors[i%len(patchColors)], Radius: 4, Shape: shapes[i%len(shapes)]}
	p.Add(dots)
	p.Legend.Add(name, dots)
	return nil
}

// addLaw draws a law over the range of points, and its interval. The law's x is unit times that of the points.
func addLaw(p *plot.Plot, law *scaling.Law, points plotter.XYs, unit float64) error {
	low, high := math.Inf(1), 0.0
	for _, at := range points {
		low, high = min(low, at.X), max(high, at.X)
	}
	const steps = 40
	line, band := plotter.XYs{}, plotter.XYs{}
	var back plotter.XYs
	for i := range steps + 1 {
		x := low * math.Pow(high/low, float64(i)/steps)
		at := law.Mean(x * unit)
		line = append(line, plotter.XY{X: x, Y: at.Value})
		band = append(band, plotter.XY{X: x, Y: at.Low})
		back = append(back, plotter.XY{X: x, Y: at.High})
	}
	slices.Reverse(back)
	area, err := plotter.NewPolygon(append(band, back...))
	if err != nil {
		return err
	}
	area.Color, area.LineStyle.Width = color.NRGBA{A: 28}, 0
	drawn, err := plotter.NewLine(line)
	if err != nil {
		return err
	}
	drawn.LineStyle = draw.LineStyle{Color: color.NRGBA{R: 60, G: 60, B: 60, A: 255}, Width: 1.2,
		Dashes: []vg.Length{vg.Points(6), vg.Points(3)}}
	p.Add(area, drawn)
	p.Legend.Add(fmt.Sprintf("x^-%.3f", law.Exponent), drawn)
	for _, at := range append(band, back...) {
		p.Y.Min, p.Y.Max = min(p.Y.Min, at.Y), max(p.Y.Max, at.Y)
	}
	return nil
}

// logAxes makes both axes logarithmic, over the range of points and a little more.
func logAxes(p *plot.Plot, points plotter.XYs) {
	p.Legend.Top = true
	p.Legend.XOffs, p.Legend.YOffs = -6, -4
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Padding, p.Y.Padding = 0, 0
	x, y := [2]float64{math.Inf(1), 0}, [2]float64{math.Inf(1), 0}
	for _, at := range points {
		x[0], x[1] = min(x[0], at.X), max(x[1], at.X)
		y[0], y[1] = min(y[0], at.Y), max(y[1], at.Y)
	}
	p.X.Min, p.X.Max = x[0]/1.15, x[1]*1.15
	p.Y.Min, p.Y.Max = y[0]/1.05, y[1]*1.05
	number := func(v float64) string { return fmt.Sprintf("%.4g", v) }
	axis := func(low, high float64) plot.Ticker {
		if high/low > 6 {
			return ticks(logValues(low, high), number)
		}
		return ticks(nice(low, high, 7), number)
	}
	p.X.Tick.Marker = axis(p.X.Min, p.X.Max)
	p.Y.Tick.Marker = axis(p.Y.Min, p.Y.Max)
}
