package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/evaluation"
	"github.com/ditrun/ditrun/diffusion/metrics/inception"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
)

// evalOptions are the flags of eval.
type evalOptions struct {
	samples, ref string
	inception    string
	given        string // --inception before a name became a path
	metrics      string
	resize       string
	imageSize    picture.Size
	batchSize    int
	out          string
	saveFeatures string
	compare      bool
	fetch        bool

	chosen []evaluation.Metric
}

func (o *evalOptions) flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "samples", Destination: &o.samples,
			Usage: "`PATH`: a .npz, folder or archive of pictures, or a file of features"},
		&cli.StringFlag{Name: "ref", Destination: &o.ref, DefaultText: "none; the inception score needs none",
			Usage: "`PATH`: pictures or features to compare with, or a .npz of their statistics (mu, sigma)"},
		&cli.StringFlag{Name: "inception", Destination: &o.inception,
			Usage: "`PATH|NAME`: pytorch-fid's weights of Inception-v3"},
		&cli.StringFlag{Name: "metrics", Destination: &o.metrics, DefaultText: "ADM's five, as far as the inputs allow",
			Usage: "`LIST`: " + metricList()},
		&cli.StringFlag{Name: "resize", Destination: &o.resize, Value: string(inception.ADM),
			Usage: "`adm|pytorch-fid`: how pictures become the 299 pixels of Inception"},
		imageSizeVar(&o.imageSize, "as they are",
			"crop the pictures of folders and archives to `SIZE`, as ADM does; those of a .npz must have it"),
		&cli.IntFlag{Name: "batch-size", Destination: &o.batchSize, Value: 64,
			Usage: "compute features of `N` pictures at a time"},
		&cli.StringFlag{Name: "out", Destination: &o.out, DefaultText: "none",
			Usage: "also write the card to `FILE`.json"},
		&cli.StringFlag{Name: "save-features", Destination: &o.saveFeatures, DefaultText: "none",
			Usage: "write the features of the samples to `FILE`.safetensors, for another --samples or --ref"},
		&cli.BoolFlag{Name: "compare", Destination: &o.compare, DisableDefaultText: true,
			Usage: "say in what the settings of two cards differ"},
		fetchFlag(&o.fetch),
	}
}

func metricList() string {
	var list []string
	for _, m := range evaluation.Metrics() {
		list = append(list, string(m))
	}
	return strings.Join(list, ", ")
}

func (o *evalOptions) check(given func(string) bool) error {
	if o.compare {
		for _, name := range []string{"samples", "ref", "inception", "metrics", "resize", "image-size", "batch-size",
			"out", "save-features", "fetch"} {
			if given(name) {
				return usagef("--compare: reads two cards, so --%s has no effect", name)
			}
		}
		return nil
	}
	if err := require("eval", required{"samples", o.samples}); err != nil {
		return err
	}
	if given("metrics") {
		for word := range strings.SplitSeq(o.metrics, ",") {
			word = strings.TrimSpace(word)
			var names []string
			for _, m := range evaluation.Metrics() {
				names = append(names, string(m))
			}
			if err := oneOf("metrics", word, names...); err != nil {
				return err
			}
			o.chosen = append(o.chosen, evaluation.Metric(word))
		}
	}
	if err := oneOf("resize", o.resize, string(inception.ADM), string(inception.PyTorchFID)); err != nil {
		return err
	}
	if err := atLeast(1, "batch-size", o.batchSize); err != nil {
		return err
	}
	for _, f := range []struct{ flag, path, ext string }{{"out", o.out, ".json"},
		{"save-features", o.saveFeatures, ".safetensors"}} {
		if f.path == "" {
			continue
		}
		if filepath.Ext(f.path) != f.ext {
			return usagef("--%s %s: want a name that ends in %s", f.flag, f.path, f.ext)
		}
		if err := checkFile(f.flag, f.path); err != nil {
			return err
		}
	}
	return nil
}

func evalCommand() *cli.Command {
	o := &evalOptions{}
	return newCommand(spec{
		name:  "eval",
		usage: "compare samples with a reference: FID and its relatives",
		args:  "[CARD CARD]",
		description: "Computes FID, sFID, the inception score, precision and recall as ADM's\n" +
			"evaluations do, also KID, FID extrapolated to infinitely many samples, and\n" +
			"the Frechet distance of features of any network. The numbers come with a\n" +
			"card: everything that moves them, and what differs from ADM's protocol.\n" +
			"--compare says in what two cards differ.",
		example: "ditrun eval --samples samples.npz --ref VIRTUAL_imagenet256_labeled.npz " +
			"--inception inception --fetch --out card.json\n" +
			"ditrun eval --samples dino-samples.npy --ref dino-photos.npy --metrics fd\n" +
			"ditrun eval --compare card.json other.json",
		flags:    o.flags(),
		required: "samples",
		groups: []group{
			{"Features", "inception fetch resize image-size batch-size save-features"},
			{"Numbers", "ref metrics out compare"},
		},
		check: o.check,
		alone: true,
		run: func(e *env) error {
			if o.compare {
				return runCompareCards(e)
			}
			return withLessMemory(runEval(e, o), "a smaller --batch-size takes less memory")
		},
	})
}

func runEval(e *env, o *evalOptions) (err error) {
	if n := e.flags.Args().Len(); n > 0 {
		return withHint(usagef("eval: want no argument, found %q", e.flags.Args().First()),
			"two cards are compared with --compare")
	}
	o.given = o.inception
	if err := e.findWeights(o.fetch, ofInception(&o.inception)); err != nil {
		return err
	}
	samples, err := o.open(e, o.samples)
	if err != nil {
		return err
	}
	defer samples.Close()
	in := evaluation.Options{Samples: samples, Preparation: inception.Preparation(o.resize), Metrics: o.chosen,
		BatchSize: o.batchSize, KeepFeatures: o.saveFeatures != "", InceptionName: portable(o.given)}
	if o.ref != "" {
		if in.Reference, err = o.open(e, o.ref); err != nil {
			return err
		}
		defer in.Reference.Close()
	}
	if err := o.checkUse(e.flags.IsSet, samples, in.Reference); err != nil {
		return err
	}
	device, err := o.openNetwork(e, &in)
	if err != nil {
		return err
	}
	if in.Network != nil {
		defer in.Network.Close()
	}
	card, err := o.evaluate(e, in)
	if err != nil {
		return o.withEvalHint(err)
	}
	card.Software, card.Device = software(), device
	card.Samples.Path = portable(card.Samples.Path)
	if card.Reference != nil {
		card.Reference.Path = portable(card.Reference.Path)
	}
	return o.handOut(e, samples, card)
}

// checkUse is an error where a flag is of pictures, and there are none.
func (o *evalOptions) checkUse(given func(string) bool, samples, ref *evaluation.Set) error {
	if o.saveFeatures != "" && !samples.HasPictures() {
		return usagef("--save-features: %s holds %s, and no pictures to make features of", o.samples,
			samples.Info().Holds)
	}
	if samples.HasPictures() || ref != nil && ref.HasPictures() {
		return nil
	}
	for _, name := range []string{"resize", "image-size", "batch-size"} {
		if given(name) {
			return usagef("--%s: is for pictures, and none are given, so it has no effect", name)
		}
	}
	return nil
}

// handOut writes and prints what may have taken hours: whatever cannot be written takes nothing of the rest with it.
func (o *evalOptions) handOut(e *env, samples *evaluation.Set, card *evaluation.Card) error {
	var failed []error
	if o.out != "" {
		failed = append(failed, writeCard(o.out, card))
	}
	if o.saveFeatures != "" {
		failed = append(failed, samples.Save(o.saveFeatures))
	}
	if !e.json {
		printCard(e, card)
	}
	return errors.Join(append(failed, e.result(card))...)
}

// open opens one of the sets.
func (o *evalOptions) open(e *env, path string) (*evaluation.Set, error) {
	defer e.waiting("opening " + path)()
	opts := evaluation.OpenOptions{Catalog: catalog.Options{DecodeMemory: machine.ReadMemory().Available / 4}}
	if o.imageSize != (picture.Size{}) {
		opts.Size = &o.imageSize
	}
	s, err := evaluation.Open(e.ctx, path, opts)
	return s, o.withEvalHint(err)
}

// openNetwork opens Inception where a set has pictures, and libtorch, which computes the rest too where it is there. It
// returns what card calls the device.
func (o *evalOptions) openNetwork(e *env, in *evaluation.Options) (device string, err error) {
	if torch.Available() != nil && o.inception == "" { // features need none
		return "cpu, without libtorch", nil
	}
	dev, err := e.openDevice()
	if err != nil {
		return "", err
	}
	in.Algebra = inception.Algebra{Device: dev}
	device = describeDevice(dev)
	if o.inception == "" {
		return device, nil
	}
	defer e.waiting("opening Inception")()
	if in.Network, err = inception.Open(o.inception, dev); err != nil {
		return "", withHint(err, "`ditrun fetch inception` gets pytorch-fid's weights")
	}
	return device, nil
}

// evaluate computes the card under a bar.
func (o *evalOptions) evaluate(e *env, in evaluation.Options) (*evaluation.Card, error) {
	var bar *progress.Bar
	var of *evaluation.Set
	stop := func() {}
	in.OnFeatures = func(s *evaluation.Set, done, all int) {
		if s != of {
			title := "samples"
			if s == in.Reference {
				title = "reference"
			}
			bar, of = e.progress(title, "pictures", int64(all)), s
		}
		if bar.Set(int64(done)); done == all {
			bar.Finish()
		}
	}
	stage := ""
	in.OnStage = func(what string, _ float64) {
		if what != stage {
			stop()
			stage, stop = what, e.waiting("computing "+what)
		}
	}
	card, err := evaluation.Evaluate(e.ctx, in)
	stop()
	return card, err
}

// withEvalHint adds to an error what to do.
func (o *evalOptions) withEvalHint(err error) error {
	switch {
	case errors.Is(err, evaluation.ErrNoNetwork):
		return withHint(err, "give --inception inception, with --fetch where the cache lacks it")
	case errors.Is(err, evaluation.ErrMixed):
		return withHint(err, "--image-size crops them to one, as ADM does; samples need pictures of one size")
	case errors.Is(err, evaluation.ErrNotCropped):
		return withHint(err, "give the size of the .npz to --image-size, or a folder of these pictures")
	}
	return err
}

// writeCard writes a card as JSON, whole or not at all.
func writeCard(path string, card *evaluation.Card) error {
	return disk.WriteFile(path, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(card)
	})
}

// printCard prints a card for people.
func printCard(e *env, c *evaluation.Card) {
	e.itemOf("samples", c.Samples.Path, describeSet(c.Samples))
	if c.Reference != nil {
		e.itemOf("ref", c.Reference.Path, describeSet(*c.Reference))
	}
	if n := c.Network; n != nil {
		what := fmt.Sprintf("weights %.12s, which are not the public ones", n.SHA256)
		if n.Public {
			what = "the public weights"
		}
		e.item("network", fmt.Sprintf("Inception-v3, %s, %s; %s", what, n.Precision, n.Preparation))
	}
	for _, key := range sortedRecipe(c.Samples.Recipe) {
		e.item("", key+": "+firstLine(c.Samples.Recipe[key]))
	}
	for _, r := range numbersOf(c) {
		e.printf("%-13s %s", r.name, r.text)
	}
	if len(c.Differs) > 0 {
		e.printf("differs from ADM's protocol:")
		for _, d := range c.Differs {
			e.item("  -", d)
		}
	}
	for _, n := range c.Notes {
		e.item("note", n)
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// describeSet says in words what a set is.
func describeSet(s evaluation.SetInfo) string {
	text := ""
	switch {
	case strings.HasPrefix(s.Holds, "pictures"):
		text += plural(s.Count, "picture")
		if s.Size != "" {
			text += " of " + s.Size
		}
		text += strings.TrimPrefix(s.Holds, "pictures")
	case s.Count > 0:
		text += s.Holds + " of " + plural(s.Count, "picture")
	default:
		text += s.Holds
	}
	if s.Crop != "" {
		text += ", cropped"
	}
	return text
}

type number struct{ name, text string }

// numbersOf lists what was computed.
func numbersOf(c *evaluation.Card) (list []number) {
	add := func(name string, v, deviation *float64, digits int) {
		if v == nil {
			return
		}
		text := fmt.Sprintf("%.*f", digits, *v)
		if deviation != nil {
			text += fmt.Sprintf(" +- %.*f", digits, *deviation)
		}
		list = append(list, number{name, text})
	}
	add("FID", c.FID, nil, 4)
	add("sFID", c.SFID, nil, 4)
	add("IS", c.IS, c.ISDeviation, 4)
	add("precision", c.Precision, nil, 4)
	add("recall", c.Recall, nil, 4)
	add("KID", c.KID, c.KIDDeviation, 6)
	add("FID infinity", c.FIDInfinity, nil, 4)
	add("FD", c.FD, nil, 4)
	return list
}
