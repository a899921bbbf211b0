package report

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/internal/disk"
)

const (
	plotWidth  = 8 * vg.Inch
	plotHeight = 4.5 * vg.Inch
	plotDPI    = 150
	// maxDrawn bounds the points drawn, not those averaged: more than this
	// are not told apart on the picture and would only cost time.
	maxDrawn = 1500
)

var (
	rawColor    = color.NRGBA{R: 31, G: 119, B: 180, A: 80}
	smoothColor = color.NRGBA{R: 8, G: 64, B: 129, A: 255}
	gridColor   = color.NRGBA{R: 0, G: 0, B: 0, A: 24}
)

// plotLoss draws the loss of each log step, light, and its running mean, dark.
// Where the log has mean squared errors by timestep, they get a panel below.
func plotLoss(path, model string, points []point) error {
	last := points[len(points)-1].step
	upper, err := lossPanel(model, points, last)
	if err != nil {
		return fmt.Errorf("plot %s: %w", path, err)
	}
	byTimestep := binCurves(points)
	height := plotHeight
	if len(byTimestep) > 0 {
		height += binsHeight
	}
	canvas := vgimg.NewWith(vgimg.UseWH(plotWidth, height), vgimg.UseDPI(plotDPI),
		vgimg.UseBackgroundColor(color.White))
	c := draw.New(canvas)
	if len(byTimestep) == 0 {
		upper.Draw(margins(c))
	} else {
		lower, legend, err := binsPanel(byTimestep, last)
		if err != nil {
			return fmt.Errorf("plot %s: %w", path, err)
		}
		drawBoth(margins(draw.Crop(c, 0, 0, binsHeight, 0)), upper, margins(draw.Crop(c, 0, 0, 0, -plotHeight)), lower,
			legend)
	}
	return disk.WriteFile(path, func(w io.Writer) error {
		_, err := vgimg.PngCanvas{Canvas: canvas}.WriteTo(w)
		return err
	})
}

// margins leaves room on the right, where the last tick's label would be cut.
func margins(c draw.Canvas) draw.Canvas { return draw.Crop(c, 6, -16, 5, -5) }

func lossPanel(model string, points []point, last int) (*plot.Plot, error) {
	p := newPlot(model+": training loss", "loss")
	p.Legend.Top = true
	p.Legend.XOffs, p.Legend.YOffs = -6, -4
	raw, smooth := curves(points, func(pt point) float64 { return pt.loss })
	if len(raw) > 0 {
		if err := addCurves(p, raw, smooth); err != nil {
			return nil, err
		}
	}
	setAxes(p, raw, last)
	return p, nil
}

// newPlot is an empty plot over training steps, with a grid.
func newPlot(title, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	for _, f := range []*font.Font{
		&p.Title.TextStyle.Font, &p.Legend.TextStyle.Font,
		&p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font, &p.X.Tick.Label.Font, &p.Y.Tick.Label.Font,
	} {
		f.Variant = "Sans"
	}
	p.Title.TextStyle.Font.Size = 14
	p.Title.Padding = 6
	p.X.Label.Text = "step"
	p.Y.Label.Text = y
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font.Size = 12
		a.Tick.Label.Font.Size = 10.5
		a.Label.Padding = 4
	}
	p.Legend.TextStyle.Font.Size = 11
	p.Legend.Padding = 3
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = gridColor, gridColor
	p.Add(grid)
	return p
}

func addCurves(p *plot.Plot, raw, smooth plotter.XYs) error {
	dots, err := plotter.NewScatter(thin(raw))
	if err != nil {
		return err
	}
	dots.GlyphStyle = draw.GlyphStyle{Color: rawColor, Radius: 1.6, Shape: draw.CircleGlyph{}}
	if len(raw) < 40 {
		dots.Radius = 2.4
	}
	if len(raw) > 400 {
		dots.Radius = 1.1
	}
	line, err := plotter.NewLine(thin(smooth))
	if err != nil {
		return err
	}
	line.LineStyle = draw.LineStyle{Color: smoothColor, Width: 1.8}
	p.Add(dots, line)
	p.Legend.Add("each log step", dots)
	p.Legend.Add(fmt.Sprintf("running mean, now %.4f", smooth[len(smooth)-1].Y), line)
	return nil
}

// curves returns the finite values and, for each, the mean of those around it:
// a window of about a twentieth of the curve, narrower at the start, where the
// loss falls fast, and one-sided at the end.
func curves(points []point, value func(point) float64) (raw, smooth plotter.XYs) {
	for _, pt := range points {
		if v := value(pt); !math.IsNaN(v) && !math.IsInf(v, 0) {
			raw = append(raw, plotter.XY{X: float64(pt.step), Y: v})
		}
	}
	reach := min(len(raw)/40, 100)
	smooth = make(plotter.XYs, len(raw))
	for i := range raw {
		r := min(reach, i/6)
		window := raw[i-r : min(i+r+1, len(raw))]
		sum := 0.0
		for _, v := range window {
			sum += v.Y
		}
		smooth[i] = plotter.XY{X: raw[i].X, Y: sum / float64(len(window))}
	}
	return raw, smooth
}

// thin keeps at most maxDrawn points, evenly spread, the last among them.
func thin(xys plotter.XYs) plotter.XYs {
	if len(xys) <= maxDrawn {
		return xys
	}
	out := make(plotter.XYs, maxDrawn)
	for i := range out {
		out[i] = xys[i*(len(xys)-1)/(maxDrawn-1)]
	}
	return out
}

// setAxes gives both axes their range and ticks. The loss falls by a factor of
// ten in the first hundred steps and then by per cents: only a logarithmic
// axis shows both. A loss of zero or less, possible for a toy, forbids it.
func setAxes(p *plot.Plot, raw plotter.XYs, last int) {
	p.X.Min, p.X.Max = 0, math.Max(float64(last), 1)
	p.X.Padding, p.Y.Padding = 0, 0
	p.X.Tick.Marker = ticks(nice(p.X.Min, p.X.Max, 8), stepLabel)
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, v := range raw {
		lo, hi = math.Min(lo, v.Y), math.Max(hi, v.Y)
	}
	switch {
	case len(raw) == 0:
		lo, hi = 0, 1
	case lo > 0:
		// A little air, and never less than a range of ten per cent, so that
		// one point or a flat curve does not fill the plot with noise.
		lo, hi = lo/1.05, hi*1.05
		p.Y.Scale = plot.LogScale{}
	default:
		air := math.Max(0.05*(hi-lo), 0.01)
		lo, hi = lo-air, hi+air
	}
	p.Y.Min, p.Y.Max = lo, hi
	values := nice(lo, hi, 7)
	if lo > 0 && hi/lo > 6 {
		values = logValues(lo, hi)
	}
	p.Y.Tick.Marker = ticks(values, func(v float64) string {
		return fmt.Sprintf("%.4g", v)
	})
}

// nice returns round values (1, 2 or 5 times a power of ten apart) from lo to
// hi, about n of them.
func nice(lo, hi float64, n int) []float64 {
	rough := (hi - lo) / float64(n)
	power := math.Pow(10, math.Floor(math.Log10(rough)))
	gap := 10 * power
	for _, m := range []float64{1, 2, 5} {
		if m*power >= rough {
			gap = m * power
			break
		}
	}
	var values []float64
	for i := math.Ceil(lo / gap); i*gap <= hi*(1+1e-12); i++ {
		values = append(values, i*gap+0) // + 0: the zero of a rounded -0.3 has no sign
	}
	return values
}

// logValues returns powers of ten from lo to hi and, as far as they have room,
// values between them.
func logValues(lo, hi float64) []float64 {
	factors := []float64{1}
	switch {
	case hi/lo < 40:
		factors = []float64{1, 1.5, 2, 3, 4, 6, 8}
	case hi/lo < 1e4:
		factors = []float64{1, 2, 5}
	}
	var values []float64
	for e := math.Floor(math.Log10(lo)); e <= math.Log10(hi); e++ {
		for _, m := range factors {
			if v := m * math.Pow(10, e); v >= lo && v <= hi {
				values = append(values, v)
			}
		}
	}
	return values
}

func ticks(values []float64, label func(float64) string) plot.Ticker {
	marks := make(plot.ConstantTicks, len(values))
	for i, v := range values {
		marks[i] = plot.Tick{Value: v, Label: label(v)}
	}
	return marks
}

// stepLabel writes 400000 as "400k" and 2000 as "2,000".
func stepLabel(v float64) string {
	switch {
	case v >= 1e6:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v/1e6), ".0") + "M"
	case v >= 1e4:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v/1e3), ".0") + "k"
	}
	if v != math.Trunc(v) {
		return "" // a fifth of a step, on the axis of a very short run
	}
	return format.Count(int64(v))
}
