package encode

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
	"github.com/ditrun/ditrun/vae"
)

// TestMain computes on one thread, for the reason that package vae's tests do.
func TestMain(m *testing.M) {
	torch.SetNumThreads(1)
	os.Exit(m.Run())
}

const size = 16

// pictures is a source of n square pictures of two classes; one may be lost and some bad.
type pictures struct {
	n      int
	broken int // 0 for none
	bad    []int
	names  []string // of two classes
}

func (p pictures) Len() int { return p.n }
func (p pictures) Classes() []string {
	if p.names != nil {
		return p.names
	}
	return []string{"cat", "dog"}
}
func (p pictures) Order() string   { return "test" }
func (p pictures) Hash() string    { return fmt.Sprintf("pictures %d", p.n) }
func (p pictures) Close() error    { return nil }
func (p pictures) Notes() []string { return nil }
func (p pictures) Sample(i int) catalog.Sample {
	return catalog.Sample{Name: fmt.Sprint(i), Label: 2 * i / p.n}
}

func (p pictures) Image(i int) (*picture.Image, error) {
	if i > 0 && i == p.broken {
		return nil, fmt.Errorf("picture %d: not a picture", i)
	}
	if slices.Contains(p.bad, i) {
		return nil, &catalog.BadPicture{Path: fmt.Sprintf("pictures/%d.jpg", i), Err: errors.New("torn")}
	}
	img := &picture.Image{W: size, H: size, Pix: make([]uint8, size*size*3)}
	for k := range img.Pix {
		img.Pix[k] = uint8(k*(i+3) + k/17)
	}
	return img, nil
}

func openVAE(t *testing.T, name string) *vae.AutoencoderKL {
	t.Helper()
	m, err := vae.Open(filepath.Join("..", "testdata", name), torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func testOptions(t *testing.T, dir string) Options {
	return Options{Source: pictures{n: 21}, VAE: openVAE(t, "tiny"), VAEName: "some/where/tiny", OutDir: dir,
		ImageSize: picture.Square(size), BatchSize: 3, ShardSize: 8, Tool: "test", Precision: "fp32"}
}

// TestDefaults: what is left open depends on the autoencoder and where it computes; what is set stays.
func TestDefaults(t *testing.T) {
	m := openVAE(t, "tiny")
	workers, precision := 1, nn.FP32
	if m.Device().IsCUDA() {
		workers, precision = max(1, runtime.GOMAXPROCS(0)/2-1), nn.TF32
	}
	o := Options{VAE: m, LocalWorld: 2}.WithDefaults()
	if o.ImageSize != picture.Square(m.Config().SampleSize) || o.NumWorkers != workers || o.Precision != precision ||
		o.BatchSize != 32 || o.Flip != "both" || o.DType != "fp16" || o.OnError != "fail" {
		t.Errorf("defaults %+v", o)
	}
	o = Options{VAE: m, ImageSize: picture.Square(4), NumWorkers: 3, Precision: "bf16"}.WithDefaults()
	if o.ImageSize != picture.Square(4) || o.NumWorkers != 3 || o.Precision != "bf16" {
		t.Errorf("changed to %+v", o)
	}
}

func TestLatentsEqualDirectEncoding(t *testing.T) {
	for _, crop := range []picture.Size{picture.Square(size), {Height: size, Width: 2 * size},
		{Height: size + 4, Width: size - 4}} {
		t.Run(crop.String(), func(t *testing.T) { testDirectEncoding(t, crop) })
	}
}

func testDirectEncoding(t *testing.T, size picture.Size) {
	o := testOptions(t, t.TempDir())
	o.DType, o.ImageSize = "fp32", size
	var seen []int
	o.OnProgress = func(p Progress) { seen = append(seen, p.Done, p.Total) }
	manifest, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if manifest.ImageSize != size || manifest.Height != size.Height/2 || manifest.Width != size.Width/2 {
		t.Errorf("the manifest says %s pixels, latents of %d x %d", manifest.ImageSize, manifest.Height, manifest.Width)
	}
	if v := manifest.VAE; v.Name != "tiny" || v.SHA256 != o.VAE.WeightsSHA256() || v.ScalingFactor != 0.18215 {
		t.Errorf("the manifest names VAE %+v", v)
	}
	// Shards of 8, 8 and 5 pictures in batches that do not cross them.
	if want := []int{0, 21, 3, 21, 6, 21, 8, 21, 11, 21, 14, 21, 16, 21, 19, 21, 21, 21}; len(seen) != len(want) ||
		!slices.Equal(seen[len(seen)-2:], want[len(want)-2:]) {
		t.Errorf("progress %v, want as many steps as %v", seen, want)
	}
	latents, err := latents.Open(o.OutDir)
	if err != nil {
		t.Fatal(err)
	}
	defer latents.Close()
	if latents.Len() != 21 {
		t.Fatalf("%d latents, want 21", latents.Len())
	}
	record := make([]float32, latents.RecordLen())
	torchtest.Run(t, func(s *torch.Scope) error {
		s = s.NoGrad()
		for i := range latents.Len() {
			img, err := o.Source.Image(i)
			if err != nil {
				return err
			}
			if latents.Label(i) != int64(o.Source.Sample(i).Label) {
				t.Errorf("label of %d is %d", i, latents.Label(i))
			}
			cropped, err := picture.CenterCrop(img, size)
			if err != nil {
				return err
			}
			for _, flip := range []bool{false, true} {
				if flip {
					picture.Mirror(cropped.Pix, picture.Size{Height: cropped.H, Width: cropped.W})
				}
				if err := latents.Read(i, flip, record); err != nil {
					return err
				}
				mean, logvar := o.VAE.Encode(s, vae.Pixels(s, cropped.Pix, 1, size.Height, size.Width))
				want := s.Cat([]*torch.Tensor{mean, logvar}, 1)
				// A batch of one may round differently.
				if e := torchtest.Relative(s, torch.From(s, record, want.Shape()...), want); !(e < 1e-5) {
					t.Errorf("picture %d, mirrored %v: relative error %.2g", i, flip, e)
				}
			}
		}
		return nil
	})
}

// The whole road, from picture files to shards, against PIL's pictures, ADM's crop and diffusers' AutoencoderKL
// (bench/parity/check_latents.py --golden). The difference is that of float32 sums in another order.
func TestLatentsEqualDiffusers(t *testing.T) {
	src, err := catalog.Open(t.Context(), "testdata/pictures", catalog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	o := testOptions(t, t.TempDir())
	o.Source, o.DType, o.NumWorkers = src, "fp32", 2
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	l, err := latents.Open(o.OutDir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g := torchtest.Open(t, "testdata/latents.safetensors")
	torchtest.Run(t, func(s *torch.Scope) error {
		labels := torch.Data[int64](g.Tensor(s, "labels"))
		if l.Len() != 9 || len(labels) != l.Len() {
			t.Fatalf("%d latents and %d labels, want 9", l.Len(), len(labels))
		}
		moments, flipped := torch.Data[float32](g.Tensor(s, "moments")),
			torch.Data[float32](g.Tensor(s, "moments_flip"))
		n := l.RecordLen()
		record := make([]float32, n)
		for i := range l.Len() {
			if l.Label(i) != labels[i] || l.ID(i) != i {
				t.Errorf("record %d has id %d and label %d, want label %d", i, l.ID(i), l.Label(i), labels[i])
			}
			for k, want := range [][]float32{moments[i*n : (i+1)*n], flipped[i*n : (i+1)*n]} {
				if err := l.Read(i, k == 1, record); err != nil {
					return err
				}
				for j, v := range record {
					if d := float64(v - want[j]); !(math.Abs(d) < 1e-5) {
						t.Fatalf("%s, mirrored %v: moment %d is %v, want %v", src.Sample(i).Name, k == 1, j, v, want[j])
					}
				}
			}
		}
		return nil
	})
}

// files returns the contents of dir by name.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, e := range entries {
		if out[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestStoppedRunContinuesToTheSameBytes(t *testing.T) {
	whole := testOptions(t, t.TempDir())
	if _, err := Run(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	want := files(t, whole.OutDir)
	if len(want) != 4 {
		t.Fatalf("%d files, want 3 shards and the manifest", len(want))
	}
	stopped := testOptions(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	last := 0
	stopped.OnProgress = func(p Progress) {
		if last = p.Done; p.Done >= 12 { // in the second shard that is made
			cancel()
		}
	}
	live := torch.Live()
	if _, err := Run(ctx, stopped); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want context.Canceled", err)
	}
	if n := torch.Live(); n != live {
		t.Errorf("%d tensors leaked", n-live)
	}
	partial := files(t, stopped.OutDir)
	if len(partial) != 1 {
		t.Errorf("%d files after the stop, want one whole shard", len(partial))
	}
	for name, b := range partial {
		if !bytes.Equal(b, want[name]) {
			t.Errorf("%s differs after the stop", name)
		}
	}
	var first int
	stopped.OnProgress = func(p Progress) {
		if first == 0 {
			first = p.Done
		}
		last = p.Done
	}
	if _, err := Run(t.Context(), stopped); err != nil {
		t.Fatal(err)
	}
	if (first != 8 && first != 5) || last != 21 {
		t.Errorf("the second run went from %d to %d, want from one shard to 21", first, last)
	}
	got := files(t, stopped.OutDir)
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
	for name := range want {
		if !bytes.Equal(got[name], want[name]) {
			t.Errorf("%s differs from that of a run that was not stopped", name)
		}
	}
	// Nothing is left to do, and nothing changes.
	if _, err := Run(t.Context(), stopped); err != nil {
		t.Fatal(err)
	}
}

// What the host does with a batch while the device has the next one changes nothing in the shards, also where pictures
// are bad and where the source fails.
func TestBehind(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"whole":       func(*Options) {},
		"one view":    func(o *Options) { o.Flip = "none" },
		"float16":     func(o *Options) { o.Precision = nn.FP16 },
		"bad skipped": func(o *Options) { o.Source, o.OnError = pictures{n: 21, bad: []int{2, 9, 10, 11, 20}}, "skip" },
		"bad":         func(o *Options) { o.Source = pictures{n: 21, bad: []int{9}} },
		"broken":      func(o *Options) { o.Source = pictures{n: 21, broken: 13} },
	} {
		made := func(behind bool) (contents map[string][]byte, seen []Progress, message string) {
			o := testOptions(t, t.TempDir())
			change(&o)
			o.behind = behind
			o.OnProgress = func(p Progress) {
				p.WaitShare = 0
				seen = append(seen, p)
			}
			live := torch.Live()
			if _, err := Run(t.Context(), o); err != nil {
				message = err.Error()
			}
			if n := torch.Live(); n != live {
				t.Errorf("%s: %d tensors leaked", name, n-live)
			}
			return files(t, o.OutDir), seen, message
		}
		want, steps, message := made(false)
		got, seen, gotMessage := made(true)
		failed := name == "bad" || name == "broken" // how many shards are written before depends on time
		if gotMessage != message || (message != "") != failed {
			t.Errorf("%s: error %q, want %q", name, gotMessage, message)
		}
		if !failed && (len(got) != len(want) || len(want) == 0) {
			t.Errorf("%s: %d files, want %d", name, len(got), len(want))
		}
		for file, content := range got {
			if other, ok := want[file]; ok && !bytes.Equal(content, other) {
				t.Errorf("%s: %s differs", name, file)
			}
		}
		// In the order of shards that a run of one process takes.
		if !failed && (len(seen) != len(steps) || seen[len(seen)-1] != steps[len(steps)-1]) {
			t.Errorf("%s: progress %v, want %v", name, seen, steps)
		}
	}
}

// TestCounters: a batch goes up once and its moments come back once.
func TestCounters(t *testing.T) {
	o := testOptions(t, t.TempDir())
	before := torch.Counts()
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	got := torch.Counts().Sub(before)
	const batches = 3 + 3 + 2 // of shards of 8, 8 and 5 pictures
	if want := (torch.Traffic{Uploads: batches, ReadBacks: batches, Waits: got.Waits}); got != want ||
		got.Waits > 0 && !o.VAE.Device().IsCUDA() {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestErrors(t *testing.T) {
	change := func(f func(*Options)) Options {
		o := testOptions(t, t.TempDir())
		f(&o)
		return o
	}
	other := testOptions(t, t.TempDir())
	if _, err := Run(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	var unsaved *vae.AutoencoderKL
	torchtest.Run(t, func(s *torch.Scope) (err error) {
		cfg, err := vae.SmallConfig(size, 4, 2)
		if err != nil {
			return err
		}
		unsaved, err = vae.New(s, cfg)
		return err
	})
	defer unsaved.Close()
	for name, tc := range map[string]struct {
		o    Options
		want string
	}{
		"no options":  {Options{}, "Source, VAE, VAEName and OutDir are required"},
		"unsaved VAE": {change(func(o *Options) { o.VAE = unsaved }), "save it first"},
		"image size": {change(func(o *Options) { o.ImageSize = picture.Square(15) }),
			"image-size 15: want a multiple of 2"},
		"flip":       {change(func(o *Options) { o.Flip = "maybe" }), `flip "maybe": want both or none`},
		"batch size": {change(func(o *Options) { o.BatchSize = -1 }), "batch-size -1: want at least 1"},
		"workers":    {change(func(o *Options) { o.NumWorkers = -1 }), "num-workers -1: want at least 1"},
		"shard size": {change(func(o *Options) { o.ShardSize = -1 }), "shard-size -1: want at least 1"},
		"rank":       {change(func(o *Options) { o.Rank, o.World = 2, 2 }), "rank 2 and world 2: want "},
		"resampler": {change(func(o *Options) { o.Resampler = "mine" }),
			`resampler "mine": want pillow-classic, pillow13 or imaging`},
		"precision": {change(func(o *Options) { o.Precision = "int4" }),
			`precision "int4": want fp32, tf32, bf16 or fp16`},
		"on error": {change(func(o *Options) { o.OnError = "cry" }), `on-error "cry": want fail or skip`},
		"lost, skipping": {change(func(o *Options) { o.Source, o.OnError = pictures{n: 21, broken: 13}, "skip" }),
			"picture 13: not a picture"},
		"dtype": {change(func(o *Options) { o.DType = "I64" }), `dtype "I64": want fp16 or fp32`},
		"broken picture": {change(func(o *Options) { o.Source = pictures{n: 21, broken: 13} }),
			"picture 13: not a picture"},
		"another VAE": {change(func(o *Options) {
			o.VAE, o.ImageSize, o.OutDir = openVAE(t, "three"),
				picture.Square(16), other.OutDir
		}),
			"choose another folder"},
		"another precision": {change(func(o *Options) { o.Precision, o.OutDir = nn.BF16, other.OutDir }),
			"made with precision fp32, this plan has bf16"},
		"a file in the way": {change(func(o *Options) { o.OutDir = filepath.Join(other.OutDir, latents.ManifestName) }),
			"not a directory"},
	} {
		live := torch.Live()
		m, err := Run(t.Context(), tc.o)
		if err == nil || m != nil || !strings.Contains(err.Error(), tc.want) ||
			!strings.HasPrefix(err.Error(), "encode latents: ") {
			t.Errorf("%s: error %v, want %q", name, err, tc.want)
		}
		if n := torch.Live(); n != live {
			t.Errorf("%s: %d tensors leaked", name, n-live)
		}
	}
}

func TestWithoutMirroredLatents(t *testing.T) {
	o := testOptions(t, t.TempDir())
	o.Flip = "none"
	m, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if m.Flip || m.DType != checkpoint.F16 {
		t.Errorf("flip %v, dtype %s: want false, F16", m.Flip, m.DType)
	}
}

// Pictures that cannot be decoded: all are named whichever shards they lie in, and the shards without one are kept.
func TestBadPictures(t *testing.T) {
	o := testOptions(t, t.TempDir())
	o.Source = pictures{n: 21, bad: []int{2, 4, 20}} // shards of 8, 8 and 5
	var seen []int
	o.OnBad = func(b catalog.Bad) { seen = append(seen, b.ID) }
	last := Progress{}
	o.OnProgress = func(p Progress) { last = p }
	_, err := Run(t.Context(), o)
	var bad *catalog.BadPicturesError
	if !errors.As(err, &bad) || len(bad.Bad) != 3 ||
		!strings.Contains(err.Error(), "pictures that cannot be decoded: 3\n  pictures/") ||
		!strings.Contains(err.Error(), "/20.jpg: torn") {
		t.Fatalf("error %v", err)
	}
	if slices.Sort(seen); !slices.Equal(seen, []int{2, 4, 20}) || last.Done != 21 {
		t.Errorf("told %v, progress %+v", seen, last)
	}
	if f := files(t, o.OutDir); len(f) != 1 || f["latents-00001-of-00003.safetensors"] == nil {
		t.Errorf("%d files, want the shard without bad pictures", len(f))
	}
	o.OnError = "skip"
	m, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var ids []int
	for _, s := range m.Skipped {
		ids = append(ids, s.ID)
		if s.Reason != fmt.Sprintf("load pictures/%d.jpg: torn", s.ID) || s.Name != fmt.Sprint(s.ID) {
			t.Errorf("skipped %+v", s)
		}
	}
	if !slices.Equal(ids, []int{2, 4, 20}) {
		t.Errorf("skipped %v", ids)
	}
	l, err := latents.Open(o.OutDir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Len() != 18 || l.ID(2) != 3 {
		t.Errorf("%d latents, the third of sample %d; want 18, 3", l.Len(), l.ID(2))
	}
}

// What float16 cannot hold is made again in float32.
func TestFloat16Overflow(t *testing.T) {
	m := openVAE(t, "tiny")
	torchtest.Run(t, func(s *torch.Scope) error {
		w := m.Encoder.ConvIn.Weight
		s.NoGrad().Copy_(w, s.NoGrad().MulScalar(w, 1e7))
		return nil
	})
	dir := t.TempDir()
	if err := m.Save(dir); err != nil {
		t.Fatal(err)
	}
	read := func(precision nn.Precision, want int) []float32 {
		o := testOptions(t, t.TempDir())
		o.VAE, o.Precision, o.DType = m, precision, "fp32"
		o.behind = true // another batch has taken the place of the pictures by then
		overflows := 0
		o.OnProgress = func(p Progress) { overflows = p.Overflows }
		if _, err := Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if overflows != want {
			t.Errorf("%s: %d overflows, want %d", precision, overflows, want)
		}
		l, err := latents.Open(o.OutDir)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		rec := make([]float32, l.RecordLen())
		if err := l.Read(5, true, rec); err != nil {
			t.Fatal(err)
		}
		return rec
	}
	batches := 2 * (3 + 3 + 2) // shards of 8, 8 and 5 in threes, two views
	if a, b := read("fp32", 0), read("fp16", batches); !slices.Equal(a, b) {
		t.Error("the batches made again are not those of float32")
	}
}

// TestAllPicturesBad: where no picture can be decoded nothing is written, whatever is asked for, and all are named; a
// folder that was there stays.
func TestAllPicturesBad(t *testing.T) {
	all := make([]int, 21)
	for i := range all {
		all[i] = i
	}
	check := func(o Options, what string) {
		t.Helper()
		_, err := Run(t.Context(), o)
		var bad *catalog.BadPicturesError
		if !errors.As(err, &bad) || !bad.None() || len(bad.Bad) != 21 {
			t.Fatalf("%s: error %v", what, err)
		}
		want := "none of the 21 pictures can be decoded:\n  pictures/0.jpg: torn\n  pictures/1.jpg: torn\n"
		if !strings.Contains(err.Error(), want) || !strings.HasSuffix(err.Error(), "  and 1 more") {
			t.Errorf("%s: error %v, want %s", what, err, want)
		}
	}
	for _, onError := range []string{"fail", "skip"} {
		o := testOptions(t, filepath.Join(t.TempDir(), "new"))
		o.Source, o.OnError = pictures{n: 21, bad: all}, onError
		check(o, onError)
		if _, err := os.Stat(o.OutDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the folder is there: %v", onError, err)
		}
		o.OutDir = t.TempDir()
		check(o, onError)
		if got := files(t, o.OutDir); len(got) != 0 {
			t.Errorf("%s: %d files are left", onError, len(got))
		}
	}
	// A run that was cut short after all shards had been made is told the same.
	o := testOptions(t, t.TempDir())
	o.Source, o.OnError = pictures{n: 21, bad: all}, "skip"
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	o.OnBad = func(catalog.Bad) {
		if n++; n == 21 {
			cancel()
		}
	}
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want context.Canceled", err)
	}
	if got := files(t, o.OutDir); len(got) < 2 {
		t.Fatalf("%d shards after the stop, want two or three", len(got))
	}
	o.OnBad = nil
	check(o, "continued")
	if got := files(t, o.OutDir); len(got) != 0 {
		t.Errorf("%d files are left", len(got))
	}
}

// TestPreviewPassesOverBadPictures: a neighbour takes the place of a bad picture.
func TestPreviewPassesOverBadPictures(t *testing.T) {
	for _, c := range []struct {
		bad, want []int
	}{
		{nil, []int{0, 5, 10, 15}},
		{[]int{5, 15, 16}, []int{0, 6, 10, 17}},
		{[]int{10, 11, 12, 13, 14}, []int{0, 5, 15}}, // whose neighbours are shown
	} {
		_, ids, err := Preview(t.Context(), pictures{n: 20, bad: c.bad}, 4, picture.Square(8), picture.PillowClassic)
		if err != nil || !slices.Equal(ids, c.want) {
			t.Errorf("bad %v: shows %v, error %v, want %v", c.bad, ids, err, c.want)
		}
	}
	many := make([]int, 1000)
	for i := range many {
		many[i] = i
	}
	pix, ids, err := Preview(t.Context(), pictures{n: 1000, bad: many}, 4, picture.Square(8), picture.PillowClassic)
	if err != nil || len(ids) != 0 || len(pix) != 0 {
		t.Errorf("all bad: shows %v, error %v", ids, err)
	}
	if _, _, err := Preview(t.Context(), pictures{n: 20, broken: 5}, 4, picture.Square(8), ""); err == nil {
		t.Error("a picture that is lost is passed over")
	}
}

// TestPreviewTooLarge: more crops than a sheet holds under their names, which may take two lines, are refused before
// any picture is read.
func TestPreviewTooLarge(t *testing.T) {
	size := picture.Square(256)
	model := openVAE(t, "tiny")
	long := "a long name of a class of pictures, which takes two lines"
	for _, c := range []struct {
		names []string
		n     int
		most  int
	}{{[]string{"cat", "dog"}, 225, 210}, {[]string{long, long + "s"}, 210, 195}, {nil, 1 << 20, 210}} {
		o := Options{Source: pictures{n: c.n, names: c.names, broken: 1}, VAE: model, ImageSize: size,
			OutDir: t.TempDir()}
		_, err := WritePreview(t.Context(), o, c.n)
		if tooMany := (*sheet.TooManyError)(nil); !errors.As(err, &tooMany) || tooMany.N != c.n ||
			tooMany.Most != c.most {
			t.Errorf("%d under %q: %v, want %d", c.n, c.names, err, c.most)
		}
	}
}

// TestOrientedPictures: pictures with an orientation are counted, and the manifest says what became of them.
func TestOrientedPictures(t *testing.T) {
	img := image.NewNRGBA(image.Rect(0, 0, 24, 16))
	for i := range img.Pix {
		img.Pix[i] = uint8(i * 7)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	exif := "MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
	chunk := binary.BigEndian.AppendUint32(nil, uint32(len(exif)))
	chunk = append(chunk, "eXIf"+exif...)
	chunk = binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk[4:]))
	const header = 8 + 25 // signature and IHDR
	turned := slices.Insert(bytes.Clone(b.Bytes()), header, chunk...)
	dir := t.TempDir()
	for name, content := range map[string][]byte{"a/0.png": turned, "a/1.png": turned, "a/2.png": b.Bytes()} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, content, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	var first []*latents.Set
	for _, turn := range []picture.Orientation{picture.AsStored, picture.ByEXIF} {
		src, err := catalog.Open(t.Context(), dir, catalog.Options{Orientation: turn})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		o := testOptions(t, t.TempDir())
		last := Progress{}
		o.Source, o.DType, o.OnProgress = src, "fp32", func(p Progress) { last = p }
		m, err := Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if last.Oriented != 2 {
			t.Errorf("%s: %d oriented pictures, want 2", turn, last.Oriented)
		}
		if (m.Orientation == picture.ByEXIF) != (turn == picture.ByEXIF) {
			t.Errorf("%s: the manifest says %q", turn, m.Orientation)
		}
		l, err := latents.Open(o.OutDir)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		first = append(first, l)
	}
	for i, same := range []bool{false, false, true} {
		a, b := make([]float32, first[0].RecordLen()), make([]float32, first[0].RecordLen())
		if err := errors.Join(first[0].Read(i, false, a), first[1].Read(i, false, b)); err != nil {
			t.Fatal(err)
		}
		if slices.Equal(a, b) != same {
			t.Errorf("picture %d: equal latents %v, want %v", i, !same, same)
		}
	}
}
