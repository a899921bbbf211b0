package namemap

import (
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

func named(names ...string) checkpoint.Source {
	var out []checkpoint.Tensor
	for i, name := range names {
		out = append(out, checkpoint.Tensor{Info: checkpoint.Info{Name: name, DType: checkpoint.U8, Shape: []int64{1}},
			Data: []byte{byte(i)}})
	}
	return checkpoint.Memory(out)
}

// A model is found under whatever stands before its names and inside them, and has its own names then.
func TestModelsUnderWrappers(t *testing.T) {
	const anchor = "x_embedder.proj.weight"
	for _, c := range []struct {
		names    []string // the first is the anchor, the second pos_embed
		part     string
		averaged bool
		note     string
	}{
		{[]string{anchor, "pos_embed"}, "", false, ""},
		{[]string{"_orig_mod." + anchor, "_orig_mod.pos_embed"}, "", false,
			"left out of the names of tensors: _orig_mod."},
		{[]string{"module._orig_mod." + anchor, "module._orig_mod.pos_embed", "n_averaged"}, "", false,
			"left out of the names of tensors: module., _orig_mod."},
		{[]string{"_orig_mod.module." + anchor, "_orig_mod.module.pos_embed"}, "", false,
			"left out of the names of tensors: module., _orig_mod."},
		{[]string{"model.model." + anchor, "model.model.pos_embed"}, "model.model", false, ""},
		{[]string{"state_dict.model._orig_mod." + anchor, "state_dict.model._orig_mod.pos_embed", "state_dict.vae.x"},
			"state_dict.model", false, "left out of the names of tensors: _orig_mod."},
		{[]string{"x_embedder._fsdp_wrapped_module.proj.weight", "pos_embed"}, "", false,
			"left out of the names of tensors: _fsdp_wrapped_module."},
		{[]string{"module.x_embedder._orig_mod._checkpoint_wrapped_module.proj.weight", "module.pos_embed"}, "", false,
			"left out of the names of tensors: module., _orig_mod., _checkpoint_wrapped_module."},
		{[]string{"backbone." + anchor, "backbone.pos_embed", "head.weight"}, "backbone", false,
			"the tensors are those whose names begin with backbone."},
		{[]string{"ema.module." + anchor, "ema.module.pos_embed", "model." + anchor, "opt.exp_avg." + anchor},
			"ema", true,
			"left out of the names of tensors: module."},
		{[]string{"ema.ema_model." + anchor, "ema.ema_model.pos_embed", "ema.online_model." + anchor},
			"ema.ema_model", true, ""},
		{[]string{"model." + anchor, "model.pos_embed", "discriminator." + anchor}, "model", false, ""},
		{[]string{"model." + anchor, "model.pos_embed", "state_dict." + anchor}, "model", false, ""},
	} {
		src := named(c.names...)
		m, err := First(Models(src, anchor))
		if err != nil {
			t.Errorf("%v: %v", c.names, err)
			continue
		}
		own, notes, err := m.Tensors(src)
		if err != nil {
			t.Errorf("%v: %v", c.names, err)
			continue
		}
		if m.Part != c.part || m.Averaged != c.averaged || strings.Join(notes, "; ") != c.note {
			t.Errorf("%v: part %q, averaged %v, notes %q; want %q, %v, %q", c.names, m.Part, m.Averaged, notes,
				c.part, c.averaged, c.note)
		}
		for i, name := range []string{anchor, "pos_embed"} {
			if data, err := checkpoint.Read(own, name); err != nil || data[0] != byte(i) {
				t.Errorf("%v: %s is %v (%v), want that of the first two names", c.names, name, data, err)
			}
		}
		if n := len(own.Tensors()); n != 2 {
			t.Errorf("%v: %d tensors, want 2", c.names, n)
		}
	}
}

func TestModelsThatAreNone(t *testing.T) {
	const anchor = "x_embedder.proj.weight"
	for _, name := range []string{"exp_avg." + anchor, "opt.state." + anchor, "prefix" + anchor,
		"x_embedder.proj.weight.scale", "proj.weight",
		"x_embedder.other.proj.weight"} {
		if found := Models(named(name), anchor); len(found) > 0 {
			t.Errorf("%s: found %+v, want nothing", name, found)
		}
	}
	src := named("student."+anchor, "teacher."+anchor)
	if _, err := First(Models(src, anchor)); err == nil || !strings.Contains(err.Error(), "student. and teacher.") {
		t.Errorf("two models: error %v, want one that names both", err)
	}
	for _, again := range []string{"_orig_mod." + anchor, "module." + anchor, "x_embedder._orig_mod.proj.weight"} {
		src = named(anchor, again)
		m, err := First(Models(src, anchor))
		if err == nil {
			_, _, err = m.Tensors(src)
		}
		if err == nil || !strings.Contains(err.Error(), "tensors "+anchor+" and "+again) {
			t.Errorf("two tensors of one name: error %v, want one that names both", err)
		}
	}
	// The one to take is told by what the words mean, not by the order in the file.
	names := []string{"model." + anchor, "ema." + anchor}
	for range 2 {
		if m, err := First(Models(named(names...), anchor)); err != nil || m.Prefix != "ema." {
			t.Errorf("%v: %+v, %v: want the averages", names, m, err)
		}
		slices.Reverse(names)
	}
}
