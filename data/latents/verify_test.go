package latents

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ditrun/ditrun/data/internal/datatest"
)

// A label or id that is another, though a possible one, is found when the set is opened.
func TestOpenComparesLabelsAndIndex(t *testing.T) {
	const shard = "latents-00001-of-00003.safetensors"
	for _, tensor := range []string{tensorLabels, tensorIndex} {
		dir := testLatents(t, testPlan(10))
		path := filepath.Join(dir, shard)
		at := datatest.PlaceOf(t, path, tensor)
		if tensor == tensorLabels {
			datatest.FlipBit(t, path, 8*(at+16)) // of the third sample, from class 0 to 1
		} else {
			datatest.FlipBit(t, path, 8*at+1)
		}
		_, err := Open(dir)
		if err == nil || !strings.Contains(err.Error(), shard+": damaged: tensor \""+tensor+"\": crc32c") ||
			!strings.HasSuffix(err.Error(), "delete the file and encode again") {
			t.Errorf("%s: error %v", tensor, err)
		}
	}
}

// A bit of the manifest that is another does not change what is trained on in silence.
func TestManifestIsSealed(t *testing.T) {
	dir := testLatents(t, testPlan(10))
	path := filepath.Join(dir, ManifestName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{{`"scaling_factor": 0.18215`, `"scaling_factor": 0.18225`}, {`"c"`, `"b"`},
		{`"d1"`, `"d3"`}} {
		if err := os.WriteFile(path, []byte(strings.Replace(string(text), c[0], c[1], 1)), 0o666); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir)
		if err == nil || !strings.Contains(err.Error(), "manifest.json: sha256 ") || !strings.Contains(err.Error(),
			"delete it and encode again") {
			t.Errorf("%s: error %v", c[1], err)
		}
	}
	if err := os.WriteFile(path, text, 0o666); err != nil {
		t.Fatal(err)
	}
	// One of before there was a sum is taken as it is, and the way out works.
	editManifest(t, dir, func(*Manifest) {})
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := encodeAll(context.Background(), dir, testPlan(10)); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(path); err != nil || string(again) != string(text) {
		t.Errorf("the manifest that was written anew differs, %v", err)
	}
}

func TestVerifyBesideReading(t *testing.T) {
	dir := testLatents(t, testPlan(10))
	path := filepath.Join(dir, "latents-00001-of-00003.safetensors")
	datatest.FlipBit(t, path, 8*datatest.PlaceOf(t, path, tensorMomentsFlip)+14)
	l, err := Open(dir) // moments are not read yet
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := "verify " + dir + ": latents-00001-of-00003.safetensors: damaged: tensor \"moments_flip\": crc32c"
	check := func(what string, err error, found bool) {
		t.Helper()
		if found && (err == nil || !strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(),
			"delete the file and encode again")) || !found && err != nil {
			t.Errorf("%s: error %v", what, err)
		}
	}
	ctx := context.Background()
	run := func(rank, world int) error {
		c := l.Compare(rank, world)
		defer c.Stop()
		return c.Wait(ctx)
	}
	check("alone", run(0, 1), true)
	check("another's share", run(0, 2), false)
	check("its share", run(1, 2), true)
	check("samples of a sound shard", l.VerifySamples(ctx, []int{0, 9, 1, 77}), false)
	check("a sample of the damaged shard", l.VerifySamples(ctx, []int{9, 5}), true)
	// Without haste it comes to the same.
	c := l.Compare(0, 1)
	for done := false; !done; {
		if done, err = c.Result(); !done {
			time.Sleep(time.Millisecond)
		}
	}
	check("in its own time", err, true)
	c.Stop()
	stopped := l.Compare(0, 1)
	stopped.Stop()
	if err := stopped.Wait(ctx); err == nil {
		t.Error("one that was stopped says that all is well")
	}
}

// A fakePart is a [Part] of files of which those of bad are damaged.
type fakePart struct {
	bad map[int]error

	mu     sync.Mutex
	seen   []int
	closed int
}

func (p *fakePart) NumFiles() int { return 5 }

func (p *fakePart) VerifyFile(k int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, k)
	return p.bad[k]
}

func (p *fakePart) Close() error {
	p.closed++
	return nil
}

// The files of a part that is open are compared after the shards, each by one of the ranks, and closed with the set.
func TestPartIsCompared(t *testing.T) {
	l, err := Open(testLatents(t, testPlan(10)))
	if err != nil {
		t.Fatal(err)
	}
	damage := errors.New("file 3 is damaged")
	part := &fakePart{bad: map[int]error{3: damage}}
	run := func(rank, world int) error {
		part.seen = nil
		c := l.Compare(rank, world)
		defer c.Stop()
		return c.Wait(context.Background())
	}
	if err := run(0, 1); err != nil || part.seen != nil {
		t.Errorf("before the part is open: files %v, error %v", part.seen, err)
	}
	if p, err := l.Part(func() (Part, error) { return part, nil }); err != nil || p != Part(part) {
		t.Fatalf("%v %v", p, err)
	}
	for _, c := range []struct {
		rank, world int
		seen        string
		want        error
	}{
		{0, 1, "[0 1 2 3]", damage},
		{0, 2, "[0 2 4]", nil},
		{1, 2, "[1 3]", damage},
	} {
		if err := run(c.rank, c.world); !errors.Is(err, c.want) || fmt.Sprint(part.seen) != c.seen {
			t.Errorf("rank %d of %d: files %v, error %v, want %s, %v", c.rank, c.world, part.seen, err, c.seen, c.want)
		}
	}
	if err := l.Close(); err != nil || part.closed != 1 {
		t.Errorf("the part was closed %d times, %v", part.closed, err)
	}
}
