package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/vae"
)

// TestPrecision: the precision is said, kept in the result, and decides. TestRecipe has what pictures say of it.
func TestPrecision(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	draw := func(name string, flags ...string) (pixels []byte, o outcome) {
		path := filepath.Join(dir, name)
		o = mustRun(t, r.sample(path, flags...)...)
		return read(t, path), o
	}
	plain, o := draw("plain.npz")
	o.prints(t, "device  cpu (1 thread), fp32")
	if fp32, _ := draw("fp32.npz", "--precision", "fp32"); !bytes.Equal(fp32, plain) {
		t.Error("fp32 is not the default on a CPU")
	}
	narrow, o := draw("bf16.npz", "--precision", "bf16")
	o.prints(t, "device  cpu (1 thread), bf16")
	if bytes.Equal(narrow, plain) {
		t.Error("bf16 draws the pixels of fp32")
	}
	_, o = draw("again.npz", "--precision", "bf16", "--json")
	var result struct{ Precision nn.Precision }
	if err := json.Unmarshal([]byte(o.stdout), &result); err != nil || result.Precision != nn.BF16 {
		t.Errorf("--json says %q, error %v", result.Precision, err)
	}
	o = mustRun(t, slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", filepath.Join(dir, "vae"),
		"--precision", "bf16"}, vaeFlags)...)
	o.prints(t, "        trained in fp32, reconstructions in bf16")
}

// TestPrecisionNote: who samples on a GPU in its default learns of bf16, nobody else does.
func TestPrecisionNote(t *testing.T) {
	for _, c := range []struct {
		p    nn.Precision
		dev  torch.Device
		some bool
	}{
		{nn.TF32, torch.CUDA(0), true}, {nn.FP32, torch.CUDA(0), false}, {nn.BF16, torch.CUDA(0), false},
		{nn.TF32, torch.CPU, false},
	} {
		note := precisionNote(c.p, c.dev, "pictures")
		if (note != "") != c.some || c.some && !strings.Contains(note, "--precision bf16") {
			t.Errorf("%s on %s: %q", c.p, c.dev, note)
		}
	}
}

// TestPreviewsInPrecisionOfTheRun: previews are drawn as the run computes.
func TestPreviewsInPrecisionOfTheRun(t *testing.T) {
	config := training.DefaultConfig
	config.Model, config.SampleEvery, config.Precision = dit.XL2, 10, nn.BF16
	small, err := vae.SmallConfig(16, 4, 2)
	if err != nil {
		t.Fatal(err)
	}
	var model *vae.AutoencoderKL
	if err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		model, err = vae.New(s, small)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	p, err := newPreviewer(&trainInput{config: &config, vae: model, set: samples.Set{Classes: make([]string, 1000)}})
	if err != nil || p.Precision != nn.BF16 {
		t.Errorf("previewer %+v, error %v", p, err)
	}
}
