package dit

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint/namemap"
	"github.com/ditrun/ditrun/torch/philox"
)

// Changes are what [Weights.Adapt] can make of a model for another task. A zero value keeps what is.
type Changes struct {
	NumClasses int      // rows of the label table; Classes, where given, decides
	Classes    []string // names of the new classes, matched with the old ones, if need be without regard to case
	InputSize  int      // height of the latents
	InputWidth int      // width, where it is not the height
	LearnSigma *bool
	// ClassDropoutProb decides whether there is a null class.
	ClassDropoutProb *float64
	Seed             uint64 // of the rows that have to be drawn
}

// Adapt changes the sizes of the model and returns a sentence for each thing it did. Rows of classes that are kept
// by name, or whose number does not change, stay what they are; others are drawn as for a new model. The null class
// is kept where there still is one. Positions for another size are computed. A variance that is added starts at
// zero, one that is taken away is dropped.
func (w *Weights) Adapt(ch Changes) (did []string, err error) {
	old, cfg := w.Config, w.Config
	if len(ch.Classes) > 0 {
		ch.NumClasses = len(ch.Classes)
	}
	if ch.NumClasses != 0 {
		cfg.NumClasses = ch.NumClasses
	}
	if ch.InputSize != 0 {
		cfg.SetInput(ch.InputSize, cmp.Or(ch.InputWidth, ch.InputSize))
	}
	if ch.LearnSigma != nil {
		cfg.LearnSigma = *ch.LearnSigma
	}
	if ch.ClassDropoutProb != nil {
		cfg.ClassDropoutProb = *ch.ClassDropoutProb
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	labels, change := w.labelRows(ch, cfg)
	if change != "" {
		did = append(did, change)
	}
	var entries []namemap.Entry
	was := old.layout()
	for i, p := range cfg.layout() {
		part := namemap.Whole(p.name, was[i].shape...)
		e := namemap.Entry{Name: p.name, Shape: p.shape, Parts: []namemap.Part{part}}
		switch {
		case p.name == posEmbed && cfg.Size() != old.Size():
			e.Parts = []namemap.Part{namemap.Values(cfg.positions())}
			did = append(did, fmt.Sprintf("positions computed for latents of %s instead of %s", cfg.Size(), old.Size()))
		case p.name == labelTable && change != "":
			e.Parts = rowsOfTable(part, labels, ch.Seed)
		case strings.HasPrefix(p.name, "final_layer.linear.") && cfg.LearnSigma != old.LearnSigma:
			e.Parts = variance(part, old, cfg)
		}
		entries = append(entries, e)
	}
	if cfg.LearnSigma && !old.LearnSigma {
		did = append(did, "variance channels added, starting at zero")
	} else if old.LearnSigma && !cfg.LearnSigma {
		did = append(did, "variance channels dropped")
	}
	src, err := namemap.Map(w.Source, entries, func(string) bool { return true })
	if err != nil {
		return nil, err
	}
	if ch.InputSize != 0 {
		w.ImageSize = w.ImageSize / old.InputSize * cfg.InputSize
	}
	w.Source, w.Config = src, cfg
	if change != "" {
		w.Classes = ch.Classes
	}
	return did, nil
}

// labelRows returns for each row of the new label table the row of the old one that it takes, -1 for one to be drawn,
// and a sentence about the change, "" where the table stays as it is.
func (w *Weights) labelRows(ch Changes, cfg Config) (rows []int, change string) {
	old := w.Config
	byName := len(ch.Classes) > 0 && len(w.Classes) > 0
	hadNull, hasNull := old.ClassDropoutProb > 0, cfg.ClassDropoutProb > 0
	sameNumber := cfg.NumClasses == old.NumClasses
	if !cfg.HasClass() || sameNumber && !byName && hadNull == hasNull {
		return nil, ""
	}
	labels := labelsOf(w.Classes)
	kept, same := 0, true
	for i := range cfg.NumClasses {
		row := -1
		if sameNumber && !byName {
			row = i
		}
		if byName {
			if row = labels.of(ch.Classes[i]); row >= 0 {
				kept++
			}
		}
		same = same && row == i
		rows = append(rows, row)
	}
	if same && sameNumber && hadNull == hasNull {
		return nil, ""
	}
	if hasNull {
		null := -1
		if hadNull {
			null = old.NullClass()
		}
		rows = append(rows, null)
	}
	change = fmt.Sprintf("%s instead of %d: ", names.Plural(cfg.NumClasses, "class"), old.NumClasses)
	if byName {
		change += fmt.Sprintf("%d kept by name, %d drawn anew", kept, cfg.NumClasses-kept)
	} else if sameNumber {
		change += "all kept"
	} else {
		change += "all drawn anew"
	}
	switch {
	case hadNull && hasNull:
		change += ", the null class kept"
	case hasNull:
		change += ", a null class drawn"
	case hadNull:
		change += ", the null class dropped"
	}
	return rows, change
}

// classLabels finds the labels of classes by their names: by the canonical one, else by one without regard to case.
type classLabels struct{ exact, folded map[string]int }

func labelsOf(classes []string) classLabels {
	p := classLabels{map[string]int{}, map[string]int{}}
	for i, name := range classes {
		p.exact[names.Canonical(name)] = i
		key := fold(name)
		if other, taken := p.folded[key]; taken && other != i {
			i = -1 // it is not clear which of them a third way of writing means
		}
		p.folded[key] = i
	}
	for i, name := range classes {
		for _, word := range strings.Split(name, ",") { // ImageNet's classes have several names
			if word = fold(strings.TrimSpace(word)); word != "" {
				if _, taken := p.folded[word]; !taken {
					p.folded[word] = i
				}
			}
		}
	}
	return p
}

func fold(name string) string { return strings.ToLower(names.Canonical(name)) }

// of returns the label of a name, -1 if there is none.
func (p classLabels) of(name string) int {
	if at, ok := p.exact[names.Canonical(name)]; ok {
		return at
	}
	if at, ok := p.folded[fold(name)]; ok {
		return at
	}
	return -1
}

// rowsOfTable gathers the rows of a label table.
func rowsOfTable(table namemap.Part, rows []int, seed uint64) []namemap.Part {
	var parts []namemap.Part
	for i, row := range rows {
		if row >= 0 {
			p := table
			p.From, p.To = int64(row), int64(row)+1
			parts = append(parts, p)
			continue
		}
		v := make([]float32, table.Shape[1])
		philox.Normals(v, seed, philox.TagWeights, 0, uint64(i))
		for j := range v {
			v[j] *= labelStd
		}
		parts = append(parts, namemap.Values(v))
	}
	return parts
}

// variance cuts or pads the output layer, whose rows are the channels of each pixel of a patch.
func variance(layer namemap.Part, from, to Config) []namemap.Part {
	var parts []namemap.Part
	c, was := int64(from.InChannels), int64(from.OutChannels())
	width := int64(1)
	if len(layer.Shape) == 2 {
		width = layer.Shape[1]
	}
	for pixel := range int64(from.PatchSize * from.PatchSize) {
		p := layer
		p.From, p.To = pixel*was, pixel*was+c
		parts = append(parts, p)
		if to.LearnSigma {
			parts = append(parts, namemap.Values(make([]float32, c*width)))
		}
	}
	return parts
}
