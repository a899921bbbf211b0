package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/report"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/diffusion/scaling"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/dit"
)

// scalingOptions are the flags of scaling.
type scalingOptions struct {
	predict, plot string
}

func (o *scalingOptions) flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "predict", Destination: &o.predict,
			Usage: "`LIST`: say what these models would reach with as many pictures, and in how many hours"},
		&cli.StringFlag{Name: "plot", Destination: &o.plot,
			Usage: "draw the table into `FILE`, a .png or .svg"},
	}
}

func (o *scalingOptions) check(given func(string) bool) error {
	for name, value := range map[string]string{"predict": o.predict, "plot": o.plot} {
		if given(name) {
			if err := refuseEmpty(required{name, value}); err != nil {
				return err
			}
		}
	}
	if end := filepath.Ext(o.plot); o.plot != "" && end != ".png" && end != ".svg" {
		return usagef("--plot %s: want the name of a .png or .svg", o.plot)
	}
	for _, name := range o.models() {
		if _, err := modelNamed(name); err != nil {
			return err
		}
	}
	return nil
}

func (o *scalingOptions) models() []string {
	if o.predict == "" {
		return nil
	}
	return strings.Split(strings.ReplaceAll(o.predict, " ", ""), ",")
}

func scalingCommand() *cli.Command {
	o := &scalingOptions{}
	return newCommand(spec{
		name:  "scaling",
		usage: "how loss falls with arithmetic, by finished runs",
		description: "Fits power laws to finished runs of one data set: the loss after as many\n" +
			"pictures against the multiply-accumulates of a forward pass, and the lowest\n" +
			"loss of any run against those of the training so far. RUN is the folder of\n" +
			"a run, or one with several. Without RUN it prints what the DiT paper\n" +
			"measured.",
		example: "ditrun scaling results --plot scaling.png\nditrun scaling results --predict DiT-S/2,DiT-B/2",
		args:    "[RUN...]",
		flags:   o.flags(),
		check:   o.check,
		run:     func(e *env) error { return runScaling(e, o) },
	})
}

// A scalingRun is a finished run as --json has it.
type scalingRun struct {
	Dir       string  `json:"dir"`
	Model     string  `json:"model"`
	Block     string  `json:"block"`
	Params    int64   `json:"params"`
	GMACs     float64 `json:"gmacs"` // of a forward pass of one picture
	Steps     int     `json:"steps"`
	Images    float64 `json:"images"`
	Compute   float64 `json:"training_gmacs"`
	Seconds   float64 `json:"seconds"`
	Loss      float64 `json:"loss"` // after as many pictures as the shortest run had
	LossError float64 `json:"loss_error"`
	Residual  float64 `json:"residual"` // of log loss, from the law

	curve    scaling.Curve
	speeds   []float64 // seconds a picture, of each log step
	settings map[string]string
	data     string // the hash of its data set and autoencoder, "" where the latents are gone
	config   dit.Config
}

// A lawResult is a fitted law as --json has it: y = Factor x^-Exponent, with x in 10^9 multiply-accumulates.
type lawResult struct {
	Factor   float64          `json:"factor"`
	Exponent scaling.Interval `json:"exponent"`
	Scatter  float64          `json:"scatter"`
}

// resultOf describes a law whose x is in units of so many multiply-accumulates.
func resultOf(l *scaling.Law, unit float64) lawResult {
	return lawResult{l.Factor * math.Pow(1e9/unit, -l.Exponent), l.ExponentInterval(), l.Scatter}
}

// A prediction is what a larger model would reach.
type prediction struct {
	Model string           `json:"model"`
	GMACs float64          `json:"gmacs"`
	Loss  scaling.Interval `json:"loss"`
	Hours scaling.Interval `json:"hours"`
}

// A budget is a stretch of the compute-optimal frontier that one model leads.
type budget struct {
	From  float64 `json:"from_gmacs"` // of training
	To    float64 `json:"to_gmacs"`
	Model string  `json:"model"`
	Loss  float64 `json:"loss"` // at To
}

// A paperRow is a model of the paper as --json has it.
type paperRow struct {
	Model         string  `json:"model"`
	GMACs         float64 `json:"gmacs"`
	MillionParams float64 `json:"million_params"`
	FID           float64 `json:"fid"`
}

type scalingResult struct {
	Runs        []scalingRun `json:"runs"`
	Images      float64      `json:"images,omitempty"` // at which losses are compared
	ByGMACs     *lawResult   `json:"loss_by_gmacs,omitempty"`
	ByCompute   *lawResult   `json:"loss_by_compute,omitempty"` // along the frontier
	Frontier    []budget     `json:"frontier,omitempty"`
	Predictions []prediction `json:"predictions,omitempty"`
	Paper       []paperRow   `json:"paper"`
	PaperLaw    lawResult    `json:"paper_fid_by_gmacs"`
}

// scalingSeed fixes the resampling, so that the same runs give the same intervals.
const scalingSeed = 0

func runScaling(e *env, o *scalingOptions) error {
	if o.plot != "" {
		if err := checkFile("plot", o.plot); err != nil {
			return err
		}
	}
	found, err := readRuns(e, e.flags.Args().Slice())
	if err != nil {
		return err
	}
	r := scalingResult{Runs: []scalingRun{}}
	paper, err := r.addPaper()
	if err != nil {
		return err
	}
	if len(found) == 0 {
		if o.predict != "" {
			return withHint(usagef("--predict: no runs to predict from"), "name the folders of finished runs")
		}
		r.printPaper(e, paper)
		if o.plot != "" {
			if err := report.PlotScaling(o.plot, report.Scaling{Paper: paper}); err != nil {
				return err
			}
			e.printf("plot: %s", o.plot)
		}
		return e.result(r)
	}
	if err := sameData(e, found); err != nil {
		return err
	}
	picture, err := r.fit(found, o.models())
	if err != nil {
		return err
	}
	picture.Paper = paper
	r.print(e)
	if o.plot != "" {
		if err := report.PlotScaling(o.plot, picture); err != nil {
			return err
		}
		e.printf("plot: %s", o.plot)
	}
	return e.result(r)
}

func (r *scalingResult) addPaper() (*scaling.Law, error) {
	var points []scaling.Point
	for _, m := range scaling.Paper() {
		r.Paper = append(r.Paper, paperRow{m.Name, m.Gflops, m.MillionParams, m.FID})
		points = append(points, scaling.Point{X: m.Gflops, Values: []float64{m.FID}})
	}
	law, err := scaling.Fit(points, scalingSeed)
	if err == nil {
		r.PaperLaw = resultOf(law, 1e9)
	}
	return law, err
}

func (r *scalingResult) printPaper(e *env, law *scaling.Law) {
	e.printf("The DiT paper's models: ImageNet at 256 pixels, %s steps of %d, FID of",
		format.Count(scaling.PaperSteps), scaling.PaperBatch)
	e.printf("50,000 pictures without guidance (arXiv:2212.09748, table 4)")
	e.printf("%-10s %10s %12s %8s %9s", "model", "GMACs", "parameters", "FID", "residual")
	for i, m := range r.Paper {
		e.printf("%-10s %10.2f %10.0f M %8.2f %+8.0f %%", m.Model, m.GMACs, m.MillionParams, m.FID,
			100*math.Expm1(law.Residuals[i]))
	}
	e.printf("law: FID = %.4g GMACs^-%.3f, exponent %s", law.Factor, law.Exponent, span(law.ExponentInterval(), "%.3f"))
}

// span writes an interval.
func span(i scaling.Interval, form string) string {
	return fmt.Sprintf(form+" to "+form, i.Low, i.High)
}

// fit compares the runs, and returns what is drawn.
func (r *scalingResult) fit(found []scalingRun, predict []string) (p report.Scaling, err error) {
	var curves []scaling.Curve
	for _, f := range found {
		curves = append(curves, f.curve)
	}
	points, images := scaling.AtEqualImages(curves)
	r.Images = images
	var law *scaling.Law
	if len(found) > 1 {
		if law, err = scaling.Fit(points, scalingSeed); err != nil {
			return p, withHint(err, "runs of models of several sizes are needed")
		}
		result := resultOf(law, 1)
		r.ByGMACs = &result
	}
	for i := range found {
		found[i].Loss, found[i].LossError = points[i].Mean(), points[i].Error()
		if law != nil {
			found[i].Residual = law.Residuals[i]
		}
	}
	r.Runs = found
	best := scaling.Frontier(curves)
	frontier := r.addFrontier(best)
	if len(predict) > 0 {
		if err := r.addPredictions(predict, law); err != nil {
			return p, err
		}
	}
	p = report.Scaling{Images: images, Law: law, Frontier: frontier, Best: best}
	for i, f := range found {
		p.Runs = append(p.Runs, report.ScalingRun{Model: f.Model, Patch: f.config.PatchSize, Curve: f.curve,
			Loss: points[i]})
	}
	return p, nil
}

// addFrontier joins budgets that the same run leads, and returns the law along the frontier, nil where there is none.
func (r *scalingResult) addFrontier(best []scaling.Best) *scaling.Law {
	var points []scaling.Point
	for i, b := range best {
		points = append(points, b.Point)
		if i == 0 || best[i-1].Run != b.Run {
			r.Frontier = append(r.Frontier, budget{From: b.Compute / 1e9, Model: r.Runs[b.Run].Model})
		}
		last := &r.Frontier[len(r.Frontier)-1]
		last.To, last.Loss = b.Compute/1e9, b.Mean()
	}
	law, err := scaling.Fit(points, scalingSeed)
	if err != nil { // no runs that can be compared at equal compute
		return nil
	}
	result := resultOf(law, 1)
	r.ByCompute = &result
	return law
}

// addPredictions predicts the losses and the hours of models that are trained on as many pictures, as the runs were.
func (r *scalingResult) addPredictions(names []string, law *scaling.Law) error {
	if law == nil {
		return withHint(errors.New("--predict: one finished run alone"), "train two more sizes; three give an interval")
	}
	var times []scaling.Point
	for _, f := range r.Runs {
		times = append(times, scaling.Point{X: f.curve.MACs, Values: f.speeds})
	}
	seconds, err := scaling.Fit(times, scalingSeed)
	if err != nil {
		return err
	}
	for _, name := range names {
		named, err := modelNamed(name)
		if err != nil {
			return err
		}
		cfg := r.Runs[0].config
		cfg.HiddenSize, cfg.Depth, cfg.NumHeads = named.HiddenSize, named.Depth, named.NumHeads
		cfg.PatchSize = named.PatchSize
		if err := cfg.Validate(); err != nil {
			return usagef("--predict %s: %v", name, err)
		}
		hours := seconds.Predict(cfg.MACs())
		for _, v := range []*float64{&hours.Value, &hours.Low, &hours.High} {
			*v *= r.Images / 3600
		}
		r.Predictions = append(r.Predictions,
			prediction{cfg.Name(), cfg.MACs() / 1e9, law.Predict(cfg.MACs()), hours})
	}
	return nil
}

func (r *scalingResult) print(e *env) {
	shortest := slices.MinFunc(r.Runs, func(a, b scalingRun) int { return a.Steps - b.Steps })
	e.printf("%s after %s pictures, the %s steps of the shortest", plural(len(r.Runs), "finished run"),
		format.Count(int64(r.Images)), format.Count(int64(shortest.Steps)))
	width := len("model")
	for _, f := range r.Runs {
		width = max(width, len(f.Model))
	}
	e.printf("%-*s %9s %11s %8s %8s %9s %9s", width, "model", "GMACs", "parameters", "loss", "+-", "residual",
		"images/s")
	for _, f := range r.Runs {
		e.printf("%-*s %9.4g %11s %8.4f %8.4f %+7.1f %% %9s", width, f.Model, f.GMACs, format.Count(f.Params), f.Loss,
			f.LossError, 100*math.Expm1(f.Residual), format.Rate(f.Images/f.Seconds))
	}
	if law := r.ByGMACs; law != nil {
		e.printf("law: loss = %.4g GMACs^-%.4f, exponent %s (95 %%)", law.Factor, law.Exponent.Value,
			span(law.Exponent, "%.4f"))
	} else {
		e.printf("one run: a law needs two sizes, and an interval three")
	}
	if law := r.ByCompute; law != nil {
		e.printf("frontier: loss = %.4g C^-%.4f, exponent %s, C in 10^9 MACs",
			law.Factor, law.Exponent.Value, span(law.Exponent, "%.4f"))
		for _, b := range r.Frontier {
			e.printf("  %9.3g to %9.3g GMACs of training: %s, loss %.4f", b.From, b.To, b.Model, b.Loss)
		}
	}
	for _, p := range r.Predictions {
		e.printf("%s after as many pictures: loss %.4f (%s), %.3g hours (%s)", p.Model, p.Loss.Value,
			span(p.Loss, "%.4f"), p.Hours.Value, span(p.Hours, "%.3g"))
	}
}

// readRuns reads the finished runs in folders, each a run or one with runs, and says which are left out.
func readRuns(e *env, folders []string) (found []scalingRun, err error) {
	for _, folder := range folders {
		dirs := []string{folder}
		if !runs.Is(folder) {
			if dirs, err = runsIn(folder); err != nil {
				return nil, err
			}
		}
		for _, dir := range dirs {
			run, why, err := readRun(dir)
			if err != nil {
				return nil, err
			}
			if why != "" {
				e.printf("%s: left out, %s", dir, why)
				continue
			}
			found = append(found, run)
		}
	}
	if len(folders) > 0 && len(found) == 0 {
		return nil, withHint(fmt.Errorf("no finished run in %s", strings.Join(folders, ", ")),
			"`ditrun train --results-dir DIR` makes them, a folder each")
	}
	slices.SortStableFunc(found, func(a, b scalingRun) int { return int(math.Copysign(1, a.GMACs-b.GMACs)) })
	return found, nil
}

// runsIn returns the runs that are folders in dir.
func runsIn(dir string) (found []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: no such folder", dir)
	} else if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if at := filepath.Join(dir, entry.Name()); runs.Is(at) {
			found = append(found, at)
		}
	}
	return found, nil
}

// readRun reads a run; why says that and how it is not finished, or does not say enough of itself.
func readRun(dir string) (r scalingRun, why string, err error) {
	info, err := runs.ReadInfo(dir)
	if err != nil {
		return r, "", err
	}
	steps, err := runs.ReadLog(filepath.Join(dir, runs.LogName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(steps) == 0 {
		return r, "it has no log yet", nil
	} else if err != nil {
		return r, "", err
	}
	weights, err := dit.Read(dir, "")
	if err != nil {
		return r, "it has no checkpoint", nil
	}
	defer weights.Close()
	last := steps[len(steps)-1]
	settings, err := runs.Settings(dir)
	if err != nil {
		return r, "", err
	}
	if settings["objective"] == "" { // a run from before there was another
		settings["objective"] = "eps"
	}
	r = scalingRun{Dir: dir, Model: info.Model, Block: weights.Config.Block.String(), Steps: last.Step,
		Params: int64(weights.Config.NumParams()), GMACs: weights.Config.MACs() / 1e9, Seconds: float64(last.Seconds),
		settings: settings, config: weights.Config}
	length := training.Config{}
	for key, to := range map[string]*int{"global-batch-size": &length.GlobalBatchSize, "max-steps": &length.MaxSteps,
		"epochs": &length.Epochs} {
		if *to, err = strconv.Atoi(cmp.Or(settings[key], "0")); err != nil || *to < 0 || *to > math.MaxInt32 {
			return r, fmt.Sprintf("its %s has %s %q", runs.ConfigName, key, settings[key]), nil
		}
	}
	if length.GlobalBatchSize == 0 {
		return r, "its " + runs.ConfigName + " names no global-batch-size", nil
	}
	batch, known := float64(length.GlobalBatchSize), length.Epochs == 0
	samples := math.MaxInt32
	m, err := latents.ReadManifest(runs.PathIn(filepath.Join(dir, runs.ConfigName), settings["data"]))
	if err == nil {
		r.data = m.Dataset.Hash + m.VAE.SHA256
		known, samples = true, m.Dataset.Samples-len(m.Skipped)
	}
	switch total := length.Steps(samples); {
	case length.Epochs == 0 && length.MaxSteps == 0:
		return r, "its " + runs.ConfigName + " names neither max-steps nor epochs", nil
	case !known && length.MaxSteps == 0:
		return r, fmt.Sprintf("its %d epochs cannot be counted in steps without its latents, %s", length.Epochs,
			settings["data"]), nil
	case last.Step < total:
		return r, fmt.Sprintf("it stopped at step %d of %s", last.Step, format.Count(int64(total))), nil
	}
	r.curve.MACs = weights.Config.MACs()
	for _, s := range steps {
		if loss := float64(s.Loss); loss > 0 { // neither NaN
			r.curve.Images = append(r.curve.Images, batch*float64(s.Step))
			r.curve.Losses = append(r.curve.Losses, loss)
		}
		if s.ImagesPerSecond > 0 {
			r.speeds = append(r.speeds, 1/float64(s.ImagesPerSecond))
		}
	}
	if len(r.speeds) == 0 || len(r.curve.Losses) == 0 {
		return r, "its log has no losses or no speeds", nil
	}
	r.Images = batch * float64(last.Step)
	r.Compute = r.curve.Compute(r.Images) / 1e9
	return r, "", nil
}

// Settings that say what is learned: runs that differ in one of them cannot be compared by their losses.
var learned = []string{"labels", "image-size", "condition", "unconditional", "objective", "path",
	"time-sampling", "time-shift", "loss-weight"}

// Settings that may differ and yet are worth a line.
var recipe = []string{"global-batch-size", "lr", "lr-schedule", "weight-decay", "flip-prob", "precision", "device"}

// sameData refuses runs that learned other things, and says in what else they differ.
func sameData(e *env, found []scalingRun) error {
	for i, b := range found {
		a := found[0]
		same := a.data == b.data
		if a.data == "" || b.data == "" {
			same = a.settings["data"] == b.settings["data"]
		}
		if !same {
			return withHint(fmt.Errorf("runs of different data: %s learned %s, %s learned %s", a.Dir,
				a.settings["data"], found[i].Dir, b.settings["data"]), "name runs of one data set and one autoencoder")
		}
	}
	for _, key := range learned {
		if a, b := differing(found, key); a != nil {
			return withHint(fmt.Errorf("runs that cannot be compared: %s of %s is %q, of %s %q", key, a.Dir,
				a.settings[key], b.Dir, b.settings[key]), "their losses are of different tasks")
		}
	}
	for _, key := range recipe {
		if a, b := differing(found, key); a != nil {
			e.warn("the runs differ in %s: %s has %s, %s has %s", key, a.Dir, a.settings[key], b.Dir, b.settings[key])
		}
	}
	return nil
}

// differing returns two runs that differ in a setting, nil where there are none.
func differing(found []scalingRun, key string) (a, b *scalingRun) {
	for i := range found {
		x, known := found[0].settings[key]
		y, too := found[i].settings[key]
		if known && too && x != y { // a run from before there was the setting says nothing of it
			return &found[0], &found[i]
		}
	}
	return nil, nil
}
