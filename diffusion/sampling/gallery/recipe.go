package gallery

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch/nn"
)

// A Recipe is what it takes to draw pictures again. PNG files hold it as text, under these keywords:
//
//	Software     the program
//	Description  the command
//	parameters   what it drew with, in the form in which other programs for sampling keep and show it
//
// It has no times and no places, so that the same pictures are the same bytes.
type Recipe struct {
	Software       string // with its version
	Command        string // that draws them, "" where there is none
	NegativePrompt string
	Model, VAE     string // names
	Guide          string // that of the model that guidance leads away from, "" for none
	// ModelSHA256 and VAESHA256 are those of the weight files, "" where they are not known.
	ModelSHA256, VAESHA256 string
	Precision              nn.Precision // of both
	Request                sampling.Request
}

// Keywords of the texts.
const (
	softwareKey   = "Software"
	commandKey    = "Description"
	parametersKey = "parameters"
)

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
	return r.texts(s, subjects, r.Command, fmt.Sprintf("Pictures: %d", s.Count))
}

// ofPicture is the text of picture i of a folder.
func (r *Recipe) ofPicture(s *Set, i int) []sheet.Text {
	number := fmt.Sprintf("Picture: %d", i)
	if s.Labels != nil {
		number = fmt.Sprintf("Class: %d, ", s.Labels[i]) + number
	}
	command := ""
	if r.Command != "" && len(r.Command) <= longestCommand {
		command = r.Command + fmt.Sprintf(" # picture %d", i)
	}
	return r.texts(s, []string{s.subject(i)}, command, number)
}

// subject is what picture i is to show, "" where nobody can tell.
func (s *Set) subject(i int) string {
	switch {
	case s.Prompts != nil:
		return s.Prompts[i]
	case s.Labels != nil && s.Labels[i] < len(s.Classes):
		return classes.Short(s.Classes[s.Labels[i]])
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
