package namemap

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

// A Model is a place in a source where all tensors of one model are.
type Model struct {
	// Anchor is the tensor by which it was found.
	Anchor string
	// Prefix stands before the names of all its tensors; "" or with a dot at its end.
	Prefix string
	// Part is the prefix without what wrappers wrote, such as "ema" or "" for ema.module.
	Part string
	// Averaged says that these are averages of the weights that were trained.
	Averaged bool

	unknown int // words of the part that say nothing
	words   int
	place   int // of the first word among the known ones
}

// wrappers are the parts of names that come from a wrapped module: of torch.compile, FSDP, recomputed activations,
// Lightning Fabric. They stand before a name or inside it, and no model has such a name of its own.
var wrappers = []string{"_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module",
	"_forward_module"}

// parallel comes from DataParallel and DistributedDataParallel, before the whole name.
const parallel = "module"

// averages are the words under which programs keep averaged weights.
var averages = []string{"ema", "ema_model", "model_ema", "ema_state_dict", "state_dict_ema", "ema_net", "module_ema"}

// containers are the other words under which programs keep a model; of several the first is taken.
var containers = []string{"first_stage_model", "vae", "autoencoder", "model", "net", "network", "dit", "transformer",
	"diffusion_model", "text_model", "text_encoder", "cond_stage_model", "state_dict", "model_state_dict"}

// noWeights are the words under which the state of optimizers is kept, in the names of the weights.
var noWeights = []string{"opt", "optim", "optimizer", "optimizers", "optimizer_state_dict", "optimizer_states",
	"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "grad", "grads"}

// Models finds the models in src, each of which has one of the anchors, whatever prefix stands before it: the one to
// take first, which are averages where there are any.
func Models(src checkpoint.Source, anchors ...string) []Model {
	var found []Model
	seen := map[string]bool{}
	for _, info := range src.Tensors() {
		for _, anchor := range anchors {
			prefix, ok := prefixOf(info.Name, anchor)
			if ok && !seen[prefix] && !slices.ContainsFunc(strings.Split(prefix, "."), isNoWeight) {
				seen[prefix] = true
				found = append(found, newModel(anchor, prefix))
			}
		}
	}
	slices.SortStableFunc(found, func(a, b Model) int {
		if a.Averaged != b.Averaged {
			if a.Averaged {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.unknown, b.unknown), cmp.Compare(a.words, b.words), cmp.Compare(a.place, b.place))
	})
	return found
}

func isNoWeight(word string) bool { return slices.Contains(noWeights, word) }
func isWrapper(word string) bool  { return slices.Contains(wrappers, word) }

// prefixOf returns what stands before anchor in name, which may have wrappers inside.
func prefixOf(name, anchor string) (string, bool) {
	parts, want := strings.Split(name, "."), strings.Split(anchor, ".")
	for len(want) > 0 {
		last := len(parts) - 1
		switch {
		case last < 0:
			return "", false
		case parts[last] == want[len(want)-1]:
			want = want[:len(want)-1]
		case !isWrapper(parts[last]):
			return "", false
		}
		parts = parts[:last]
	}
	if len(parts) == 0 {
		return "", true
	}
	return strings.Join(parts, ".") + ".", true
}

func newModel(anchor, prefix string) Model {
	m := Model{Anchor: anchor, Prefix: prefix}
	var part []string
	for _, word := range strings.Split(strings.TrimSuffix(prefix, "."), ".") {
		if word == "" || word == parallel || isWrapper(word) {
			continue
		}
		place := slices.Index(containers, word)
		average := slices.Contains(averages, word)
		if place < 0 && !average {
			m.unknown++
		}
		if len(part) == 0 {
			m.place = place
		}
		m.Averaged = m.Averaged || average
		part = append(part, word)
	}
	m.Part, m.words = strings.Join(part, "."), len(part)
	return m
}

// First returns the first of models, of which there is at least one. It is an error if the second might as well be
// meant.
func First(models []Model) (Model, error) {
	if len(models) > 1 {
		a, b := models[0], models[1]
		if a.Part == b.Part {
			return a, fmt.Errorf("tensors %s and %s are both %s without what wrappers wrote: want one of them",
				a.Prefix+a.Anchor, b.Prefix+b.Anchor, strings.TrimPrefix(a.Part+"."+a.Anchor, "."))
		}
		if a.unknown > 0 && a.unknown == b.unknown && a.Averaged == b.Averaged {
			return a, fmt.Errorf("it holds several models, under %s and %s: want one; save the state dict of one of "+
				"them in a file of its own", a.Prefix, b.Prefix)
		}
	}
	return models[0], nil
}

// Tensors returns the tensors of m under the model's own names. Notes say what was left out of the names, beside the
// part.
func (m Model) Tensors(src checkpoint.Source) (own checkpoint.Source, notes []string, err error) {
	left := map[string]bool{}
	clean := func(name string) string {
		var kept []string
		for _, word := range strings.Split(name, ".") {
			if isWrapper(word) {
				left[word] = true
			} else {
				kept = append(kept, word)
			}
		}
		return strings.Join(kept, ".")
	}
	for _, word := range strings.Split(m.Prefix, ".") {
		if word == parallel || isWrapper(word) {
			left[word] = true
		}
	}
	v := newView(src, 0)
	before := map[string]string{}
	for _, info := range src.Tensors() {
		full := info.Name
		name, ok := strings.CutPrefix(full, m.Prefix)
		if !ok {
			continue
		}
		info.Name = clean(name)
		if other, twice := before[info.Name]; twice {
			return nil, nil, fmt.Errorf("tensors %s and %s are both %s without what wrappers wrote: want one of "+
				"them", other, full, info.Name)
		}
		before[info.Name] = full
		v.add(info, func(p []byte, off int64) error { return src.ReadAt(p, full, off) })
	}
	if m.unknown > 0 {
		notes = append(notes, fmt.Sprintf("the tensors are those whose names begin with %s", m.Prefix))
	}
	var words []string
	for _, word := range append([]string{parallel}, wrappers...) {
		if left[word] {
			words = append(words, word+".")
		}
	}
	if len(words) > 0 {
		notes = append(notes, fmt.Sprintf("left out of the names of tensors: %s", strings.Join(words, ", ")))
	}
	if m.Prefix == "" && len(words) == 0 {
		return src, notes, nil
	}
	return v, notes, nil
}

// InFile puts the prefix back before the names in a [Mismatch], so that an error has those of the file.
func (m Model) InFile(err error) error {
	wrong, ok := err.(checkpoint.Mismatch)
	if !ok || m.Prefix == "" {
		return err
	}
	for _, list := range []*[]string{&wrong.Missing, &wrong.Wrong, &wrong.Unexpected} {
		*list = slices.Clone(*list)
		for i, name := range *list {
			(*list)[i] = m.Prefix + name
		}
	}
	return wrong
}
