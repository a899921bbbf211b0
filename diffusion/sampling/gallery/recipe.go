package gallery

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"os"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/nn"
)

// A Recipe is what it takes to draw pictures again. PNG files hold it as text, under these keywords:
//
//	Software     the program
//	Description  the command
//	parameters   what it drew with, in the form in which other programs for sampling keep and show it
//	ditrun       what [ReadDrawn] reads
//
// It has no times and no places, so that the same pictures are the same bytes.
type Recipe struct {
	Software       string // with its version
	Command        string // that draws them, "" where there is none
	Flags          []Flag // of that command, but for the output
	NegativePrompt string
	Model, VAE     string // names
	Guide          string // that of the model that guidance leads away from, "" for none
	// ModelSHA256, VAESHA256 and GuideSHA256 are those of the weight files, "" where they are not known.
	ModelSHA256, VAESHA256, GuideSHA256 string
	Precision                           nn.Precision // of all
	Request                             sampling.Request
}

// Keywords of the texts.
const (
	softwareKey   = "Software"
	commandKey    = "Description"
	parametersKey = "parameters"
	drawnKey      = "ditrun"
)

// A Flag of a command, without the dashes.
type Flag struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Drawn is what it takes to draw a picture, or a sheet, once more.
type Drawn struct {
	// Flags are those of the command. Those that say which pictures to draw are missing for one of several pictures.
	Flags []Flag `json:"flags"`
	// ModelSHA256, VAESHA256 and GuideSHA256 are those of the weight files, "" where they were not known.
	ModelSHA256 string `json:"model_sha256,omitempty"`
	VAESHA256   string `json:"vae_sha256,omitempty"`
	GuideSHA256 string `json:"guide_sha256,omitempty"`
	// Picture is nil for a sheet.
	Picture *Picture `json:"picture,omitempty"`
}

// A Picture is one of a set.
type Picture struct {
	Index  int    `json:"index"`
	Count  int    `json:"count"`      // of the set
	Batch  int    `json:"batch_size"` // of all batches but the last
	Label  *int   `json:"label,omitempty"`
	Prompt string `json:"prompt,omitempty"`
}

// ErrNotDrawn says that a file is no picture that says how it was drawn.
var ErrNotDrawn = errors.New("it does not say how it was drawn: want a picture of ditrun sample")

// What a picture may say of its set: above any that was drawn, and little enough for lists of all.
const (
	mostPictures = 10_000_000
	mostAtOnce   = 1 << 20
)

// ReadDrawn reads how the PNG file at path was drawn.
func ReadDrawn(path string) (d Drawn, err error) {
	f, err := os.Open(path)
	if err != nil {
		return d, disk.OpenError(path, err)
	}
	defer f.Close()
	_, texts, err := sheet.ReadTexts(bufio.NewReader(f))
	if err != nil {
		return d, fmt.Errorf("%s: %w", path, err)
	}
	for _, t := range texts {
		if t.Keyword != drawnKey {
			continue
		}
		if err := json.Unmarshal([]byte(t.Text), &d); err != nil {
			return d, fmt.Errorf("%s: its text %q: %w", path, drawnKey, err)
		}
		if p := d.Picture; p != nil && (p.Index < 0 || p.Index >= p.Count || p.Batch < 1) {
			return d, fmt.Errorf("%s: its text %q: picture %d of %d in batches of %d", path, drawnKey, p.Index, p.Count,
				p.Batch)
		} else if p != nil && (p.Count > mostPictures || min(p.Batch, p.Count) > mostAtOnce) {
			return d, fmt.Errorf("%s: its text %q: %d pictures in batches of %d: want at most %d, in batches of %d",
				path, drawnKey, p.Count, p.Batch, mostPictures, mostAtOnce)
		}
		return d, nil
	}
	return d, fmt.Errorf("%s: %w", path, ErrNotDrawn)
}

// WritePicture writes one picture of a set, with the bytes that it has in a folder.
func WritePicture(path string, set Set, p Picture, img image.Image) error {
	one := set
	one.Count, one.BatchSize = p.Count, p.Batch
	return sheet.WritePNG(path, img, one.Recipe.pictureTexts(&one, p)...)
}

// drawn is the text for ReadDrawn.
func (r *Recipe) drawn(p *Picture) []sheet.Text {
	if r.Flags == nil {
		return nil
	}
	d := Drawn{ModelSHA256: r.ModelSHA256, VAESHA256: r.VAESHA256, GuideSHA256: r.GuideSHA256, Picture: p}
	for _, f := range r.Flags {
		if p == nil || !slices.Contains([]string{"class-labels", "prompt", "num-samples"}, f.Name) {
			d.Flags = append(d.Flags, f)
		}
	}
	text, _ := json.Marshal(d) // of strings and numbers, which cannot fail
	return []sheet.Text{{Keyword: drawnKey, Text: string(text)}}
}

// mostShown bounds the prompts or classes of a sheet that are listed, and longestCommand the bytes of a command that
// stands in every picture of a folder.
const (
	mostShown      = 20
	longestCommand = 4096
)

// ofSheet is the text of a sheet of all pictures.
func (r *Recipe) ofSheet(s *Set) []sheet.Text {
	var subjects []string
	seen := map[string]bool{}
	for i := range s.Count {
		if text := s.subject(i); text != "" && !seen[text] {
			seen[text] = true
			subjects = append(subjects, text)
		}
		if len(subjects) > mostShown {
			subjects = nil
			break
		}
	}
	texts := r.texts(s, subjects, r.Command, fmt.Sprintf("Pictures: %d", s.Count))
	return append(texts, r.drawn(nil)...)
}

// ofPicture is the text of picture i of a folder.
func (r *Recipe) ofPicture(s *Set, i int) []sheet.Text {
	p := Picture{Index: i, Count: s.Count, Batch: s.BatchSize}
	if s.Labels != nil {
		p.Label = &s.Labels[i]
	}
	if s.Prompts != nil {
		p.Prompt = s.Prompts[i]
	}
	return r.pictureTexts(s, p)
}

// pictureTexts are those of a picture of a set, of which nothing else is looked at but what all pictures share.
func (r *Recipe) pictureTexts(s *Set, p Picture) []sheet.Text {
	number, subject := fmt.Sprintf("Picture: %d", p.Index), p.Prompt
	if p.Label != nil {
		number = fmt.Sprintf("Class: %d, ", *p.Label) + number
		if subject == "" {
			subject = s.classOf(*p.Label)
		}
	}
	command := ""
	if r.Command != "" && len(r.Command) <= longestCommand {
		command = r.Command + fmt.Sprintf(" # picture %d", p.Index)
	}
	return append(r.texts(s, []string{subject}, command, number), r.drawn(&p)...)
}

// classOf is the short name of a class, "" where it has none.
func (s *Set) classOf(label int) string {
	if label >= len(s.Classes) {
		return ""
	}
	return classes.Short(s.Classes[label])
}

// subject is what picture i is to show, "" where nobody can tell.
func (s *Set) subject(i int) string {
	switch {
	case s.Prompts != nil:
		return s.Prompts[i]
	case s.Labels != nil:
		return s.classOf(s.Labels[i])
	}
	return ""
}

func (r *Recipe) texts(s *Set, subjects []string, command, number string) []sheet.Text {
	if r.Software == "" && r.Command == "" && r.Model == "" {
		return nil
	}
	var lines []string
	for _, text := range subjects {
		if text != "" {
			lines = append(lines, strings.ReplaceAll(text, "\n", " "))
		}
	}
	if r.NegativePrompt != "" {
		lines = append(lines, "Negative prompt: "+strings.ReplaceAll(r.NegativePrompt, "\n", " "))
	}
	var fields []string
	add := func(name string, value any) {
		if text := fmt.Sprint(value); text != "" {
			fields = append(fields, name+": "+quoted(text))
		}
	}
	q := r.Request.WithDefaults()
	add("Steps", q.Steps)
	add("Sampler", q.Solver)
	if !q.DefaultTimesteps() {
		add("Timesteps", q.Timesteps)
	}
	add("CFG scale", q.CFGScale)
	if q.GuidanceInterval != [2]float64{} {
		add("Guidance interval", fmt.Sprintf("%v,%v", q.GuidanceInterval[0], q.GuidanceInterval[1]))
	}
	if q.GuidanceRescale != 0 {
		add("Guidance rescale", q.GuidanceRescale)
	}
	add("Guide hash", short(r.GuideSHA256))
	add("Guide", r.Guide)
	add("Diffusion form", q.SDE.Form)
	if q.SDE.Norm != 0 {
		add("Diffusion norm", q.SDE.Norm)
	}
	add("Last step", q.SDE.Last)
	if q.SDE.LastSize != 0 {
		add("Last step size", q.SDE.LastSize)
	}
	add("Seed", q.Seed)
	add("Size", fmt.Sprintf("%dx%d", s.Width, s.Height))
	add("Model hash", short(r.ModelSHA256))
	add("Model", r.Model)
	add("VAE hash", short(r.VAESHA256))
	add("VAE", r.VAE)
	if q.Guided == dit.GuideAll {
		add("CFG channels", "all")
	}
	add("Precision", r.Precision)
	add("RNG", q.RNG)
	add("Batch size", s.BatchSize)
	fields = append(fields, number)
	add("Version", r.Software)
	lines = append(lines, strings.Join(fields, ", "))
	texts := []sheet.Text{{Keyword: parametersKey, Text: strings.Join(lines, "\n")}}
	if command != "" {
		texts = append([]sheet.Text{{Keyword: commandKey, Text: command}}, texts...)
	}
	if r.Software != "" {
		texts = append([]sheet.Text{{Keyword: softwareKey, Text: r.Software}}, texts...)
	}
	return texts
}

// quoted is a value of the list, in quotes where it would end too early.
func quoted(value string) string {
	if !strings.ContainsAny(value, ",:\n\"") {
		return value
	}
	text, _ := json.Marshal(value) // of a string, which cannot fail
	return string(text)
}

// short is as much of a checksum as such lists show.
func short(sha256 string) string { return sha256[:min(10, len(sha256))] }
