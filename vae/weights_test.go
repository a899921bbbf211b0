package vae

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

func TestLayoutEqualsTheModel(t *testing.T) {
	small, err := SmallConfig(32, 3, 4)
	if err != nil {
		t.Fatal(err)
	}
	three := StableDiffusion().WithLevels(32, 64, 32)
	three.LayersPerBlock, three.InChannels, three.OutChannels = 1, 1, 3
	for _, c := range []Config{small, three} {
		torchtest.Run(t, func(s *torch.Scope) error {
			m, err := New(s, c)
			if err != nil {
				return err
			}
			defer m.Close()
			var got, want []string
			for _, p := range c.layout() {
				got = append(got, fmt.Sprint(p.name, p.shape))
			}
			for name, p := range nn.Params(m) {
				want = append(want, fmt.Sprint(name, p.Shape()))
			}
			slices.Sort(got) // the state dict's order is the model's own affair
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("layout %v\nwant %v", got, want)
			}
			return nil
		})
	}
}

// Each of the 248 names is what diffusers' own conversion makes of it.
func TestCompVisNamesEqualDiffusers(t *testing.T) {
	text, err := os.ReadFile("testdata/compvis_names.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]string // from CompVis to today's
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range StableDiffusion().layout() {
		got[compVis.other(p.name, 4)] = p.name
	}
	if len(got) != 248 || !maps.Equal(got, want) {
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s is %q, want %q", k, got[k], v)
			}
		}
		t.Errorf("%d names, want 248", len(got))
	}
}

// under returns the tiny model's tensors under a naming, attention weights as 1x1 convolutions.
func under(t *testing.T, prefix string, n naming) []checkpoint.Tensor {
	t.Helper()
	cfg, _, err := readConfig(filepath.Join("testdata", "tiny", ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	var out []checkpoint.Tensor
	for name, v := range readTensors(t, filepath.Join("testdata", "tiny", WeightsName)) {
		if strings.Contains(name, ".attentions.") && len(v.Shape) == 2 {
			v.Shape = append(v.Shape[:2:2], 1, 1)
		}
		v.Name = prefix + n.other(name, len(cfg.BlockOutChannels))
		out = append(out, v)
	}
	return out
}

// The same model comes out of every container, prefix and naming, with and without a config.json.
func TestReadNamings(t *testing.T) {
	want := openTestModel(t, "tiny")
	noise := func(names ...string) (out []checkpoint.Tensor) {
		for _, name := range names {
			out = append(out, checkpoint.Tensor{Info: checkpoint.Info{Name: name, DType: "F32", Shape: []int64{1}},
				Data: make([]byte, 4)})
		}
		return out
	}
	for _, c := range []struct {
		file, prefix string
		names        naming
		besides      []string
		naming       string
	}{
		{"a.safetensors", "", compVis, []string{"loss.logvar"}, "CompVis"},
		{"b.safetensors", "first_stage_model.", compVis, []string{"model.diffusion_model.x", "cond_stage_model.y"},
			"CompVis"},
		{"c.ckpt", "state_dict.first_stage_model.", compVis, []string{"state_dict.model_ema.z"}, "CompVis"},
		{"d.pt", "vae.", oldAttention, nil, "old diffusers"},
		{"e.bin", "", oldAttention, nil, "old diffusers"},
		{"f.bin", "", nil, nil, "diffusers"},
		{"g.safetensors", "_orig_mod.", nil, nil, "diffusers"},
		{"h.safetensors", "module._orig_mod.", compVis, []string{"module._orig_mod.loss.logvar"}, "CompVis"},
		{"i.pt", "_orig_mod.module.", oldAttention, nil, "old diffusers"},
		{"j.safetensors", "model.model.", nil, []string{"optimizer.x"}, "diffusers"},
		{"k.ckpt", "state_dict.first_stage_model._orig_mod.", compVis, []string{"state_dict.model_ema.z"}, "CompVis"},
		{"l.safetensors", "ema.", nil, []string{"model.encoder.conv_in.weight"}, "diffusers"},
	} {
		path := filepath.Join(t.TempDir(), c.file)
		tensors := append(under(t, c.prefix, c.names), noise(c.besides...)...)
		write := func(path string, tensors []checkpoint.Tensor) error { return checkpoint.Write(path, tensors, nil) }
		if filepath.Ext(path) != ".safetensors" {
			write = checkpoint.WritePyTorch
		}
		if err := write(path, tensors); err != nil {
			t.Fatal(err)
		}
		// Without a config.json 32 groups are Stable Diffusion's, which do not divide the tiny widths.
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), "sizes read off the tensors") {
			t.Errorf("%s: widths that 32 groups do not divide: %v", c.file, err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), ConfigName), []byte(tinyConfig(t)),
			0o666); err != nil {
			t.Fatal(err)
		}
		w, err := Read(path)
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
			continue
		}
		if w.Naming != c.naming || !strings.Contains(w.String(), c.naming+" names") {
			t.Errorf("%s: %v, want %s names", c.file, w, c.naming)
		}
		dir := t.TempDir()
		if err := w.Save(dir); err != nil {
			t.Error(err)
		}
		w.Close()
		for _, p := range []string{path, dir} {
			m, err := Open(p, torchtest.Device(t))
			if err != nil {
				t.Errorf("%s: %v", c.file, err)
				continue
			}
			if !bytes.Equal(weights(m), weights(want)) {
				t.Errorf("%s: other weights", c.file)
			}
			m.Close()
		}
	}
}

// TestInferNamesTheFirstMissing: where several tensors are missing that would tell, the same one is named each time.
func TestInferNamesTheFirstMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	info := checkpoint.Info{Name: "encoder.conv_out.bias", DType: "F32", Shape: []int64{1}}
	if err := checkpoint.Write(path, []checkpoint.Tensor{{Info: info, Data: make([]byte, 4)}}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 50 {
		_, err := infer(f, nil)
		if err == nil || !strings.Contains(err.Error(), "tensor encoder.conv_in.weight, ") {
			t.Fatalf("error %v, want one that names encoder.conv_in.weight", err)
		}
	}
}

// Without a config.json the sizes of a Stable Diffusion file follow from its tensors.
func TestInferConfig(t *testing.T) {
	other := StableDiffusion().WithLevels(32, 64)
	other.LayersPerBlock, other.LatentChannels = 1, 3
	for _, want := range []Config{StableDiffusion().WithLevels(32, 64, 128, 128), other} {
		for _, n := range []naming{nil, oldAttention, compVis} {
			var tensors []checkpoint.Tensor
			for _, p := range want.layout() {
				size := int64(4)
				for _, d := range p.shape {
					size *= d
				}
				name := n.other(p.name, len(want.BlockOutChannels))
				tensors = append(tensors,
					checkpoint.Tensor{Info: checkpoint.Info{Name: name, DType: "F32", Shape: p.shape},
						Data: make([]byte, size)})
			}
			path := filepath.Join(t.TempDir(), "x.safetensors")
			if err := checkpoint.Write(path, tensors, nil); err != nil {
				t.Fatal(err)
			}
			w, err := Read(path)
			if err != nil {
				t.Error(err)
				continue
			}
			if fmt.Sprint(w.Config) != fmt.Sprint(want) || len(w.Notes) != 1 {
				t.Errorf("read %+v\nwant %+v; notes %q", w.Config, want, w.Notes)
			}
			w.Close()
		}
	}
}
