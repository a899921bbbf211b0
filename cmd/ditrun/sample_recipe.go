package main

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/diffusion/sampling/gallery"
	"github.com/ditrun/ditrun/dit"
)

// recipe is what PNG files say of how they were made. It has this command with its defaults. Models have the names that
// were given; by now, the options may hold their places in the cache instead.
func (o *sampleOptions) recipe(p *sampling.Pipeline, r sampling.Request, show subjects) gallery.Recipe {
	out := gallery.Recipe{Software: software(), NegativePrompt: o.negativePrompt, Model: portable(o.asGiven.ckpt),
		VAE: portable(o.asGiven.vae), Guide: portable(o.asGiven.guide), Precision: p.Precision(), Request: r}
	out.ModelSHA256, out.VAESHA256 = p.WeightsSHA256()
	out.GuideSHA256 = p.GuideSHA256()
	words := []string{"ditrun", "sample"}
	add := func(flag, value string) {
		if value != "" {
			words = append(words, "--"+flag, shellQuoted(value))
			out.Flags = append(out.Flags, gallery.Flag{Name: flag, Value: value})
		}
	}
	addSwitch := func(flag string, on bool) {
		if on {
			words = append(words, "--"+flag)
			out.Flags = append(out.Flags, gallery.Flag{Name: flag, Value: "true"})
		}
	}
	add("ckpt", portable(o.asGiven.ckpt))
	add("model", o.model)
	add("vae", portable(o.asGiven.vae))
	if len(o.classes) == 0 && len(show.labels) > 0 {
		add("class-labels", labelList(show.labels))
	}
	for _, value := range o.classes {
		add("class-labels", value)
	}
	for _, value := range o.prompts {
		add("prompt", value)
	}
	add("negative-prompt", o.negativePrompt)
	add("text-encoder", portable(o.asGiven.textEncoder))
	add("text-states", portable(o.asGiven.textStates))
	add("num-samples", strconv.Itoa(show.n))
	q := r.WithDefaults()
	add("cfg-scale", shortest(q.CFGScale))
	switch asDefault := (sampling.Request{Process: r.Process, Guide: r.Guide}).WithDefaults(); {
	case q.Guided == asDefault.Guided:
	case q.Guided == dit.GuideAll:
		add("cfg-channels", "all")
	default:
		add("cfg-channels", "3")
	}
	add("guidance-interval", o.interval)
	if q.GuidanceRescale != 0 {
		add("guidance-rescale", shortest(q.GuidanceRescale))
	}
	add("guide-ckpt", portable(o.asGiven.guide))
	add("num-sampling-steps", q.Steps)
	add("solver", q.Solver)
	if !q.DefaultTimesteps() {
		add("timesteps", q.Timesteps)
	}
	add("diffusion-form", string(r.SDE.Form))
	if r.SDE.Norm != 0 {
		add("diffusion-norm", shortest(r.SDE.Norm))
	}
	add("last-step", string(r.SDE.Last))
	if r.SDE.LastSize != 0 {
		add("last-step-size", shortest(r.SDE.LastSize))
	}
	add("seed", strconv.FormatUint(q.Seed, 10))
	add("precision", string(p.Precision()))
	add("rng", q.RNG)
	if r.BatchSize > 0 {
		add("batch-size", strconv.Itoa(r.BatchSize))
	}
	addSwitch("no-fused", o.noFused)
	out.Command = strings.Join(words, " ")
	return out
}

func shortest(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// software is the name of this program with what tells one build from another.
func software() string {
	v := runs.BuildVersions()
	text := "ditrun " + v.Ditrun
	if v.GitRevision != "" && !strings.Contains(v.Ditrun, v.GitRevision[:min(12, len(v.GitRevision))]) {
		text += " " + v.GitRevision[:min(12, len(v.GitRevision))]
		if v.GitModified {
			text += " with changes"
		}
	}
	return text
}

// portable shortens an absolute path to its last element, and that of a checkpoint to RUN/checkpoints/STEP. The folders
// above these would tell strangers who draws, and would make other bytes of equal pictures on another machine. Names
// and relative paths stay as they are.
func portable(path string) string {
	if !filepath.IsAbs(path) {
		return path
	}
	path = filepath.Clean(path)
	keep := 1
	if parts := strings.Split(path, string(filepath.Separator)); len(parts) > 3 {
		if i := slices.Index(parts, runs.CheckpointsName); i > 1 {
			keep = len(parts) - i + 1
		}
	}
	name := filepath.Base(path)
	for range keep - 1 {
		path = filepath.Dir(path)
		name = filepath.Join(filepath.Base(path), name)
	}
	return name
}

// labelList is what --class-labels would be for these labels, which may repeat.
func labelList(labels []int) string {
	var words []string
	labels = slices.Compact(slices.Clone(labels))
	for i := 0; i < len(labels); {
		last := i
		for last+1 < len(labels) && labels[last+1] == labels[last]+1 {
			last++
		}
		word := strconv.Itoa(labels[i])
		if last > i {
			word += "-" + strconv.Itoa(labels[last])
		}
		words = append(words, word)
		i = last + 1
	}
	return strings.Join(words, ",")
}

// shellQuoted is a word of a command line, in quotes where a shell would read it otherwise.
func shellQuoted(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("_-+=.,:/@%", r)
	}
	if word != "" && !strings.ContainsFunc(word, func(r rune) bool { return !plain(r) }) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
