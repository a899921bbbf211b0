package dit

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

func TestProcessOfFlowModels(t *testing.T) {
	released := map[string]Process{SiT: {Objective: "velocity", Path: "linear"},
		REPA: {Objective: "velocity", Path: "linear", NoiseAtOne: true}, "": {}}
	for _, c := range []struct {
		family string
		args   map[string]string
		want   Process
		err    string
	}{
		{SiT, nil, released[SiT], ""},
		{REPA, nil, released[REPA], ""},
		{"", map[string]string{"path_type": "GVP"}, Process{}, ""},
		{SiT, map[string]string{"path_type": "GVP", "prediction": "score"},
			Process{Objective: "score", Path: "gvp"}, ""},
		{SiT, map[string]string{"path_type": "VP", "prediction": "noise"}, Process{Objective: "noise", Path: "vp"}, ""},
		{REPA, map[string]string{"path_type": "cosine", "prediction": "v"},
			Process{Objective: "velocity", Path: "gvp", NoiseAtOne: true}, ""},
		{SiT, map[string]string{"path_type": "cubic"}, Process{}, `path_type "cubic": want Linear, GVP, VP or cosine`},
		{SiT, map[string]string{"prediction": "x"}, Process{}, `prediction "x": want velocity, noise or score`},
	} {
		w := &Weights{Info: Info{Family: c.family}}
		switch err := w.inferProcess(c.args); {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s %v: error %v, want %q", c.family, c.args, err, c.err)
			}
		case err != nil || w.Process != c.want || w.Process.Validate() != nil:
			t.Errorf("%s %v: %+v, error %v, want %+v", c.family, c.args, w.Process, err, c.want)
		}
	}
	for _, p := range []Process{{Objective: "speed", Path: "linear"}, {Objective: "velocity"}, {Path: "linear"},
		{Objective: "velocity", Path: "round"}, {Objective: "velocity", Path: "vp", Shift: -1},
		{Objective: "velocity", Path: "vp", Shift: 2e6}} {
		if p.Validate() == nil {
			t.Errorf("%+v: no error", p)
		}
	}
	p := released[REPA]
	if p.Shift = 0.3; p.String() != "velocity on the linear path, noise at 1, data at 0, shift 0.3" {
		t.Error(p.String())
	}
}

// What REPA's programs have beside the model comes back with it, whatever the file was in between.
func TestProjectorsAreKept(t *testing.T) {
	c := small()
	c.LearnSigma = false
	all := numbered(c)
	for _, name := range []string{"projectors.0.0.weight", "projectors.0.0.bias"} {
		all = append(all, checkpoint.Tensor{Info: checkpoint.Info{Name: name, DType: checkpoint.F32, Shape: []int64{2},
			Size: 8}, Data: slices.Repeat([]byte(name[len(name)-4:]), 2)})
	}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	w := read(t, write(t, in("last.safetensors"), all, nil), "")
	if len(w.Kept) != 2 {
		t.Fatalf("%d tensors kept", len(w.Kept))
	}
	if err := w.Save(in("ours.safetensors")); err != nil {
		t.Fatal(err)
	}
	w = read(t, in("ours.safetensors"), "")
	if w.Layout != Ours || w.Family != REPA || !w.Process.NoiseAtOne {
		t.Errorf("ours: %s, %s, %+v", w.Layout, w.Family, w.Process)
	}
	sameTensors(t, w, all[:len(all)-2])
	if err := w.SaveOfficial(in("again.pt")); err != nil {
		t.Fatal(err)
	}
	f, err := checkpoint.Open(in("again.pt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	slices.SortStableFunc(all[len(all)-2:], func(a, b checkpoint.Tensor) int { return strings.Compare(a.Name, b.Name) })
	sameTensors(t, f, all)

	// A file of an earlier version has the family alone.
	old := w.Info
	old.Process = Process{}
	if err := Save(in("old.safetensors"), all[:len(all)-2], old); err != nil {
		t.Fatal(err)
	}
	if w := read(t, in("old.safetensors"), ""); w.Process != processOf(REPA) {
		t.Errorf("an earlier file: %+v", w.Process)
	}
}
