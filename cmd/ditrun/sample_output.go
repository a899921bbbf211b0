package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/diffusion/gaussian"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/diffusion/sampling/gallery"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// precisionNote is what somebody who leaves a GPU its default should know, "" where that is nothing. The results are
// pictures or latents.
func precisionNote(p nn.Precision, dev torch.Device, results string) string {
	if p != nn.TF32 || !dev.IsCUDA() {
		return ""
	}
	return fmt.Sprintf("--precision bf16 takes less time and memory, and %s differ slightly", results)
}

// describe prints what is used, before the work starts.
func (o *sampleOptions) describe(e *env, p *sampling.Pipeline, r sampling.Request, show subjects) {
	e.printf("device  %s, %s", describeDevice(p.Device()), p.Precision())
	if note := precisionNote(p.Precision(), p.Device(), "pictures"); note != "" {
		e.item("", note)
	}
	found, notes := p.Found()
	e.item("model", found)
	for _, note := range notes {
		e.item("", note)
	}
	if _, guide := p.Guide(); guide != "" {
		e.item("guide", guide)
	}
	path, cfg, notes := p.VAE()
	e.itemOf("vae", path, describeVAE(cfg))
	for _, note := range notes {
		e.item("", note)
	}
	height, width := p.PictureSize()
	subjects := o.describeSubjects(show, p.Info())
	e.item("draws", fmt.Sprintf("%s of %dx%d%s", plural(show.n, "picture"), height, width, subjects))
	e.item("recipe", describeRequest(r, p.Info().Config))
}

// describeSubjects says of what the pictures are, and what was chosen where the flags leave it open.
func (o *sampleOptions) describeSubjects(show subjects, info dit.Info) (text string) {
	if o.job.World > 1 {
		defer func() { text += fmt.Sprintf(", process %d of %d", o.job.Rank, o.job.World) }()
	}
	if n := len(unique(show.prompts)); n > 0 {
		text = ", " + plural(n, "prompt")
	}
	labels, all := unique(show.labels), info.Config.NumClasses
	chosen := len(o.classes) == 0 && o.numSamples == 0 && len(labels) < all // by Showcase
	switch {
	case len(labels) == 0:
	case chosen && all == len(classes.ImageNet()):
		text += fmt.Sprintf(", classes %s: the eight of DiT's sample.py", listClasses(labels, nil))
	case chosen:
		text += fmt.Sprintf(", the first %d of %s: --class-labels all draws all", len(labels), plural(all, "class"))
	case len(labels) == all:
		text += fmt.Sprintf(", all %s", plural(all, "class"))
	case len(labels) <= 8:
		text += fmt.Sprintf(", %s: %s", plural(len(labels), "class"), listClasses(labels, info.Classes))
	default:
		text += fmt.Sprintf(", %s of %s", plural(len(labels), "class"), format.Count(int64(all)))
	}
	return text
}

// describeRequest says how pictures are drawn.
func describeRequest(r sampling.Request, cfg dit.Config) string {
	r = r.WithDefaults()
	steps := "as many steps as needed"
	if r.Steps != "" {
		steps = r.Steps + " steps"
		if n, err := strconv.Atoi(r.Steps); err == nil {
			steps = plural(n, "step")
		} else if process, err := gaussian.New(r.Steps); err == nil { // Validate has read it
			steps = fmt.Sprintf("%s (%s)", plural(process.Len(), "step"), r.Steps)
		}
	}
	grid := ""
	switch {
	case strings.Contains(r.Timesteps, ","):
		grid = " at " + r.Timesteps
	case r.Timesteps != "" && r.Timesteps != "respaced":
		grid = " on " + r.Timesteps
	}
	grid += describeShift(r) + describeSDE(r)
	guidance := "no guidance"
	if r.CFGScale > 1 {
		guidance = fmt.Sprintf("guidance %g on %s", r.CFGScale, describeChannels(r.Guided, cfg))
		if at := r.GuidanceInterval; at != [2]float64{} {
			guidance += fmt.Sprintf(" from %g to %g%s", at[0], at[1], describeEnds(r))
		}
		if r.GuidanceRescale != 0 {
			guidance += fmt.Sprintf(", rescaled by %g", r.GuidanceRescale)
		}
	}
	noise := ""
	if r.RNG == "torch" {
		noise = " of libtorch's generator"
	}
	return fmt.Sprintf("%s of %s%s, %s, seed %d%s", steps, r.Solver, grid, guidance, r.Seed, noise)
}

// describeChannels says which latent channels guidance acts on.
func describeChannels(guided dit.GuidedChannels, cfg dit.Config) string {
	if guided == dit.GuideThree && cfg.InChannels > int(dit.GuideThree) {
		return fmt.Sprintf("3 of %d channels", cfg.InChannels)
	}
	return "all channels"
}

// unique returns the different elements of a list, in order.
func unique[T comparable](list []T) []T {
	seen := map[T]bool{}
	return slices.DeleteFunc(slices.Clone(list), func(v T) bool {
		was := seen[v]
		seen[v] = true
		return was
	})
}

// listClasses lists classes by their names, where these are short, else by their numbers.
func listClasses(labels []int, names []string) string {
	var byNumber, byName []string
	for _, label := range labels {
		byNumber = append(byNumber, strconv.Itoa(label))
		if label < len(names) {
			byName = append(byName, names[label])
		}
	}
	text := strings.Join(byName, ", ")
	if len(byName) < len(labels) || len(text) > 60 {
		return strings.Join(byNumber, ", ")
	}
	return text
}

// openOutput opens the output that --out names and says what much work will take.
func (o *sampleOptions) openOutput(e *env, p *sampling.Pipeline, r sampling.Request, show subjects) (gallery.Output,
	error) {
	set := gallery.SetOf(p, r)
	set.Prompts, set.Recipe = show.prompts, o.recipe(p, r, show)
	set.Job, set.Alone = o.job, o.latents != ""
	out, err := gallery.Open(e.ctx, o.out, set)
	switch {
	case err == nil:
	case errors.As(err, new(*gallery.SheetError)):
		return nil, withHint(fmt.Errorf("--%w", err), "give --out a folder, or a name that ends in .npz")
	case errors.Is(err, gallery.ErrNoLocks):
		return nil, e.onNoLocks(filepath.Dir(o.out), o.job.World)()
	default:
		return nil, err
	}
	for _, other := range out.Others() {
		e.warn("%s holds %d of %s of another request for this output; the folder is removed when this command is done",
			other.Dir, other.Done, plural(other.Total, "picture"))
	}
	if err := o.checkRoom(e, set, out.Done()); err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

// drawSamples draws the pictures that the output does not have.
func drawSamples(e *env, p *sampling.Pipeline, r sampling.Request, out gallery.Output) error {
	have, n := out.Done(), r.Len()
	if have > 0 {
		e.printf("there already: %s of %s", format.Count(int64(have)), plural(n, "picture"))
	}
	if have == n {
		defer e.waiting("writing the pictures")()
		return gallery.Draw(e.ctx, p, r, out)
	}
	total, err := r.NumSteps()
	if err != nil {
		return err
	}
	bar := e.progress("sample", "steps", int64(total))
	if have > 0 {
		batch := r.WithDefaults().BatchSize
		bar.Start(int64(total * ((have + batch - 1) / batch) / ((n + batch - 1) / batch)))
	}
	r.Progress = func(done, _ int) { bar.Set(int64(done)) }
	r.Warn = func(text string) { e.warn("%s", text) }
	if err := gallery.Draw(e.ctx, p, r, out); err != nil {
		return err
	}
	bar.Set(int64(total)) // with what others drew last
	bar.Finish()
	return nil
}

// largeOutput is from how many bytes of pictures on their size is worth a line.
const largeOutput = 256 << 20

// checkRoom compares what the pictures take that are not done yet with what is free, and says so of much.
func (o *sampleOptions) checkRoom(e *env, set gallery.Set, done int) error {
	if o.job.Rank > 0 { // the first has looked
		return nil
	}
	each := set.Bytes() / int64(set.Count)
	left := each * int64(set.Count-done)
	w := writing{flag: "out", path: o.out, what: "the pictures", all: left,
		short: "what is drawn until the disk is full is kept, and " + o.howContinues()}
	takes := "takes"
	switch {
	case gallery.IsSheet(o.out): // which is drawn at the end, and smaller than its pixels
		w.short = "the sheet may find no room"
	case gallery.IsArray(o.out): // whole batches are kept
		w.least = each * int64(min(set.BatchSize, set.Count-done))
		w.unit = plural(min(set.BatchSize, set.Count-done), "picture") + " drawn at once take"
	default:
		takes = "takes up to"
		w.what, w.short = "the pixels", "pictures are smaller, but "+w.short
	}
	free, err := e.checkRoom(w)
	if err == nil && left >= largeOutput { // no sheet is so large
		e.printf("output  %s %s%s", takes, format.Bytes(left), free)
	}
	return err
}
