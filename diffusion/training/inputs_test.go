package training

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/gaussian"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
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
		Labels: make([]int64, n)}}
	for i := range b.Labels {
		b.Labels[i] = int64(i % 3)
	}
	moments := make([]float32, n*2*size)
	philox.Normals(moments, 1, 0, 0, 0)
	for _, v := range moments {
		b.Data = binary.LittleEndian.AppendUint32(b.Data, math.Float32bits(v))
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		r, err := newRunner(s, Job{Config: cfg, Source: allOf(l)})
		if err != nil {
			return err
		}
		defer r.close()
		if err := r.send(b); err != nil {
			return err
		}
		p := r.inputs(s)
		steps := torch.Data[int64](p.t)
		x0, noise, labels := torch.Data[float32](p.x0), torch.Data[float32](p.noise), torch.Data[int64](p.cond.Labels)
		dropped := 0
		posterior, want := make([]float32, size), make([]float32, size)
		for i := range n {
			index := uint64(step*n + i)
			if w := int64(philox.Intn(gaussian.TrainSteps, 7, philox.TagTimestep, 0, index)); steps[i] != w {
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
				mean, logVar := float64(moments[i*2*size+j]), float64(moments[i*2*size+size+j])
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

// A batch of another size than that of the run is refused, whatever part of it is too short or too long.
func TestBatchOfWrongSize(t *testing.T) {
	cfg, src := onText(5, dit.AdaLNZero, dit.OnTextAndClass), allOf(captioned(t))
	torchtest.Run(t, func(s *torch.Scope) error {
		r, err := newRunner(s, Job{Config: cfg, Source: src})
		if err != nil {
			return err
		}
		defer r.close()
		n, feed := cfg.GlobalBatchSize, r.intake.feed
		for want, change := range map[string]func(b *samples.Batch){
			"":         func(*samples.Batch) {},
			"bytes":    func(b *samples.Batch) { b.Data = b.Data[1:] },
			"labels":   func(b *samples.Batch) { b.Labels = append(b.Labels, 0) },
			"captions": func(b *samples.Batch) { b.Tokens = b.Tokens[:0] },
			"lengths":  func(b *samples.Batch) { b.TokenLengths = b.TokenLengths[1:] },
		} {
			b := samples.Batch{Batch: &stream.Batch{IDs: make([]int, n), Labels: make([]int64, n),
				Tokens: make([]byte, len(feed.Bytes(feedTokens))), TokenLengths: make([]int, n)},
				Data: make([]byte, len(feed.Bytes(feedData)))}
			change(&b)
			err := r.send(b)
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), " "+want) {
				t.Errorf("wrong %q: error %v", want, err)
			}
		}
		return nil
	})
}

// The bins of the steps of DiT's process are tenths of them, for every step.
func TestBinsOfTimes(t *testing.T) {
	const n = gaussian.TrainSteps
	torchtest.Run(t, func(s *torch.Scope) error {
		process, err := gaussian.New("")
		if err != nil {
			return err
		}
		got := torch.Data[float32](binMembers(s, gaussian.NewObjective(s, process), s.Arange(n, torch.Int64)))
		for step := range n {
			for bin := range NumBins {
				want := float32(0)
				if bin == step*NumBins/n {
					want = 1
				}
				if got[bin*n+step] != want {
					t.Errorf("step %d is in bin %d: %v, want %v", step, bin, got[bin*n+step], want)
				}
			}
		}
		return nil
	})
}
