package training

import (
	"math"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
	"github.com/ditrun/ditrun/vae"
)

func TestQuality(t *testing.T) {
	a, b := make([]uint8, 300), make([]uint8, 300)
	for i := range a {
		a[i], b[i] = 100, 110
	}
	if mean, psnr := difference(a, b); mean != 10 || math.Abs(psnr-28.13) > 0.01 {
		t.Errorf("10 levels off: %v, %v dB", mean, psnr)
	}
	if mean, psnr := difference(a, a); mean != 0 || psnr != MaxPSNR {
		t.Errorf("equal: %v, %v dB", mean, psnr)
	}
	for psnr, want := range map[float64]string{18: "too soft for training", 24: "soft: fine detail is lost, and a " +
		"DiT cannot draw it", 30: "good"} {
		q := Quality{Pictures: 1, PSNR: psnr}
		if got := q.Verdict(); got != want || q.TooSoft() != (psnr < tooSoftPSNR) {
			t.Errorf("%v dB: %q, want %q", psnr, got, want)
		}
	}
	if q := (Quality{}); q.Verdict() != "not measured" || q.String() != "not measured" || q.TooSoft() {
		t.Errorf("of no pictures: %q, %v", q.Verdict(), q)
	}
	config, err := vae.SmallConfig(8, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	dev := torchtest.Device(t)
	src := &manyPictures{100, make([]int, 100)}
	o := testOptions(t, t.TempDir())
	o.Config.Model, o.Source = config.WithLevels(8, 8), src
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if q := r.Quality; q.Pictures != maxCompared || !(q.PSNR > 0 && q.PSNR < 60) || !(q.MeanError > 0) {
		t.Errorf("%+v", q)
	}
	model, err := vae.Open(o.OutDir, dev)
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	// The size of the batches changes nothing that counts.
	q, err := MeasureQuality(t.Context(), model, "", src, 8, 7, func(int, int) {})
	if err != nil || q.Pictures != maxCompared || math.Abs(q.PSNR-r.Quality.PSNR) > 0.05 {
		t.Errorf("%+v, want %+v, error %v", q, r.Quality, err)
	}
	// The precision does, by little.
	live := torch.Live()
	o.Precision = nn.BF16
	o.setDefaults()
	var narrow Result
	if err := o.compare(t.Context(), model, &narrow); err != nil || narrow.Quality.PSNR == r.Quality.PSNR ||
		math.Abs(narrow.Quality.PSNR-r.Quality.PSNR) > 0.5 || narrow.Reconstructions != r.Reconstructions {
		t.Errorf("in bf16 %+v, want nearly %+v, error %v", narrow, r, err)
	}
	if n := torch.Live(); n != live {
		t.Errorf("%d tensors live, %d before", n, live)
	}
	if o.Precision = nn.FP16; o.Validate() == nil {
		t.Error("fp16: no error")
	}
}
