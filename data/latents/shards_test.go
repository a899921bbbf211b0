package latents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// testPlan is a small plan: n samples of [2*2, 3, 3] moments in shards of 4.
func testPlan(n int) Plan {
	return Plan{
		Dataset:  Dataset{Samples: n, Hash: "d1", Order: "label, position", Classes: []string{"a", "b", "c"}},
		VAE:      VAE{Name: "test-vae", SHA256: strings.Repeat("ab", 32), ScalingFactor: 0.18215},
		Channels: 2, Height: 3, Width: 3, DType: checkpoint.F16, Flip: true,
		ImageSize: picture.Square(24), Crop: picture.PillowClassic.Crop(), Decoder: picture.Decoders, ShardSize: 4,
		Tool: "test",
	}
}

// testMoment is the j-th moment of a sample: exact in float16, within the limits of the log variance.
func testMoment(id, j int, flip bool) float32 {
	v := float32((id*31+j*7)%41)/2 - 10
	if flip {
		return v + 0.25
	}
	return v
}

func testRecords(p *Plan, lo, hi int, flip bool) []float32 {
	var m []float32
	for id := lo; id < hi; id++ {
		for j := range p.recordLen() {
			m = append(m, testMoment(id, j, flip))
		}
	}
	return m
}

func testLabels(lo, hi int) []int64 {
	var l []int64
	for id := lo; id < hi; id++ {
		l = append(l, int64(id%3))
	}
	return l
}

func idsFrom(lo, hi int) []int {
	var ids []int
	for id := lo; id < hi; id++ {
		ids = append(ids, id)
	}
	return ids
}

// fillClaim adds the samples of a claim, two at a time.
func fillClaim(c *Claim) error {
	p := c.w.Plan()
	for at := c.Lo; at < c.Hi; at += 2 {
		end := min(at+2, c.Hi)
		var flip []float32
		if p.Flip {
			flip = testRecords(&p, at, end, true)
		}
		if err := c.Add(idsFrom(at, end), testRecords(&p, at, end, false), flip, testLabels(at, end)); err != nil {
			return err
		}
	}
	return c.Commit()
}

func encodeAll(ctx context.Context, dir string, p Plan) (*Manifest, error) {
	w, err := NewWriter(dir, p)
	if err != nil {
		return nil, err
	}
	for c, err := range w.Claims(ctx, 0, 1) {
		if err != nil {
			return nil, err
		}
		if err := fillClaim(c); err != nil {
			return nil, err
		}
	}
	return w.Finish(ctx)
}

// testLatents makes a set of n samples.
func testLatents(t testing.TB, p Plan) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := encodeAll(context.Background(), dir, p); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestShardLayout(t *testing.T) {
	p := testPlan(10)
	dir := testLatents(t, p)
	files := datatest.Contents(t, dir)
	if len(files) != 4 {
		t.Errorf("%d files, want three shards and a manifest", len(files))
	}
	for k, n := range []int{4, 4, 2} {
		name := fmt.Sprintf("latents-%05d-of-00003.safetensors", k)
		f, err := checkpoint.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var names []string
		for _, info := range f.Tensors() {
			names = append(names, info.Name)
		}
		if want := []string{"moments", "moments_flip", "labels", "index"}; !slices.Equal(names, want) {
			t.Errorf("%s: tensors %v, want %v", name, names, want)
		}
		m, _ := f.Lookup("moments")
		if m.Offset%4096 != 0 || m.DType != checkpoint.F16 || !slices.Equal(m.Shape, []int64{int64(n), 4, 3, 3}) {
			t.Errorf("%s: moments at %d, %s %v", name, m.Offset, m.DType, m.Shape)
		}
		meta := f.Metadata()
		for key, want := range map[string]string{
			"version": "1", "dataset": "d1", "vae": "test-vae", "vae_sha256": strings.Repeat("ab", 32),
			"scaling_factor": "0.18215",
			"image_size":     "24", "crop": picture.PillowClassic.Crop(), "dtype": "F16",
			"ids": fmt.Sprintf("%d-%d", 4*k, 4*k+n),
		} {
			if meta[key] != want {
				t.Errorf("%s: metadata %s is %q, want %q", name, key, meta[key], want)
			}
		}
	}
	var m Manifest
	if err := json.Unmarshal([]byte(files[ManifestName]), &m); err != nil {
		t.Fatal(err)
	}
	// Mean and deviation by their definition.
	for c := range p.Channels {
		var n, sum, square float64
		for id := range 10 {
			for _, flip := range []bool{false, true} {
				for j := range 9 {
					mean := float64(testMoment(id, 9*c+j, flip))
					n++
					sum += mean
					square += mean*mean + math.Exp(float64(testMoment(id, 9*(2+c)+j, flip)))
				}
			}
		}
		if mean := sum / n; math.Abs(m.Mean[c]-mean) > 1e-9 {
			t.Errorf("channel %d: mean %v, want %v", c, m.Mean[c], mean)
		}
		if std := math.Sqrt(square/n - sum/n*sum/n); math.Abs(m.Std[c]-std) > 1e-9*std {
			t.Errorf("channel %d: standard deviation %v, want %v", c, m.Std[c], std)
		}
	}
}

// However often the work is interrupted and whoever does it, the folder ends with the same bytes.
func TestResume(t *testing.T) {
	p := testPlan(21)
	want := datatest.Contents(t, testLatents(t, p))
	dir := t.TempDir()
	for stopAfter := range 6 { // one more shard each time
		w, err := NewWriter(dir, p)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for c, err := range w.Claims(context.Background(), 0, 1) {
			if err != nil {
				t.Fatal(err)
			}
			if n == 1 {
				c.Abandon()
				break
			}
			if err := fillClaim(c); err != nil {
				t.Fatal(err)
			}
			n++
		}
		missing, err := w.Missing()
		if err != nil {
			t.Fatal(err)
		}
		if len(missing) != 5-stopAfter {
			t.Fatalf("missing %v after %d runs", missing, stopAfter+1)
		}
		if _, err := w.Finish(context.Background()); (err == nil) != (len(missing) == 0) {
			t.Fatalf("finish with %v missing: error %v", missing, err)
		}
		if len(missing) == 0 {
			break
		}
	}
	datatest.SameContents(t, datatest.Contents(t, dir), want)

	// What a killed process leaves is removed, and a shard cut short is made again.
	name := "latents-00002-of-00006.safetensors"
	for file, b := range map[string]string{"." + name + ".123-ABC.tmp": "x", name + ".lock": "",
		name: want[name][:100]} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(b), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(dir); err == nil {
		t.Error("a set with a truncated shard was opened")
	}
	if _, err := encodeAll(context.Background(), dir, p); err != nil {
		t.Fatal(err)
	}
	datatest.SameContents(t, datatest.Contents(t, dir), want)
}

func TestSharedWork(t *testing.T) {
	p := testPlan(61)
	want := datatest.Contents(t, testLatents(t, p))
	dir := t.TempDir()
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := map[int]int{}
	for range 4 {
		wg.Go(func() {
			w, err := NewWriter(dir, p)
			if err != nil {
				t.Error(err)
				return
			}
			for c, err := range w.Claims(context.Background(), 0, 1) {
				if err == nil {
					err = fillClaim(c)
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				made[c.Shard]++
				mu.Unlock()
			}
			if _, err := w.Finish(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for k := range p.NumShards() {
		if made[k] != 1 {
			t.Errorf("shard %d was made %d times", k, made[k])
		}
	}
	datatest.SameContents(t, datatest.Contents(t, dir), want)
}

// Processes killed at any point leave a folder that the next one completes to the same bytes.
func TestKilledProcesses(t *testing.T) {
	p := testPlan(200)
	if dir := os.Getenv("DITRUN_TEST_ENCODE_DIR"); dir != "" {
		if _, err := encodeAll(context.Background(), dir, p); err != nil {
			t.Fatal(err)
		}
		return
	}
	if testing.Short() {
		t.Skip("starts processes")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want := datatest.Contents(t, testLatents(t, p))
	dir := t.TempDir()
	kills := 6
	if os.Getenv("DITRUN_SOAK") != "" {
		kills = 50
	}
	for i := range kills {
		cmd := exec.Command(exe, "-test.run=^TestKilledProcesses$")
		cmd.Env = append(os.Environ(), "DITRUN_TEST_ENCODE_DIR="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Kill it once there are some shards more than the one before found.
		for range 10000 {
			names, err := filepath.Glob(filepath.Join(dir, "latents-*.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			if len(names) > p.NumShards()*i/kills {
				break
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
	}
	if _, err := encodeAll(context.Background(), dir, p); err != nil {
		t.Fatal(err)
	}
	datatest.SameContents(t, datatest.Contents(t, dir), want)
}

func TestShardWriterRefuses(t *testing.T) {
	dir := testLatents(t, testPlan(10))
	for name, c := range map[string]struct {
		change func(p *Plan)
		want   string
	}{
		"other VAE": {func(p *Plan) { p.VAE.SHA256 = strings.Repeat("cd", 32) }, "made with vae_sha256 abab"},
		"other data": {func(p *Plan) { p.Dataset.Hash = "d2" },
			"made of other pictures, or of the same 10 under other names"},
		"other classes": {func(p *Plan) { p.Dataset.Classes = []string{"x", "y", "z"} }, "other class names"},
		"other size":    {func(p *Plan) { p.ImageSize = picture.Square(48) }, "made with image_size 24"},
		"no flip":       {func(p *Plan) { p.Flip = false }, "made with flip true"},
		"bad dtype":     {func(p *Plan) { p.DType = "BF16" }, `dtype "BF16": want F16 or F32`},
		"no samples":    {func(p *Plan) { p.Dataset.Samples = 0 }, "samples 0: want 1 to"},
		"bad scale":     {func(p *Plan) { p.VAE.ScalingFactor = math.NaN() }, "scaling factor NaN"},
		"no VAE":        {func(p *Plan) { p.VAE.SHA256 = "" }, "vae sha256 is missing"},
	} {
		p := testPlan(10)
		c.change(&p)
		if _, err := NewWriter(dir, p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	// The same without a manifest: the shards themselves say what they are.
	if err := os.Remove(filepath.Join(dir, ManifestName)); err != nil {
		t.Fatal(err)
	}
	p := testPlan(10)
	p.VAE.SHA256 = strings.Repeat("cd", 32)
	if _, err := NewWriter(dir, p); err == nil ||
		!strings.Contains(err.Error(), "was made to another plan: vae_sha256 is abab") {
		t.Errorf("shards of another VAE: error %v", err)
	}
	if _, err := NewWriter(dir, testPlan(30)); err == nil || !strings.Contains(err.Error(), "this plan has 8 shards") {
		t.Errorf("another number of shards: error %v", err)
	}
}

func TestAddRefuses(t *testing.T) {
	p := testPlan(4)
	rec := p.recordLen()
	ok := testRecords(&p, 0, 1, false)
	with := func(j int, v float32) []float32 {
		m := slices.Clone(ok)
		m[j] = v
		return m
	}
	for name, c := range map[string]struct {
		moments, flip []float32
		labels        []int64
		want          string
	}{
		"short":    {ok[1:], ok, []int64{0}, fmt.Sprintf("%d moments for 1 sample, want %d", rec-1, rec)},
		"no flip":  {ok, nil, []int64{0}, "0 mirrored moments"},
		"label":    {ok, ok, []int64{3}, "sample 0: label 3, want 0 to 2"},
		"NaN":      {with(1, float32(math.NaN())), ok, []int64{0}, "sample 0: moment NaN cannot be stored"},
		"overflow": {ok, with(1, 70000), []int64{0}, "mirrored sample 0: moment 70000 cannot be stored"},
		"NaN var":  {with(rec-1, float32(math.NaN())), ok, []int64{0}, "moment NaN"},
		"too many": {testRecords(&p, 0, 5, false), testRecords(&p, 0, 5, false), testLabels(0, 5),
			"sample 4: want ids from 4 to 3, ascending"},
	} {
		w, err := NewWriter(t.TempDir(), p)
		if err != nil {
			t.Fatal(err)
		}
		for cl, err := range w.Claims(context.Background(), 0, 1) {
			if err != nil {
				t.Fatal(err)
			}
			if err := cl.Add(idsFrom(0, len(c.labels)), c.moments, c.flip, c.labels); err == nil ||
				!strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: error %v, want %q", name, err, c.want)
			}
			if err := cl.Commit(); err == nil {
				t.Errorf("%s: an unfilled shard was committed", name)
			}
			break
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if files := datatest.Contents(t, w.dir); len(files) != 0 {
			t.Errorf("%s: left %d files", name, len(files))
		}
	}
}

// Samples that cannot be had are left out, said in the shard and in the manifest, and stay left out when another
// process finishes the set; a shard may even be empty.
func TestSkippedSamples(t *testing.T) {
	p := testPlan(9) // shards of 4, 4, 1
	dir := t.TempDir()
	skip := map[int]bool{1: true, 2: true, 8: true}
	w, err := NewWriter(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	for c, err := range w.Claims(t.Context(), 0, 1) {
		if err != nil {
			t.Fatal(err)
		}
		for id := c.Lo; id < c.Hi; id++ {
			if skip[id] {
				err = c.Skip(id, catalog.Sample{Name: fmt.Sprintf("s%d", id), Label: id % 3}, "torn")
			} else {
				err = c.Add([]int{id}, testRecords(&p, id, id+1, false), testRecords(&p, id, id+1, true),
					testLabels(id, id+1))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for id := c.Lo; id < c.Hi; id++ {
			if err := c.Skip(id, catalog.Sample{}, ""); skip[id] && err == nil {
				t.Errorf("sample %d was skipped twice", id)
			} else if err == nil {
				c.skipped = c.skipped[:len(c.skipped)-1]
			}
		}
		if err := c.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if w, err = NewWriter(dir, p); err != nil {
		t.Fatal(err)
	}
	m, err := w.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Skipped{{1, "s1", 1, "torn"}, {2, "s2", 2, "torn"}, {8, "s8", 2, "torn"}}
	if !slices.Equal(m.Skipped, want) {
		t.Errorf("skipped %v, want %v", m.Skipped, want)
	}
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var ids []int
	rec := make([]float32, l.RecordLen())
	for i := range l.Len() {
		ids = append(ids, l.ID(i))
		if err := l.Read(i, true, rec); err != nil {
			t.Fatal(err)
		}
		if want := testMoment(l.ID(i), 3, true); math.Abs(float64(rec[3]-want)) > 1e-3*math.Abs(float64(want)) {
			t.Errorf("record %d: moment %v, want %v", i, rec[3], want)
		}
	}
	if want := []int{0, 3, 4, 5, 6, 7}; !slices.Equal(ids, want) {
		t.Errorf("ids %v, want %v", ids, want)
	}
}

// A byte that changed on the disk before the manifest was written is noticed by the checksum in the shard.
func TestFinishChecksShards(t *testing.T) {
	p := testPlan(9)
	dir := testLatents(t, p)
	name := filepath.Join(dir, "latents-00001-of-00003.safetensors")
	if err := os.Remove(filepath.Join(dir, ManifestName)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[4200] ^= 1
	if err := os.WriteFile(name, b, 0o666); err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(t.Context()); err == nil ||
		!strings.Contains(err.Error(), "latents-00001-of-00003.safetensors: tensor") ||
		!strings.Contains(err.Error(), "delete the file and encode again") {
		t.Errorf("error %v", err)
	}
}

func TestLogvarIsClamped(t *testing.T) {
	p := testPlan(1)
	p.Flip, p.DType = false, checkpoint.F32
	dir := t.TempDir()
	w, err := NewWriter(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	rec := make([]float32, p.recordLen())
	for j := range rec {
		rec[j] = float32(100 - 12*j)
	}
	for c, err := range w.Claims(context.Background(), 0, 1) {
		if err == nil {
			err = errors.Join(c.Add([]int{0}, rec, nil, []int64{0}), c.Commit())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make([]float32, l.RecordLen())
	if err := l.Read(0, false, got); err != nil {
		t.Fatal(err)
	}
	for j := range rec {
		want := rec[j]
		if j >= len(rec)/2 {
			want = min(max(want, -30), 20)
		}
		if got[j] != want {
			t.Errorf("moment %d: %v, want %v", j, got[j], want)
		}
	}
}

// A full disk, played by a limit on the size of files, leaves no half shard. The limit is that of a process of its own:
// it would hold for the log that go test has this one write, too.
func TestFullDisk(t *testing.T) {
	const env = "DITRUN_TEST_FULL_DISK"
	if os.Getenv(env) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), env+"=1")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, text)
		} else if strings.Contains(string(text), "--- SKIP") {
			t.Skip(string(text))
		}
		return
	}
	dir := t.TempDir()
	w, err := NewWriter(dir, testPlan(40))
	if err != nil {
		t.Fatal(err)
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	var failed error
	for c, err := range w.Claims(context.Background(), 0, 1) {
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4200, Max: old.Max}); err != nil {
			t.Skip("cannot limit the size of files: ", err)
		}
		failed = fillClaim(c)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
		break
	}
	if failed == nil || !errors.Is(failed, syscall.EFBIG) {
		t.Errorf("error %v, want %v", failed, syscall.EFBIG)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if files := datatest.Contents(t, dir); len(files) != 0 {
		t.Errorf("left %d files", len(files))
	}
}

func TestClaimsCancelled(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWriter(dir, testPlan(8))
	if err != nil {
		t.Fatal(err)
	}
	// Somebody else holds one of the two shards: after the other the walk waits, until it is cancelled.
	lock, err := disk.TryLock(filepath.Join(dir, w.plan.file(0)+".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Remove()
	ctx, cancel := context.WithCancel(context.Background())
	var last error
	for c, err := range w.Claims(ctx, 0, 1) {
		if last = err; err != nil {
			break
		}
		if c.Shard != 1 {
			t.Errorf("claimed shard %d, which is locked", c.Shard)
		}
		if err := fillClaim(c); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	cancel()
	if !errors.Is(last, context.Canceled) {
		t.Errorf("error %v, want %v", last, context.Canceled)
	}
	if _, err := os.Stat(filepath.Join(dir, ManifestName)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("there is a manifest of an unfinished set")
	}
}
