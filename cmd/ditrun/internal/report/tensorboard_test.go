package report

import (
	"bytes"
	"image"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/diffusion/runs"
)

func TestScalars(t *testing.T) {
	s := step(100, math.NaN())
	s.Bins = make([]runs.Number, 10)
	for i := range s.Bins {
		s.Bins[i] = runs.Number(i)
	}
	s.Bins[4] = runs.Number(math.NaN())
	var got []string
	for _, v := range scalars(s) {
		got = append(got, v.Tag)
	}
	want := []string{"train/loss", "train/lr", "train/images_per_second", "train/data_wait_share", "train/mse",
		"train/vb", "train/grad_norm", "train/tflops", "train/memory_gb",
		"mse_by_timestep/000-099", "mse_by_timestep/100-199", "mse_by_timestep/200-299", "mse_by_timestep/300-399",
		"mse_by_timestep/500-599",
		"mse_by_timestep/600-699", "mse_by_timestep/700-799", "mse_by_timestep/800-899", "mse_by_timestep/900-999"}
	if !slices.Equal(got, want) {
		t.Errorf("curves %q, want %q: those known and no more, a loss that is no number among them", got, want)
	}
	if v := scalars(s)[9].Value; v != 0 {
		t.Errorf("the first stretch is %g, want 0", v)
	}
}

func TestPreviewEvent(t *testing.T) {
	r := create(t, options(t.TempDir()))
	if _, err := r.Preview(500, image.NewNRGBA(image.Rect(0, 0, 2*thumbnail, thumbnail))); err != nil {
		t.Fatal(err)
	}
	paths, _ := filepath.Glob(filepath.Join(r.Dir(), "events.out.tfevents.*"))
	if len(paths) != 1 {
		t.Fatalf("event files %q", paths)
	}
	b, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(b, []byte("\x89PNG"))
	if i < 0 {
		t.Fatal("no picture in the event file")
	}
	img, _, err := image.DecodeConfig(bytes.NewReader(b[i:]))
	if err != nil || img.Width != thumbnail || img.Height != thumbnail/2 {
		t.Errorf("picture of %dx%d (%v), want %dx%d", img.Width, img.Height, err, thumbnail, thumbnail/2)
	}
}
