package training

import (
	"math"
	"testing"

	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/gaussian"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/philox"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// Each draw of a step is named by the seed, its purpose and the sample's position in the run.
func TestInputsAreNamedByPosition(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(20)), small(5)
	cfg.Model.ClassDropoutProb = 0.5
	const n, size, step = 8, 4 * 4 * 4, 3
	b := samples.Batch{Batch: &stream.Batch{Position: stream.Position{Batch: step}, IDs: make([]int, n),
		Labels: make([]int64, n), Moments: make([]float32, n*2*size)}}
	b.Moments = func(s *torch.Scope) *torch.Tensor { return torch.From(s, b.Batch.Moments, n, 8, 4, 4) }
	for i := range b.Labels {
		b.Labels[i] = int64(i % 3)
	}
	philox.Normals(b.Batch.Moments, 1, 0, 0, 0)
	torchtest.Run(t, func(s *torch.Scope) error {
		r, err := newRunner(s, Job{Config: cfg, Source: allOf(l)})
		if err != nil {
			return err
		}
		defer r.close()
		p, err := r.inputs(s, b)
		if err != nil {
			return err
		}
		steps := p.t
		x0, noise, labels := torch.Data[float32](p.x0), torch.Data[float32](p.noise), torch.Data[int64](p.cond.Labels)
		dropped := 0
		posterior, want := make([]float32, size), make([]float32, size)
		for i := range n {
			index := uint64(step*n + i)
			if w := int(math.Floor(gaussian.TrainSteps * philox.Uniform(7, philox.TagTimestep, 0,
				index))); steps[i] != w {
				t.Errorf("sample %d: timestep %d, want %d", i, steps[i], w)
			}
			label := b.Labels[i]
			if philox.Uniform(7, philox.TagLabelDrop, 0, index) < 0.5 {
				label = 3
				dropped++
			}
			if labels[i] != label {
				t.Errorf("sample %d: label %d, want %d", i, labels[i], label)
			}
			philox.Normals(want, 7, philox.TagStartNoise, 0, index)
			philox.Normals(posterior, 7, philox.TagPosterior, 0, index)
			for j := range size {
				mean, logVar := float64(b.Batch.Moments[i*2*size+j]), float64(b.Batch.Moments[i*2*size+size+j])
				latent := 0.5 * (mean + math.Exp(logVar/2)*float64(posterior[j]))
				if got := float64(x0[i*size+j]); math.Abs(got-latent) > 1e-5*(1+math.Abs(latent)) {
					t.Fatalf("sample %d: latent %d is %v, want %v", i, j, got, latent)
				}
				if got := noise[i*size+j]; math.Abs(float64(got-want[j])) > 1e-6 {
					t.Fatalf("sample %d: noise %d is %v, want %v", i, j, got, want[j])
				}
			}
		}
		if dropped == 0 || dropped == n {
			t.Errorf("%d of %d labels dropped: the test says nothing", dropped, n)
		}
		return nil
	})
}
