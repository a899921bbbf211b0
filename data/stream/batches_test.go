package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/latents/latentstest"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/philox"
)

func openTest(t testing.TB, n int) *latents.Set {
	t.Helper()
	l, err := latents.Open(latentstest.Make(t, latentstest.Plan(n)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// collect runs the iterator to its end and copies the batches.
func collect(t testing.TB, l *latents.Set, o Options) []Batch {
	t.Helper()
	var all []Batch
	for b, err := range Batches(context.Background(), l, o) {
		if err != nil {
			t.Fatal(err)
		}
		c := *b
		c.IDs, c.Labels, c.Moments, c.WaitSeconds = slices.Clone(b.IDs), slices.Clone(b.Labels),
			slices.Clone(b.Moments), 0
		all = append(all, c)
	}
	return all
}

// decoded are moments as numbers.
func decoded(l *latents.Set, stored []byte) (out []float32) {
	for ; len(stored) > 0; stored = stored[l.Manifest().DType.Size():] {
		if l.Manifest().DType.Size() == 2 {
			out = append(out, checkpoint.FromFloat16(binary.LittleEndian.Uint16(stored)))
		} else {
			out = append(out, math.Float32frombits(binary.LittleEndian.Uint32(stored)))
		}
	}
	return out
}

func equalBatch(a, b Batch) bool {
	return a.Step == b.Step && a.Epoch == b.Epoch && slices.Equal(a.IDs, b.IDs) && slices.Equal(a.Labels, b.Labels) &&
		slices.Equal(a.Moments, b.Moments)
}

func TestBatches(t *testing.T) {
	l := openTest(t, 23)
	o := Options{Seed: 7, GlobalBatch: 4, Epochs: 3, FlipProb: 0.5}
	all := collect(t, l, o)
	if len(all) != 15 {
		t.Fatalf("%d batches, want 3 epochs of 5", len(all))
	}
	flips := 0
	for s, b := range all {
		order := Permutation(7, s/5, 23)
		if b.Step != s || b.Epoch != s/5 || !slices.Equal(b.IDs, order[s%5*4:s%5*4+4]) {
			t.Errorf("step %d: batch %d of epoch %d with %v", s, b.Step, b.Epoch, b.IDs)
		}
		for slot, id := range b.IDs {
			flip := philox.Uniform(7, philox.TagFlip, 0, uint64(4*s+slot)) < 0.5
			if flip {
				flips++
			}
			if b.Labels[slot] != int64(id%3) {
				t.Errorf("step %d slot %d: label %d", s, slot, b.Labels[slot])
			}
			for j, v := range decoded(l, b.Moments)[slot*36 : (slot+1)*36] {
				if want := latentstest.Moment(id, j, flip); v != want {
					t.Fatalf("step %d slot %d moment %d: %v, want %v", s, slot, j, v, want)
				}
			}
		}
	}
	if flips == 0 || flips == 60 {
		t.Errorf("%d of 60 are mirrored", flips)
	}
	// Each id at most once an epoch.
	for e := range 3 {
		seen := map[int]bool{}
		for _, b := range all[5*e : 5*e+5] {
			for _, id := range b.IDs {
				if seen[id] {
					t.Errorf("epoch %d: id %d twice", e, id)
				}
				seen[id] = true
			}
		}
	}
	// From any step and with any number of workers the stream is the same.
	for start := range 15 {
		for _, workers := range []int{1, 3, 8} {
			p := o
			p.StartStep, p.Workers = start, workers
			got := collect(t, l, p)
			if len(got) != 15-start {
				t.Fatalf("from step %d: %d batches", start, len(got))
			}
			for i, b := range got {
				if !equalBatch(b, all[start+i]) {
					t.Fatalf("from step %d with %d workers: step %d differs", start, workers, start+i)
				}
			}
		}
	}
	o.MaxSteps, o.Epochs = 7, 0
	if n := len(collect(t, l, o)); n != 7 {
		t.Errorf("%d batches, want 7", n)
	}
	o.MaxSteps, o.Epochs = 7, 1
	if n := len(collect(t, l, o)); n != 5 {
		t.Errorf("%d batches, want 5", n)
	}
	o.MaxSteps, o.StartStep = 7, 9
	if n := len(collect(t, l, o)); n != 0 {
		t.Errorf("%d batches after the last step", n)
	}
}

// Another batch size only cuts the same order into other pieces.
func TestBatchesElastic(t *testing.T) {
	l := openTest(t, 24)
	flat := func(batch int) (ids []int) {
		for _, b := range collect(t, l, Options{Seed: 1, GlobalBatch: batch, Epochs: 2}) {
			ids = append(ids, b.IDs...)
		}
		return ids
	}
	want := slices.Concat(Permutation(1, 0, 24), Permutation(1, 1, 24))
	for _, batch := range []int{1, 2, 3, 4, 6, 8, 12, 24} {
		if got := flat(batch); !slices.Equal(got, want) {
			t.Errorf("batch %d: another order", batch)
		}
	}
}

// However many processes and parts share a batch, each sample has its place, view and numbers.
func TestBatchesShared(t *testing.T) {
	l := openTest(t, 50)
	o := Options{Seed: 3, GlobalBatch: 12, Epochs: 2, FlipProb: 0.5}
	want := collect(t, l, o)
	n := l.RecordBytes()
	for _, share := range []Share{{World: 1, MicroBatches: 3}, {World: 2}, {World: 3, MicroBatches: 2},
		{World: 4, MicroBatches: 3}, {World: 2, Offset: 3}} {
		seen := 0
		for rank := range share.World {
			share.Rank = rank
			o.Share = share
			for _, b := range collect(t, l, o) {
				if b.Batch != b.Step+share.Offset {
					t.Fatalf("%+v: batch %d in step %d", share, b.Batch, b.Step)
				}
				if b.Batch >= len(want) { // the first run ended before
					seen += len(b.IDs)
					continue
				}
				w, to := want[b.Batch], b.Slot+len(b.IDs)
				if b.Epoch != w.Epoch || !slices.Equal(b.IDs, w.IDs[b.Slot:to]) ||
					!slices.Equal(b.Labels, w.Labels[b.Slot:to]) || !slices.Equal(b.Moments, w.Moments[b.Slot*n:to*n]) {
					t.Fatalf("%+v: part at %+v differs", share, b.Position)
				}
				seen += len(b.IDs)
			}
		}
		if total := len(want) * 12; seen != total {
			t.Errorf("%+v: %d samples, want %d", share, seen, total)
		}
	}
}

// TestRecordsAndStored: the numbers of records and views, taken to what ReadStored gave, are the moments of
// Batches; in block order too, however processes share it.
func TestRecordsAndStored(t *testing.T) {
	l := openTest(t, 50)
	size := l.RecordBytes()
	var stored [2][]byte
	for v := range stored {
		stored[v] = make([]byte, 50*size)
		for off := 0; off < len(stored[v]); off += 1000 { // across records and shards
			if err := l.ReadStored(stored[v][off:min(off+1000, len(stored[v]))], v == 1, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	o := Options{Seed: 3, GlobalBatch: 12, Epochs: 2, FlipProb: 0.5, Order: BlockOrder}
	want := collect(t, l, o)
	shuffled := o
	shuffled.Order = ""
	if equalBatch(want[0], collect(t, l, shuffled)[0]) {
		t.Error("block order is the other order")
	}
	o.Records = true
	for rank := range 2 {
		o.Share = Share{World: 2, Rank: rank}
		k := 0
		for b, err := range Batches(t.Context(), l, o) {
			if err != nil {
				t.Fatal(err)
			}
			if b.Moments != nil {
				t.Fatal("moments were read")
			}
			for i, record := range b.Records {
				at := b.Slot + i
				view := 0
				if b.Mirrored[i] {
					view = 1
				}
				got := stored[view][record*size : (record+1)*size]
				if b.IDs[i] != want[k].IDs[at] || b.Labels[i] != want[k].Labels[at] ||
					!slices.Equal(got, want[k].Moments[at*size:(at+1)*size]) {
					t.Fatalf("rank %d, step %d: sample %d differs", rank, b.Step, i)
				}
			}
			k++
		}
		if k != len(want) {
			t.Errorf("rank %d: %d batches, want %d", rank, k, len(want))
		}
	}
	for _, c := range []struct {
		n    int
		off  int64
		flip bool
	}{{10, -1, false}, {10, int64(50*size) - 9, false}} {
		if err := l.ReadStored(make([]byte, c.n), c.flip, c.off); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

func TestBatchesRefuse(t *testing.T) {
	l := openTest(t, 5)
	p := latentstest.Plan(5)
	p.Flip = false
	plain, err := latents.Open(latentstest.Make(t, p))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for _, c := range []struct {
		l    *latents.Set
		o    Options
		want string
	}{
		{l, Options{}, "batch size 0: want at least 1"},
		{l, Options{GlobalBatch: 6}, "batch size 6 is larger than the data set of 5 samples"},
		{l, Options{GlobalBatch: 1, StartStep: -1}, "none negative"},
		{l, Options{GlobalBatch: 1, FlipProb: 2}, "flip probability 2"},
		{l, Options{GlobalBatch: 4, Share: Share{World: 3}},
			"batch size 4 is not divisible by 3 processes times 1 micro batch"},
		{l, Options{GlobalBatch: 4, Share: Share{World: 2, Rank: 2}}, "rank 2 of 2"},
		{l, Options{GlobalBatch: 1, Order: "sorted"}, `order "sorted": want shuffle or block`},
		{plain, Options{GlobalBatch: 1, FlipProb: 0.5}, "no mirrored latents in this set"},
	} {
		n := 0
		for _, err := range Batches(context.Background(), c.l, c.o) {
			if n++; err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		}
		if n != 1 {
			t.Errorf("%d items, want one error %q", n, c.want)
		}
	}
}

// memory is a source of test pictures; some are bad.
type memory struct {
	n     int
	bad   map[int]func() (*picture.Image, error)
	delay bool
}

func (m memory) Len() int                    { return m.n }
func (m memory) Classes() []string           { return []string{"a", "b"} }
func (m memory) Sample(i int) catalog.Sample { return catalog.Sample{Name: "x", Label: i % 2} }
func (m memory) Order() string               { return "label" }
func (m memory) Hash() string                { return "h" }
func (m memory) Close() error                { return nil }
func (m memory) Notes() []string             { return nil }
func (m memory) Image(i int) (*picture.Image, error) {
	if f := m.bad[i]; f != nil {
		return f()
	}
	if m.delay { // so that later pictures are often ready first
		time.Sleep(time.Duration((m.n-i)%5) * 200 * time.Microsecond)
	}
	return datatest.Pattern(8+i, 9), nil
}

func TestImageBatches(t *testing.T) {
	src := memory{n: 23, delay: true}
	crop := func(i int, flip bool) []uint8 {
		img, err := picture.CenterCrop(datatest.Pattern(8+i, 9), picture.Square(8))
		if err != nil {
			t.Fatal(err)
		}
		if flip {
			picture.Mirror(img.Pix, picture.Size{Height: img.H, Width: img.W})
		}
		return img.Pix
	}
	o := ImageOptions{Size: picture.Square(8), Batch: 5, Seed: 3, FlipProb: 0.5, StartStep: 2, Epochs: 2, Workers: 4}
	s := o.StartStep
	for b, err := range Images(context.Background(), src, o) {
		if err != nil {
			t.Fatal(err)
		}
		order := Permutation(3, s/4, 23)[s%4*5:][:5]
		if b.Step != s || b.Epoch != s/4 || !slices.Equal(b.IDs, order) {
			t.Errorf("step %d: batch %d, %v, want %v", s, b.Step, b.IDs, order)
		}
		for slot, id := range b.IDs {
			flip := philox.Uniform(3, philox.TagFlip, 0, uint64(5*s+slot)) < 0.5
			if b.Labels[slot] != int64(id%2) || !bytes.Equal(b.Pix[slot*192:(slot+1)*192], crop(id, flip)) {
				t.Errorf("step %d slot %d: wrong picture or label", s, slot)
			}
		}
		s++
	}
	if s != 8 {
		t.Errorf("ended at step %d, want 8", s)
	}
	at := 4
	for b, err := range ImageRange(context.Background(), src, 4, 17, o) {
		if err != nil {
			t.Fatal(err)
		}
		for slot, id := range b.IDs {
			if id != at || b.Labels[slot] != int64(at%2) ||
				!bytes.Equal(b.Pix[slot*192:(slot+1)*192], crop(id, false)) {
				t.Errorf("picture %d: got %d", at, id)
			}
			at++
		}
		if len(b.Pix) != len(b.IDs)*192 || len(b.Labels) != len(b.IDs) {
			t.Errorf("batch of %d with %d labels and %d samples", len(b.IDs), len(b.Labels), len(b.Pix))
		}
	}
	if at != 17 {
		t.Errorf("ended at picture %d, want 17", at)
	}
}

func TestImageErrors(t *testing.T) {
	boom := errors.New("load x/7.png: PNG: bad")
	for name, c := range map[string]struct {
		bad  func() (*picture.Image, error)
		want string
	}{
		"error": {func() (*picture.Image, error) { return nil, boom }, "load x/7.png: PNG: bad"},
		"panic": {func() (*picture.Image, error) { panic("boom") }, "data worker: panic: boom"},
		"size": {func() (*picture.Image, error) { return &picture.Image{W: 3, H: 3}, nil },
			`x of class "b": crop: 0 samples`},
	} {
		src := memory{n: 20, bad: map[int]func() (*picture.Image, error){7: c.bad}}
		got := 0
		var last error
		for b, err := range ImageRange(context.Background(), src, 0, 20,
			ImageOptions{Size: picture.Square(4), Batch: 2, Workers: 3}) {
			if last = err; err == nil {
				got += len(b.IDs)
			}
		}
		// The batches before the bad one are delivered whatever the timing.
		if got != 6 || last == nil || !strings.Contains(last.Error(), c.want) {
			t.Errorf("%s: %d pictures, then %v, want 6 and %q", name, got, last, c.want)
		}
	}
	for _, o := range []ImageOptions{{Size: picture.Size{}, Batch: 1}, {Size: picture.Square(4), Batch: 0},
		{Size: picture.Square(4), Batch: 30}} {
		var last error
		for _, err := range Images(context.Background(), memory{n: 20}, o) {
			last = err
		}
		if last == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

// Whichever way an iteration ends, its goroutines end with it.
func TestNoGoroutineLeak(t *testing.T) {
	l := openTest(t, 40)
	before := runtime.NumGoroutine()
	stop := func(what string) {
		t.Helper()
		n := 0
		for range 100 { // a goroutine that was waited for may still be on its way out
			if n = runtime.NumGoroutine(); n <= before {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Errorf("after %s: %d goroutines, %d before", what, n, before)
	}
	o := Options{GlobalBatch: 2, Workers: 4}
	for range 20 {
		for range Batches(context.Background(), l, o) {
			break
		}
	}
	stop("a break")
	for range Batches(context.Background(), l, Options{GlobalBatch: 2, Workers: 4, Epochs: 2}) {
	}
	stop("the end")
	blocks := Options{GlobalBatch: 2, Workers: 4, Order: BlockOrder, Epochs: 2}
	for range Batches(context.Background(), l, blocks) {
	}
	for range 20 {
		for range Batches(context.Background(), l, blocks) {
			break
		}
	}
	stop("block order")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := 0
	var last error
	for b, err := range Batches(ctx, l, o) {
		if last = err; err != nil {
			break
		}
		if n++; b.Step == 3 {
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) || n != 4 {
		t.Errorf("cancelled after %d batches: error %v", n, last)
	}
	stop("cancelling")
	func() {
		defer func() { _ = recover() }()
		for range Batches(context.Background(), l, o) {
			panic("in the loop")
		}
	}()
	stop("a panic in the loop")
	src := memory{n: 50, bad: map[int]func() (*picture.Image,
		error){9: func() (*picture.Image, error) { panic("boom") }}}
	for range ImageRange(context.Background(), src, 0, 50,
		ImageOptions{Size: picture.Square(4), Batch: 2, Workers: 4}) {
	}
	stop("an error")
}

// One record of DiT at 256 pixels is 8 x 32 x 32 moments.
func BenchmarkBatches(b *testing.B) {
	p := latentstest.Plan(512)
	p.Channels, p.Height, p.Width, p.ShardSize, p.DType = 4, 32, 32, 256, checkpoint.F16
	dir := latentstest.Make(b, p)
	l, err := latents.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	const batch = 64
	records := 0
	b.SetBytes(batch * int64(2*p.Channels*p.Height*p.Width*p.DType.Size()))
	for _, err := range Batches(context.Background(), l, Options{GlobalBatch: batch, FlipProb: 0.5}) {
		if err != nil {
			b.Fatal(err)
		}
		if !b.Loop() {
			break
		}
		records += batch
	}
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
}
