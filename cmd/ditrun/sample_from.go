package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/diffusion/sampling/gallery"
	"github.com/ditrun/ditrun/diffusion/solver"
	"github.com/ditrun/ditrun/dit"
)

// recipeFlags are the flags that a recipe has. No others are taken from a picture, which may be a stranger's: they
// would write files or use the machine as the stranger likes.
var recipeFlags = []string{"ckpt", "model", "vae", "class-labels", "prompt", "negative-prompt", "text-encoder",
	"text-states", "num-samples", "cfg-scale", "cfg-channels", "guidance-interval", "guidance-rescale", "guide-ckpt",
	"num-sampling-steps", "solver", "timesteps", "diffusion-form", "diffusion-norm", "last-step", "last-step-size",
	"seed", "precision", "rng", "batch-size", "no-fused"}

// readFrom sets the flags that were not given to those with which the picture of --from was drawn.
func (o *sampleOptions) readFrom(c *cli.Context) (err error) {
	o.ckptGiven, o.vaeGiven, o.guideGiven = c.IsSet("ckpt"), c.IsSet("vae"), c.IsSet("guide-ckpt")
	if o.from == "" {
		return nil
	}
	if o.drawn, err = gallery.ReadDrawn(o.from); err != nil {
		return fmt.Errorf("--from %w", err)
	}
	flags := o.drawn.Flags
	if p := o.drawn.Picture; p != nil {
		if c.IsSet("num-samples") {
			return usagef("--from %s: it is one picture: --num-samples has no effect", o.from)
		}
		if p.Label != nil {
			flags = append(flags, gallery.Flag{Name: "class-labels", Value: fmt.Sprintf("label:%d", *p.Label)})
		}
		if p.Prompt != "" {
			flags = append(flags, gallery.Flag{Name: "prompt", Value: p.Prompt})
		}
	}
	given := c.LocalFlagNames()
	void := voidOf(c, flags)
	for _, f := range flags {
		if !slices.Contains(recipeFlags, f.Name) {
			return fmt.Errorf("--from %s: it was drawn with --%s, which this version does not take from a picture",
				o.from, f.Name)
		}
		if slices.Contains(given, f.Name) || slices.Contains(void, f.Name) {
			continue
		}
		if err := c.Set(f.Name, f.Value); err != nil {
			return fmt.Errorf("--from %s: --%s %q: %s", o.from, f.Name, f.Value, unreadable(c, f.Name, err.Error()))
		}
	}
	return nil
}

// voidOf lists the flags of a picture that have no sense beside those that are given, and that nobody can unset.
func voidOf(c *cli.Context, flags []gallery.Flag) (void []string) {
	drop := func(names ...string) { void = append(void, names...) }
	of := map[string]string{} // those of the picture
	for _, f := range flags {
		of[f.Name] = f.Value
	}
	isList := func(grid string) bool { return strings.Contains(grid, ",") }
	isNumber := func(steps string) bool { _, err := strconv.Atoi(steps); return err == nil }
	if c.IsSet("solver") {
		drop("timesteps")
		if name := c.String("solver"); name == "dopri5" {
			drop("num-sampling-steps", "guidance-interval")
		} else if name != "ddpm" && name != "ddim" && !isNumber(of["num-sampling-steps"]) {
			drop("num-sampling-steps")
		}
		if !strings.HasPrefix(c.String("solver"), "sde") {
			drop("diffusion-form", "diffusion-norm", "last-step", "last-step-size")
		}
	}
	if c.IsSet("timesteps") {
		switch grid := c.String("timesteps"); {
		case isList(grid):
			drop("num-sampling-steps", "last-step-size")
		case grid == "searched" || grid != "respaced" && !isNumber(of["num-sampling-steps"]):
			drop("num-sampling-steps")
		}
	}
	if c.IsSet("num-sampling-steps") && isList(of["timesteps"]) {
		drop("timesteps")
	}
	if c.String("last-step") == string(solver.LastNone) {
		drop("last-step-size")
	}
	if c.IsSet("cfg-scale") && c.Float64("cfg-scale") == 1 {
		drop("guidance-rescale", "guidance-interval", "guide-ckpt", "negative-prompt", "cfg-channels")
	}
	if c.IsSet("guide-ckpt") {
		drop("negative-prompt")
	}
	if c.IsSet("negative-prompt") {
		drop("guide-ckpt")
	}
	if c.IsSet("text-states") {
		drop("text-encoder")
	}
	if c.IsSet("text-encoder") {
		drop("text-states")
	}
	if c.String("rng") == "torch" { // which draws all at once
		drop("batch-size")
	}
	return void
}

// findDrawn makes --ckpt and --guide-ckpt the checkpoints with whose weights the picture of --from was drawn, which may
// be other ones of the runs there.
func (o *sampleOptions) findDrawn(e *env) error {
	if o.from == "" {
		return nil
	}
	for _, c := range []struct {
		flag        string
		path        *string
		model, want string
		given       bool
	}{
		{"ckpt", &o.ckpt, o.model, o.drawn.ModelSHA256, o.ckptGiven},
		{"guide-ckpt", &o.guide, "", o.drawn.GuideSHA256, o.guideGiven},
	} {
		if c.want == "" || *c.path == "" {
			continue
		}
		if !c.given && !exists(*c.path) {
			return withHint(fmt.Errorf("--from %s: the checkpoint %s is not there", o.from, *c.path),
				"--%s PATH says where the weights %.12s... are", c.flag, c.want)
		}
		found := findWeights(*c.path, c.model, c.want)
		if found != *c.path {
			e.printf("%-7s %s has the weights of %s", strings.TrimSuffix(c.flag, "-ckpt"), found, o.from)
		}
		*c.path = found
	}
	return nil
}

// findWeights returns the path of the weights with a SHA-256: the given one, or one of the run there; the given one
// where none has it.
func findWeights(path, model, want string) string {
	paths := []string{path}
	for _, run := range []string{path, filepath.Dir(filepath.Dir(path))} {
		found, _ := filepath.Glob(filepath.Join(run, runs.CheckpointsName, "*"))
		paths = append(paths, found...)
	}
	for _, p := range paths {
		w, err := dit.Read(p, model)
		if err != nil {
			continue // who opens it says so
		}
		sum := w.SignedSHA256()
		w.Close()
		if sum == want {
			return p
		}
	}
	return path
}

// compareDrawn compares the weights that were opened with those of the picture of --from. Others make another picture,
// which is what somebody wants who names them.
func (o *sampleOptions) compareDrawn(e *env, p *sampling.Pipeline) error {
	if o.from == "" {
		return nil
	}
	model, vae := p.WeightsSHA256()
	for _, c := range []struct {
		flag, path, want, have string
		given                  bool
	}{
		{"ckpt", o.ckpt, o.drawn.ModelSHA256, model, o.ckptGiven},
		{"vae", o.vae, o.drawn.VAESHA256, vae, o.vaeGiven},
		{"guide-ckpt", o.guide, o.drawn.GuideSHA256, p.GuideSHA256(), o.guideGiven},
	} {
		switch {
		case c.flag == "guide-ckpt" && o.guide == "": // it was drawn without one, or is to be now
		case c.want == c.have && c.want != "":
		case c.want == "" || c.have == "":
			e.warn("whether %s was drawn with these weights of --%s is not known: no file beside them holds their "+
				"checksum", o.from, c.flag)
		case c.given:
			e.warn("%s was drawn with other weights (sha256 %.12s...) than those of --%s (%.12s...): the picture "+
				"will be another", o.from, c.want, c.flag, c.have)
		default:
			return withHint(fmt.Errorf("--from %s: it was drawn with other weights (sha256 %.12s...) than those of "+
				"--%s %s (%.12s...)", o.from, c.want, c.flag, c.path, c.have),
				"--%s PATH says where they are, or which to draw with instead", c.flag)
		}
	}
	return nil
}

// again returns the request for the batch that a picture was in, which has the bytes of the picture at its place. The
// others of it have the same condition.
func again(r sampling.Request, p gallery.Picture) sampling.Request {
	r.First = p.Index / p.Batch * p.Batch
	n := min(p.Batch, p.Count-r.First)
	r.Labels, r.Captions = slices.Repeat(r.Labels, n), slices.Repeat(r.Captions, n)
	if r.NumSamples > 0 {
		r.NumSamples = n
	}
	r.BatchSize = n
	return r
}

// checkAgain refuses a picture whose steps depend on what the others of its batch show, which is not known.
func (o *sampleOptions) checkAgain(q sampling.Request, cfg dit.Config) error {
	d := q.WithDefaults()
	if d.Solver != "dopri5" || d.RNG != "torch" || !d.Process.IsFlow() || q.Len() == 1 ||
		cfg.Condition == dit.OnNothing {
		return nil
	}
	return withHint(fmt.Errorf("--from %s: with --rng torch dopri5 chooses its steps by the error of the whole batch, "+
		"and what is on %s more is not known: the picture would be another", o.from, plural(q.Len()-1, "picture")),
		"draw the whole set again by the command that `ditrun inspect` prints of the picture")
}

// redraw draws the one picture of --from.
func (o *sampleOptions) redraw(e *env, p *sampling.Pipeline, r sampling.Request, show subjects) error {
	picture := *o.drawn.Picture
	picture.Batch = min(cmp.Or(r.BatchSize, picture.Batch), picture.Count)
	if len(show.labels) > 0 {
		picture.Label = &show.labels[0]
	}
	if len(show.prompts) > 0 {
		picture.Prompt = show.prompts[0]
	}
	q := again(r, picture)
	if n := q.Len(); n > 1 {
		e.printf("again   picture %d of %d, by its batch of %d; --batch-size 1 draws it alone", picture.Index,
			picture.Count, n)
	}
	if err := o.checkAgain(q, p.Info().Config); err != nil {
		return err
	}
	total, err := q.NumSteps()
	if err != nil {
		return err
	}
	began, bar := time.Now(), e.progress("sample", "steps", int64(total))
	q.Progress = func(done, _ int) { bar.Set(int64(done)) }
	q.Warn = func(text string) { e.warn("%s", text) }
	pictures, err := p.Sample(e.ctx, q)
	if err != nil {
		return err
	}
	bar.Finish()
	set := gallery.SetOf(p, q)
	r.BatchSize, show.n = picture.Batch, picture.Count // as those of the whole set
	set.Recipe = o.recipe(p, r, show)
	if err := gallery.WritePicture(o.out, set, picture, pictures.Images()[picture.Index-q.First]); err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	e.printf("%s in %.1f s, %s images/s, written to %s", plural(1, "picture"), seconds, format.Rate(1/seconds), o.out)
	return e.result(map[string]any{"out": o.out, "num_samples": 1, "drawn": q.Len(), "seconds": seconds,
		"images_per_second": 1 / seconds, "model": p.Info().Config.Name(), "precision": p.Precision()})
}
