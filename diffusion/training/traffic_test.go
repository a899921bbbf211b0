package training

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/torchtest"
	"github.com/ditrun/ditrun/vae"
)

// Between two log steps, one upload is all that passes between host and device in a step: nothing is read back or
// waited for, whatever is trained on.
func TestStepsNeedOneUpload(t *testing.T) {
	plan := syntheticPlan(60)
	plan.DType = checkpoint.F16
	halves, texts := synthetic(t, plan), captioned(t)
	resident, err := samples.Resident(halves, torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	defer resident.Close()
	residentTexts, err := samples.Resident(texts, torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	defer residentTexts.Close()
	onBoth := onText(12, dit.AdaLNZero, dit.OnTextAndClass)
	for name, c := range map[string]struct {
		cfg Config
		src samples.Source
	}{
		"latents":                 {small(12), allOf(halves)},
		"resident latents":        {small(12), resident},
		"captions":                {onBoth, allOf(texts)},
		"captions beside latents": {onBoth, residentTexts},
		"pictures":                {small(12), somePictures(t)},
	} {
		for _, capture := range []StepCapture{CaptureNever, CaptureAlways} {
			cfg := eventful(c.cfg)
			cfg.LogEvery, cfg.OnBadStep, cfg.Recompute = 6, onBadSkip, true
			var counts []torch.Traffic
			_, err := Run(t.Context(), Job{Device: torchtest.Device(t), Config: cfg, Source: c.src,
				CheckSteps: CheckWhenLogging, Capture: capture,
				Hooks: Hooks{Step: func(int) { counts = append(counts, torch.Counts()) }, Warn: func(string) {}}})
			if err != nil {
				t.Fatal(err)
			}
			for step := 1; step < len(counts); step++ {
				if step == 6 || step == 1 { // the one after a log step counts its record, the second is tried twice
					continue
				}
				if got, want := counts[step].Sub(counts[step-1]), (torch.Traffic{Uploads: 1}); got != want {
					t.Errorf("%s, capture %q: step %d: %+v, want %+v", name, capture, step+1, got, want)
				}
			}
		}
	}
}

// somePictures is a source of pictures that a new autoencoder encodes.
func somePictures(t *testing.T) samples.Source {
	t.Helper()
	dir := t.TempDir()
	for i := range 24 {
		class := filepath.Join(dir, string(rune('a'+i%3)))
		text := fmt.Appendf(nil, "P6 8 8 255\n%s", bytes.Repeat([]byte{byte(10 * i), 100, 200}, 8*8))
		if err := errors.Join(os.MkdirAll(class, 0o777),
			os.WriteFile(filepath.Join(class, fmt.Sprintf("%d.ppm", i)), text, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	src, err := catalog.Open(t.Context(), dir, catalog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	config, err := vae.SmallConfig(8, 4, 2)
	if err != nil {
		t.Fatal(err)
	}
	gen, err := torch.NewGenerator(torch.CPU, 1)
	if err != nil {
		t.Fatal(err)
	}
	var v *vae.AutoencoderKL
	torchtest.Run(t, func(s *torch.Scope) error {
		if v, err = vae.New(s, config); err != nil {
			return err
		}
		v.Init(s, gen)
		return nil
	})
	t.Cleanup(v.Close)
	pictures, err := samples.Pictures(src, v, "test", picture.Square(8), 1)
	if err != nil {
		t.Fatal(err)
	}
	return pictures
}
