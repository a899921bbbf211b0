package sampling

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
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

// A batch has the bytes that it has among all, whichever others are drawn and in which order.
func TestSome(t *testing.T) {
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
	for _, order := range [][]int{{0, 1, 2}, {1, 2}, {2}, {2, 0, 1}, {}} {
		at, given := 0, 0
		for b, err := range p.Some(context.Background(), r, inOrder(order, &given)) {
			if err != nil {
				t.Fatal(err)
			}
			first := 3 * order[at]
			if n := b.Len(); b.First != first || n != min(3, 8-first) ||
				!bytes.Equal(b.Pix, whole.Pix[first*size:(first+n)*size]) {
				t.Errorf("%v: %d pictures from %d on are others, or not from %d on", order, n, b.First, first)
			}
			if at++; given > at+1 {
				t.Errorf("%v: %d batches were begun before %d were used", order, given, at)
			}
		}
		if at != len(order) {
			t.Errorf("of batches %v came %d", order, at)
		}
	}
	given := 0
	for _, err := range p.Some(context.Background(), r, inOrder([]int{3}, &given)) {
		if err == nil || !strings.Contains(err.Error(), "batch 3: the request has 3") {
			t.Errorf("a batch that is not there: %v", err)
		}
	}
	// Who waits for a batch stops with who uses them.
	given = 0
	waits := func(ctx context.Context) (int, bool, error) {
		if given++; given > 2 {
			<-ctx.Done()
			return 0, false, context.Cause(ctx)
		}
		return given - 1, true, nil
	}
	for range p.Some(context.Background(), r, waits) {
		break
	}
	n := 0
	for range p.Batches(context.Background(), r) {
		if n++; n == 2 {
			break
		}
	}
}

// inOrder gives [Pipeline.Some] the numbers of a list, and counts them.
func inOrder(list []int, given *int) func(context.Context) (int, bool, error) {
	return func(context.Context) (int, bool, error) {
		if *given == len(list) {
			return 0, false, nil
		}
		*given++
		return list[*given-1], true, nil
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
	draw := func(ctx context.Context, aside bool, use func(Batch)) error {
		d, err := newDrawing(p.model, r)
		if err != nil {
			t.Fatal(err)
		}
		d.decodeAside = aside
		return p.draw(ctx, d, use)
	}
	var pix [2][]byte
	for i := range pix {
		if err := draw(t.Context(), i == 1, func(b Batch) { pix[i] = append(pix[i], b.Pix...) }); err != nil {
			t.Fatal(err)
		}
	}
	if len(pix[0]) != 8*16*16*3 || !bytes.Equal(pix[0], pix[1]) {
		t.Errorf("%d bytes of pictures decoded aside are not the %d of those in turn", len(pix[1]), len(pix[0]))
	}
	live, why := torch.Live(), errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	n := 0
	err = draw(ctx, true, func(Batch) {
		if n++; n == 2 {
			cancel(why)
		}
	})
	if err != why || n > 3 {
		t.Errorf("cancelled after two batches: error %v after %d", err, n)
	}
	p.info.ScalingFactor = 0 // latents without end, which no decoder makes pictures of
	if err = draw(t.Context(), true, func(Batch) {}); err == nil || !strings.Contains(err.Error(), "finite") {
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

// Pictures that were used are forgotten: memory does not grow with their number.
func TestBatchesForget(t *testing.T) {
	vaeDir, _ := newVAE(t, 4, 1)
	p, err := Open(torchtest.Device(t), newCheckpoint(t, func(*dit.Info) {}), Options{VAE: vaeDir})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	n := 2000
	if os.Getenv("DITRUN_SOAK") != "" {
		n = 20000
	}
	const size, few = 16 * 16 * 3, 500
	r := Request{Labels: BalancedLabels(10, n), Steps: "1", BatchSize: 100}
	var heap [2]uint64
	var live [2]int64
	at := 0
	for b, err := range p.Batches(t.Context(), r) {
		if err != nil {
			t.Fatal(err)
		}
		if at += b.Len(); at == few || at == n-100 { // the end of drawing frees more
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			i := 0
			if at > few {
				i = 1
			}
			heap[i], live[i] = m.HeapAlloc, torch.Live()
		}
	}
	grown, passed := int64(heap[1])-int64(heap[0]), int64(size*(n-100-few))
	t.Logf("%d pictures: the heap grew by %d bytes while %d of pixels passed", n, grown, passed)
	if grown > passed/4 {
		t.Errorf("the heap grew by %d bytes while %d of pixels passed", grown, passed)
	}
	if most := live[0] + 200; live[1] > most { // a step is under way
		t.Errorf("%d tensors live, %d before", live[1], live[0])
	}
}
