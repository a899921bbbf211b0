package training

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/torch"
)

// finishComparison waits until all latents have been compared with their checksums: what a run has made of damaged
// ones does not count. It warns where that takes longer than a moment.
func (r *runner) finishComparison(ctx context.Context) error {
	c := samples.ComparisonOf(r.source)
	if c == nil {
		return nil
	}
	const moment = 2 * time.Second
	result := make(chan error, 1)
	go func() { result <- c.Wait(ctx) }()
	var err error
	select {
	case err = <-result:
	case <-time.After(moment):
		if r.hooks.Warn != nil && c.UnderWay() {
			r.hooks.Warn("the steps are done and saved; the rest of the latents is still being compared with its " +
				"checksums")
		}
		err = <-result
	}
	if err == nil {
		r.checks.flush(r)
	}
	return err
}

// badData says what is wrong with the latents of a batch, "" where nothing is: that their files are damaged, or which
// of them are not finite numbers, and whether that is all of them.
func (r *runner) badData(s *torch.Scope, x0 *torch.Tensor, ids []int) string {
	c := samples.ComparisonOf(r.source)
	if c != nil {
		if err := c.Verify(ids); err != nil {
			return err.Error()
		}
	}
	n := len(ids)
	var bad []string
	s = s.NoGrad()
	for i, v := range torch.Data[float64](s.SumDims(s.To(x0, torch.Float64), false, 1, 2, 3)) {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			bad = append(bad, strings.TrimPrefix(r.sampleName(ids[i]), "sample "))
		}
	}
	what, advice := "samples", "encode them again"
	if _, ok := r.source.(samples.PictureSource); ok {
		what, advice = "pictures", "look at them, since the autoencoder can encode others"
		if len(bad) == n {
			advice = "the autoencoder is damaged, or its precision is too narrow"
		}
	}
	switch {
	case len(bad) == 0:
		return ""
	case len(bad) == n:
		return fmt.Sprintf("the latents of %s %s are not finite numbers: %s (they are all %d of the batch)", what,
			some(bad, 8), advice, n)
	}
	return fmt.Sprintf("the latents of %s %s are not finite numbers: %s (those of the other %d of the batch are)",
		what, some(bad, 8), advice, n-len(bad))
}

// sampleName is what people know a sample by.
func (r *runner) sampleName(id int) string {
	if p, ok := r.source.(samples.PictureSource); ok {
		return p.PictureName(id)
	}
	return fmt.Sprintf("sample %d", id)
}
