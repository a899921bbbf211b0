package sampling

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// What comes after whole batches equals, byte for byte, what would have come.
func TestBatchesContinue(t *testing.T) {
	vaeDir, v := newVAE(t, 4, 1)
	ckpt := newCheckpoint(t, func(i *dit.Info) { i.VAE = v.WeightsSHA256() })
	p, err := Open(torchtest.Device(t), filepath.Dir(ckpt), Options{VAE: vaeDir})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if h, w := p.PictureSize(); h != 16 || w != 16 {
		t.Errorf("pictures of %d x %d, want 16 x 16", h, w)
	}
	r := Request{Labels: []int{3, 1, 4, 1, 5, 9, 2, 6}, Seed: 9, CFGScale: 4, Steps: "3", BatchSize: 3}
	whole, err := p.Sample(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	const size = 16 * 16 * 3
	for _, done := range []int{0, 3, 6} {
		at := done
		for b, err := range p.Batches(context.Background(), r.After(done)) {
			if err != nil {
				t.Fatal(err)
			}
			if n := len(b.Pix) / size; n != min(3, 8-at) || !bytes.Equal(b.Pix, whole.Pix[at*size:(at+n)*size]) {
				t.Errorf("%d pictures after the first %d are others", n, at)
			}
			at += len(b.Pix) / size
		}
		if at != 8 {
			t.Errorf("after %d pictures came %d", done, at-done)
		}
	}
	n := 0
	for range p.Batches(context.Background(), r) {
		if n++; n == 2 {
			break
		}
	}
}

// Pictures that are decoded while others are drawn are the same ones, in their order, and an error of either ends both.
func TestDecodedAside(t *testing.T) {
	vaeDir, _ := newVAE(t, 4, 1)
	p, err := Open(torchtest.Device(t), newCheckpoint(t, func(*dit.Info) {}), Options{VAE: vaeDir})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r := Request{Labels: []int{3, 1, 4, 1, 5, 9, 2, 6}, Seed: 9, CFGScale: 4, Steps: "3", BatchSize: 1}
	draw := func(ctx context.Context, aside bool, use func(Pictures)) error {
		d, err := newDrawing(p.model, r)
		if err != nil {
			t.Fatal(err)
		}
		d.decodeAside = aside
		return p.draw(ctx, d, use)
	}
	var pix [2][]byte
	for i := range pix {
		if err := draw(t.Context(), i == 1, func(b Pictures) { pix[i] = append(pix[i], b.Pix...) }); err != nil {
			t.Fatal(err)
		}
	}
	if len(pix[0]) != 8*16*16*3 || !bytes.Equal(pix[0], pix[1]) {
		t.Errorf("%d bytes of pictures decoded aside are not the %d of those in turn", len(pix[1]), len(pix[0]))
	}
	live, why := torch.Live(), errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	n := 0
	err = draw(ctx, true, func(Pictures) {
		if n++; n == 2 {
			cancel(why)
		}
	})
	if err != why || n > 3 {
		t.Errorf("cancelled after two batches: error %v after %d", err, n)
	}
	p.info.ScalingFactor = 0 // latents without end, which no decoder makes pictures of
	if err = draw(t.Context(), true, func(Pictures) {}); err == nil || !strings.Contains(err.Error(), "finite") {
		t.Errorf("latents that cannot be decoded: error %v", err)
	}
	if n := torch.Live(); n != live {
		t.Errorf("%d tensors live, %d before", n, live)
	}
}

// Whoever works on a batch holds no place of torch.Run: more requests than there are places are drawn at once, while
// those who use their pictures compute.
func TestBatchesAtOnce(t *testing.T) {
	vaeDir, _ := newVAE(t, 4, 1)
	p, err := Open(torchtest.Device(t), newCheckpoint(t, func(*dit.Info) {}), Options{VAE: vaeDir})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	const requests = 12 // torch.Run has four places
	for _, aside := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // of those who wait for ever
		defer cancel()
		var first, all sync.WaitGroup
		first.Add(requests)
		for range requests {
			all.Go(func() {
				d, err := newDrawing(p.model, Request{Labels: []int{3, 1, 4}, CFGScale: 4, Steps: "2", BatchSize: 1})
				if err != nil {
					t.Error(err)
					return
				}
				d.decodeAside = aside
				n := 0
				for _, err := range p.batches(ctx, d) {
					if err != nil {
						t.Errorf("aside %v: %v", aside, err)
						return
					}
					if n++; n == 1 {
						first.Done()
						met := make(chan struct{})
						go func() { first.Wait(); close(met) }()
						select {
						case <-met:
						case <-ctx.Done():
							t.Errorf("aside %v: %d requests did not all get a batch", aside, requests)
							return
						}
					}
					if err := torch.Run(p.Device(), func(s *torch.Scope) error { return nil }); err != nil {
						t.Error(err)
					}
				}
				if n != 3 {
					t.Errorf("aside %v: %d batches", aside, n)
				}
			})
		}
		if all.Wait(); t.Failed() {
			return
		}
	}
}

// Whatever changes a picture changes the key; who draws it does not.
func TestKey(t *testing.T) {
	vaeDir, _ := newVAE(t, 4, 1)
	otherDir, _ := newVAE(t, 4, 2)
	ckpt := newCheckpoint(t, func(*dit.Info) {})
	open := func(ckpt, vae string) *Pipeline {
		p, err := Open(torchtest.Device(t), ckpt, Options{VAE: vae})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	p := open(ckpt, vaeDir)
	base := Request{Labels: []int{1, 2}, CFGScale: 4, Steps: "3", BatchSize: 2, Seed: 1}
	key := func(p *Pipeline, r Request) string {
		k, err := p.Key(r)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	same := base
	same.Progress, same.Solver, same.Guided = func(int, int) {}, "ddpm", dit.GuideThree
	same.Labels = slices.Clone(base.Labels)
	if key(p, same) != key(open(ckpt, vaeDir), base) {
		t.Error("one request has two keys")
	}
	keys := map[string]string{key(p, base): "base"}
	add := func(name, k string) {
		if other, ok := keys[k]; ok {
			t.Errorf("%s has the key of %s", name, other)
		}
		keys[k] = name
	}
	for name, change := range map[string]func(*Request){
		"labels": func(r *Request) { r.Labels = []int{2, 1} }, "more": func(r *Request) { r.Labels = []int{1, 2, 2} },
		"scale": func(r *Request) { r.CFGScale = 2 }, "channels": func(r *Request) { r.Guided = dit.GuideAll },
		"steps": func(r *Request) { r.Steps = "4" }, "solver": func(r *Request) { r.Solver = "ddim" },
		"seed": func(r *Request) { r.Seed = 2 },
		"rng":  func(r *Request) { r.RNG = "torch" }, "batch": func(r *Request) { r.BatchSize = 1 },
		"first": func(r *Request) { r.First = 2 },
	} {
		r := base
		change(&r)
		add(name, key(p, r))
	}
	add("autoencoder", key(open(ckpt, otherDir), base))
	for _, precision := range []nn.Precision{nn.TF32, nn.BF16} {
		p, err := Open(torchtest.Device(t), ckpt, Options{VAE: vaeDir, Precision: precision})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if p.Precision() != open(ckpt, vaeDir).Precision() {
			add(string(precision), key(p, base))
		}
	}
	add("scaling", key(open(newCheckpoint(t, func(i *dit.Info) { i.ScalingFactor = 0.25 }), vaeDir), base))
}
