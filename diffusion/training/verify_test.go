package training

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// changedMoment opens a copy of a set in which change was made of one moment of the given record, in its first shard.
func changedMoment(t *testing.T, l *latents.Set, record int, change func(b []byte)) *latents.Set {
	t.Helper()
	dir := copyDir(t, l.Dir(), filepath.Join(t.TempDir(), "latents"))
	path := filepath.Join(dir, l.Manifest().Shards[0].File)
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	moments, _ := f.Lookup("moments")
	f.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := moments.Offset + moments.Size/moments.Shape[0]*int64(record)
	change(b[at:])
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	damaged, err := latents.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { damaged.Close() })
	return damaged
}

// Damaged latents end a run with an error that names the file, not the recipe, however short the run is and whether
// they are a little or wildly wrong; what is done is saved.
func TestRunComparesLatents(t *testing.T) {
	l := synthetic(t, syntheticPlan(60))
	lowest := func(b []byte) { b[0] ^= 1 }
	nan := func(b []byte) { b[2], b[3] = 0xc0, 0x7f }
	huge := func(b []byte) { b[3] ^= 0x40 }
	for _, c := range []struct {
		what   string
		change func([]byte)
	}{{"the lowest bit", lowest}, {"a number that is none", nan}, {"an exponent", huge}} {
		damaged := changedMoment(t, l, 0, c.change)
		for what, source := range map[string]func() samples.Source{
			"from disk": func() samples.Source { return allOf(damaged) },
			"resident": func() samples.Source {
				r, err := samples.Resident(damaged, torchtest.Device(t))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(r.Close)
				return r
			},
		} {
			dir := t.TempDir()
			var warned []string
			job := Job{Device: torchtest.Device(t), Config: small(9), Source: source(), Dir: dir,
				Hooks: Hooks{Warn: func(text string) { warned = append(warned, text) }}}
			result, err := Run(context.Background(), job)
			if err == nil || !strings.Contains(err.Error(),
				damaged.Manifest().Shards[0].File+": damaged: tensor \"moments\": crc32c") ||
				!strings.Contains(err.Error(), "encode again") {
				t.Errorf("%s, %s: error %v", c.what, what, err)
			}
			for _, text := range warned {
				if strings.Contains(text, "scale") || strings.Contains(text, "mean of") {
					t.Errorf("%s, %s: the data are blamed: %s", c.what, what, text)
				}
			}
			if c.what == "the lowest bit" && result.Step > 0 && result.Checkpoint == "" {
				t.Errorf("%s, %s: step %d, and no checkpoint", c.what, what, result.Step)
			}
		}
	}
}

// Latents that are no numbers, though they are as they were written, are named, and it is said whether they are all.
func TestBadDataIsNamed(t *testing.T) {
	l, cfg := synthetic(t, syntheticPlan(20)), small(1)
	torchtest.Run(t, func(s *torch.Scope) error {
		r, err := newRunner(s, Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(l), Dir: t.TempDir()})
		if err != nil {
			return err
		}
		defer r.close()
		x := make([]float32, 4*2*4*4)
		ids := []int{3, 5, 8, 13}
		why := func() string { return r.badData(s, torch.From(s, x, 4, 2, 4, 4), ids) }
		if got := why(); got != "" {
			t.Errorf("nothing wrong: %q", got)
		}
		x[2*32+7] = float32(math.NaN())
		x[3*32+7] = float32(math.Inf(1))
		if got, want := why(), "the latents of samples 8, 13 are not finite numbers: encode them again (those of "+
			"the other 2 of the batch are)"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		x[0], x[32] = x[2*32+7], x[2*32+7]
		if got, want := why(), "the latents of samples 3, 5, 8, 13 are not finite numbers: encode them again (they "+
			"are all 4 of the batch)"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		r.source = named{}
		if got, want := why(), "the latents of pictures cat/3.png, cat/5.png, cat/8.png, cat/13.png are not finite "+
			"numbers: the autoencoder is damaged, or its precision is too narrow (they are all 4 of the "+
			"batch)"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		return nil
	})
}

// named is a source of pictures that have names alone.
type named struct{ samples.Source }

func (named) PictureName(id int) string { return fmt.Sprintf("cat/%d.png", id) }
