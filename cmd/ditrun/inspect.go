package main

import (
	"errors"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/vae"
)

// inspectOptions are the flags of inspect.
type inspectOptions struct {
	all, sha256 bool
	fetch       bool
	model       string
	imageSize   picture.Size
}

func (o *inspectOptions) flags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "all", Destination: &o.all, DisableDefaultText: true,
			Usage: "list every tensor and every value"},
		&cli.StringFlag{Name: "model", Destination: &o.model, DefaultText: "as the file says",
			Usage: "`NAME`: model in a .pt whose width is not one of the paper's"},
		imageSizeVar(&o.imageSize, "256", "`SIZE` of crops: count the pictures that are smaller"),
		&cli.BoolFlag{Name: "sha256", Destination: &o.sha256, DisableDefaultText: true,
			Usage: "read the whole file and print its SHA-256"},
		fetchFlag(&o.fetch),
	}
}

func inspectCommand() *cli.Command {
	o := &inspectOptions{}
	return newCommand(spec{
		name:  "inspect",
		usage: "say what weights, latents or pictures hold",
		args:  "PATH|NAME",
		description: "PATH is a weight file, the folder of a model or of a run, a folder of\n" +
			"latents, or pictures: a folder or an archive. Nothing in a file is run,\n" +
			"pickles included, and libtorch is not needed. Of weights inspect reads\n" +
			"names, shapes and types, not the numbers; tensors that differ only in the\n" +
			"number of their block are one line, --all shows each. Of pictures it reads\n" +
			"the headers, of 10,000 of them where there are more. Of a PNG from\n" +
			"`ditrun sample` it prints how it was drawn.",
		example: "ditrun inspect DiT-XL-2-256x256.pt\n" +
			"ditrun inspect photos\n" +
			"ditrun inspect --sha256 --json results/000-DiT-XL-2",
		flags: o.flags(),
		check: func(func(string) bool) error { return checkModel(o.model) },
		run:   func(e *env) error { return runInspect(e, o) },
	})
}

type tensorInfo struct {
	Name  string  `json:"name"`
	DType string  `json:"dtype"`
	Shape []int64 `json:"shape"`
	Bytes int64   `json:"bytes"`
}

type inspection struct {
	Path       string            `json:"path"`
	Format     string            `json:"format"`
	Bytes      int64             `json:"bytes"`
	SHA256     string            `json:"sha256,omitempty"`
	Signed     string            `json:"signed,omitempty"` // the file beside it that has its checksum
	Family     string            `json:"family"`
	Found      string            `json:"found"`
	Notes      []string          `json:"notes,omitempty"`
	Model      string            `json:"model,omitempty"`
	ImageSize  int               `json:"image_size,omitempty"`
	Block      string            `json:"block,omitempty"`
	Condition  string            `json:"condition,omitempty"`
	NumClasses int               `json:"num_classes,omitempty"`
	Process    *dit.Process      `json:"process,omitempty"` // of a flow, and how it is sampled
	Sampling   string            `json:"sampling,omitempty"`
	Step       int               `json:"step,omitempty"`
	EMA        bool              `json:"ema,omitempty"`
	Params     int64             `json:"params"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	Values     map[string]any    `json:"values,omitempty"`
	Tensors    []tensorInfo      `json:"tensors"`
}

// forWeights refuses flags that are for weights alone.
func (o *inspectOptions) forWeights(path, holds string) error {
	if o.sha256 {
		return usagef("inspect: --sha256 is for weights, %s holds %s", path, holds)
	}
	return nil
}

func runInspect(e *env, o *inspectOptions) error {
	if e.flags.Args().Len() != 1 {
		return withHint(usagef("inspect: want one file or folder"), "as in `ditrun inspect DiT-XL-2-256x256.pt`")
	}
	path := e.flags.Args().First()
	if err := e.findWeights(o.fetch, weightsFlag{name: "inspect", value: &path}); err != nil {
		return err
	}
	if ok, err := inspectPicture(e, path, o); ok {
		return err
	}
	if m, err := latents.ReadManifest(path); err == nil {
		if err := o.forWeights(path, "latents"); err != nil {
			return err
		}
		in := inspectLatents(path, m)
		if !e.json {
			in.print(e)
		}
		return e.result(in)
	} else if !isMissing(err) {
		return err
	}
	endWait := e.waiting("reading " + path)
	in, err := inspect(path, o.model)
	endWait()
	if holdsNoModel(in, err) && (exists(path) || strings.Contains(path, "://")) {
		pictures, picturesErr := inspectPictures(e, path, o)
		if picturesErr == nil {
			if err := o.forWeights(path, "pictures"); err != nil {
				return err
			}
			if !e.json {
				pictures.print(e, o.all)
			}
			return e.result(pictures)
		}
		if st, statErr := os.Stat(path); statErr == nil && st.IsDir() {
			return fmt.Errorf("%s: no weights (%s), latents or pictures (%s)", path, reason(err), reason(picturesErr))
		}
	}
	if err != nil {
		return err
	}
	if o.sha256 {
		if in.SHA256, err = disk.SHA256(in.Path); err != nil {
			return err
		}
	}
	if !e.json {
		in.print(e, o.all)
	}
	return e.result(in)
}

// holdsNoModel says whether what inspect found may be pictures.
func holdsNoModel(in *inspection, err error) bool {
	return err != nil || in.Family == "unknown" && len(in.Tensors) == 0
}

// inspect opens path as the weights of whatever it is.
func inspect(path, model string) (*inspection, error) {
	in := &inspection{Path: path}
	w, modelErr := dit.Read(path, model)
	if modelErr == nil {
		w.Close() // and is opened again below as a file of whatever kind
		in.Path, in.Family, in.Found, in.Notes = w.Path, w.Layout, w.String(), w.Notes
		in.Model, in.ImageSize, in.NumClasses = w.Config.Name(), w.ImageSize, w.Config.NumClasses
		in.Block, in.Condition = w.Config.Block.String(), w.Config.Condition.String()
		in.Step, in.EMA = w.Step, w.EMA
		if w.Process.IsFlow() {
			in.Process, in.Sampling = &w.Process, describeSampling(w.Info)
		}
	} else if encoder, err := vae.Read(path); err == nil {
		encoder.Close()
		in.Path, in.Family, in.Found, in.Notes = encoder.Path, "AutoencoderKL", encoder.String(), encoder.Notes
	} else if st, err := os.Stat(path); err != nil || st.IsDir() {
		return nil, modelErr
	} else if found := savedLatents(path); found != "" {
		in.Family, in.Found = "latents", found
	} else {
		in.Family, in.Found = "unknown", "neither a DiT nor an autoencoder that ditrun knows: "+
			strings.TrimPrefix(reason(modelErr), "open "+path+": ")
	}
	f, err := checkpoint.Open(in.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := os.Stat(in.Path)
	if err != nil {
		return nil, err
	}
	if err := f.Verify(); err != nil {
		return nil, err
	}
	in.Format, in.Bytes, in.Metadata, in.Signed = f.Format(), st.Size(), f.Metadata(), f.Signed()
	for _, v := range f.Values() {
		if in.Values == nil {
			in.Values = map[string]any{}
		}
		in.Values[v.Name] = v.Value
		if n, ok := v.Value.(float64); ok && (n != n || n-n != 0) { // JSON has neither NaN nor infinity
			in.Values[v.Name] = fmt.Sprint(n)
		}
	}
	in.Tensors = []tensorInfo{}
	for _, t := range f.Tensors() {
		in.Params += t.NumElements()
		in.Tensors = append(in.Tensors, tensorInfo{t.Name, string(t.DType), t.Shape, t.Size})
	}
	return in, nil
}

// describeSampling says what the family of a model samples it with.
func describeSampling(info dit.Info) string {
	r := sampling.Request{Process: &info.Process}.WithDefaults()
	return fmt.Sprintf("%s steps of %s on %s, guidance on %s", r.Steps, r.Solver, r.Timesteps,
		describeChannels(r.Guided, info.Config))
}

// reason is the text of an error on one line.
func reason(err error) string {
	var h hintError
	if errors.As(err, &h) {
		err = h.error
	}
	return err.Error()
}

// print writes what was found for people.
func (in *inspection) print(e *env, all bool) {
	e.row("file", "%s: %s, %s", in.Path, in.Format, format.Bytes(in.Bytes))
	if in.SHA256 != "" {
		e.row("sha256", "%s", in.SHA256)
	}
	if in.Signed != "" {
		e.row("checked", "the whole file has the checksum in %s", in.Signed)
	}
	e.textRow("found", in.Found)
	for _, n := range in.Notes {
		e.textRow("", n)
	}
	if in.Process != nil {
		e.textRow("predicts", in.Process.String())
		e.textRow("sampled", in.Sampling)
	}
	e.row("tensors", "%s, %s numbers", format.Count(int64(len(in.Tensors))), format.Count(in.Params))
	rows := collapse(in.Tensors)
	if all {
		rows = nil
		for _, t := range in.Tensors {
			rows = append(rows, tensorRow{plain(t.Name), t, 1})
		}
	}
	const most = 60
	width := 0
	for i, r := range rows {
		if i < most || all {
			width = max(width, len(r.name))
		}
	}
	for i, r := range rows {
		if i == most && !all {
			e.printf("  and %d more: --all lists them", len(rows)-i)
			break
		}
		count := ""
		if r.count > 1 {
			count = fmt.Sprintf("  x%d", r.count)
		}
		e.printf("  %-*s  %-4s %v%s", width, r.name, r.t.DType, r.t.Shape, count)
	}
	in.printValues(e, all)
}

// printValues writes metadata and values, of which a training checkpoint can have very many.
func (in *inspection) printValues(e *env, all bool) {
	var lines []string
	for k, v := range in.Metadata {
		lines = append(lines, fmt.Sprintf("%s = %s", plain(k), plain(v)))
	}
	for k, v := range in.Values {
		if strings.Contains(k, ".param_groups.") && !all {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s = %s", plain(k), plain(shown(v))))
	}
	if len(lines) == 0 {
		return
	}
	sort.Strings(lines)
	e.row("values", "")
	const most = 40
	for i, line := range lines {
		if i == most && !all {
			e.printf("  and %d more: --all lists them", len(lines)-i)
			break
		}
		e.printf("  %s", line)
	}
}

// shown is a value as Python would write it.
func shown(v any) string {
	if v == nil {
		return "None"
	}
	return fmt.Sprint(v)
}

type tensorRow struct {
	name  string
	t     tensorInfo
	count int
}

// collapse joins tensors that differ only in the first number of their name.
func collapse(tensors []tensorInfo) []tensorRow {
	var rows []tensorRow
	index := map[string]int{}
	for _, t := range tensors {
		parts := strings.Split(t.Name, ".")
		for i, p := range parts {
			if _, err := strconv.ParseUint(p, 10, 32); err == nil {
				parts[i] = "*"
				break
			}
		}
		pattern := strings.Join(parts, ".")
		key := fmt.Sprint(pattern, t.DType, t.Shape)
		if at, ok := index[key]; ok {
			rows[at].count++
			rows[at].name = plain(pattern)
			continue
		}
		index[key] = len(rows)
		rows = append(rows, tensorRow{plain(t.Name), t, 1})
	}
	return rows
}

// plain makes text from a file one line, and short.
func plain(text string) string {
	const most = 120
	text = format.Line(text)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}
