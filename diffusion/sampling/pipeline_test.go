package sampling

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
	"github.com/ditrun/ditrun/vae"
)

// newVAE saves an autoencoder with random weights, whose pictures have twice the side of its latents.
func newVAE(t *testing.T, channels int, seed uint64) (dir string, m *vae.AutoencoderKL) {
	t.Helper()
	cfg, err := vae.SmallConfig(16, channels, 2)
	if err != nil {
		t.Fatal(err)
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		gen, err := torch.NewGenerator(torch.CPU, seed)
		if err != nil {
			return err
		}
		if m, err = vae.New(s, cfg); err != nil {
			return err
		}
		m.Init(s.NoGrad(), gen)
		return nil
	})
	t.Cleanup(m.Close)
	dir = t.TempDir()
	if err := m.Save(dir); err != nil {
		t.Fatal(err)
	}
	return dir, m
}

// newCheckpoint saves the golden file's model.
func newCheckpoint(t *testing.T, change func(*dit.Info)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ema.safetensors")
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		info := dit.Info{Config: m.Config(), ImageSize: 16, ScalingFactor: 0.5, Classes: []string{"a"}}
		change(&info)
		return dit.Save(path, nn.Snapshot(nn.List(m)), info)
	})
	return path
}

func TestPipeline(t *testing.T) {
	vaeDir, v := newVAE(t, 4, 1)
	ckpt := newCheckpoint(t, func(i *dit.Info) { i.VAE = v.WeightsSHA256() })
	live := torch.Live()
	p, err := Open(torchtest.Device(t), filepath.Dir(ckpt), Options{VAE: vaeDir})
	if err != nil {
		t.Fatal(err)
	}
	if i := p.Info(); i.ScalingFactor != 0.5 || i.ImageSize != 16 || len(i.Classes) != 1 {
		t.Errorf("Info() = %+v", i)
	}
	// More pictures than are decoded at once.
	r := Request{Seed: 9, CFGScale: 4, Steps: "3"}
	for i := range decodeBatch + 2 {
		r.Labels = append(r.Labels, i%10)
	}
	pictures, err := p.Sample(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	pix := pictures.Pix
	if pictures.Width != 16 || pictures.Height != 16 || len(pix) != len(r.Labels)*16*16*3 {
		t.Fatalf("%d x %d, %d bytes", pictures.Width, pictures.Height, len(pix))
	}
	again, err := p.Sample(context.Background(), r)
	if err != nil || !bytes.Equal(pix, again.Pix) {
		t.Errorf("two samples of one seed differ (%v)", err)
	}
	// The last picture by hand.
	torchtest.Run(t, func(s *torch.Scope) error {
		s = s.NoGrad()
		z := latentsOf(t, s, p.model, r)
		n := len(r.Labels)
		x := torch.Data[float32](s.Contiguous(v.Decode(s, s.MulScalar(s.Narrow(z, 0, n-2, 2), 2)))) // 1/0.5
		got, wrong, distinct := pix[(n-1)*16*16*3:], 0, map[uint8]bool{}
		for c := range 3 {
			for at := range 16 * 16 {
				want := uint8(min(max(127.5*x[(3+c)*16*16+at]+128, 0), 255))
				if got[at*3+c] != want {
					wrong++
				}
				distinct[want] = true
			}
		}
		// Sums in another order may take a value across the edge of a level.
		if wrong > 3 || len(distinct) < 5 {
			t.Errorf("%d of %d values differ from the formula, %d levels", wrong, len(got), len(distinct))
		}
		return nil
	})

	ctx, cancel := context.WithCancel(context.Background())
	cut := r
	cut.Progress = func(done, total int) {
		if done == total { // the last step is done, the decoding is not
			cancel()
		}
	}
	if out, err := p.Sample(ctx, cut); !errors.Is(err, context.Canceled) || out.Pix != nil {
		t.Errorf("cancelled before decoding: %d bytes, error %v", len(out.Pix), err)
	}
	if _, err := p.Sample(context.Background(), Request{Labels: []int{99}}); err == nil {
		t.Error("label 99: no error")
	}
	p.Close()
	if n := torch.Live(); n != live {
		t.Errorf("%d tensors live after Close, %d before Open", n, live)
	}
}

func TestDecodeStops(t *testing.T) {
	_, v := newVAE(t, 4, 1)
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("stop")
	cancel(why)
	torchtest.Run(t, func(s *torch.Scope) error {
		if _, err := Decode(ctx, s, v, s.Zeros(torch.Float32, 1, 4, 8, 8), 0.5); !errors.Is(err, why) {
			t.Errorf("error %v", err)
		}
		return nil
	})
}

func TestOpenRefuses(t *testing.T) {
	vaeDir, v := newVAE(t, 4, 1)
	otherDir, _ := newVAE(t, 4, 2)
	narrowDir, _ := newVAE(t, 3, 1)
	good := newCheckpoint(t, func(i *dit.Info) { i.VAE = v.WeightsSHA256() })
	unscaled := newCheckpoint(t, func(i *dit.Info) { i.ScalingFactor = 0 })
	live := torch.Live()
	for _, c := range []struct {
		ckpt, vae string
		want      []string
	}{
		{filepath.Join(t.TempDir(), "none"), vaeDir, []string{"none", "no such file or folder"}},
		{t.TempDir(), vaeDir, []string{"found neither ema.safetensors"}},
		{good, filepath.Join(t.TempDir(), "gone"), []string{"gone"}},
		{good, otherDir, []string{otherDir, good, "is not the one that made the latents", v.WeightsSHA256()[:12]}},
		{good, narrowDir, []string{narrowDir, "has 3 latent channels", "wants 4"}},
		{unscaled, vaeDir, []string{"scaling factor of 0"}},
	} {
		p, err := Open(torchtest.Device(t), c.ckpt, Options{VAE: c.vae})
		if err == nil {
			p.Close()
			t.Errorf("Open(%s, %s): no error", c.ckpt, c.vae)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("error %q, want one with %q", err, w)
			}
		}
		if n := torch.Live(); n != live {
			t.Errorf("%v: %d tensors live, %d before", err, n, live)
		}
	}
	// A checkpoint that does not say which autoencoder it wants takes what it is given.
	p, err := Open(torchtest.Device(t), newCheckpoint(t, func(*dit.Info) {}), Options{VAE: otherDir})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
}

// TestOpenReadsOnce: the autoencoder that a run names is read and summed as often as one that is given.
func TestOpenReadsOnce(t *testing.T) {
	dir, v := newVAE(t, 4, 1)
	if err := os.Remove(filepath.Join(dir, "SHA256SUMS")); err != nil { // so that the sum is a reading of its own
		t.Fatal(err)
	}
	run := t.TempDir()
	checkpoint := filepath.Join(run, runs.CheckpointsName, "0000001")
	if err := os.MkdirAll(checkpoint, 0o777); err != nil {
		t.Fatal(err)
	}
	weights := newCheckpoint(t, func(i *dit.Info) { i.VAE = v.WeightsSHA256() })
	if err := os.Rename(weights, filepath.Join(checkpoint, "ema.safetensors")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"run.json": "{}", runs.ConfigName: "vae: " + dir + "\n"} {
		if err := os.WriteFile(filepath.Join(run, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	// bytesRead counts what this process has read, from whatever file.
	bytesRead := func() (n int64) {
		t.Helper()
		text, err := os.ReadFile("/proc/self/io")
		if err != nil {
			t.Skip("nobody counts what is read here: ", err)
		}
		if _, err := fmt.Sscanf(string(text), "rchar: %d", &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	open := func(vaePath string) int64 {
		t.Helper()
		before := bytesRead()
		p, err := Open(torchtest.Device(t), checkpoint, Options{VAE: vaePath})
		if err != nil {
			t.Fatal(err)
		}
		p.Close()
		return bytesRead() - before
	}
	file, err := os.Stat(filepath.Join(dir, vae.WeightsName))
	if err != nil {
		t.Fatal(err)
	}
	open(dir) // what is read once in a process
	given, own := open(dir), open("")
	if more := own - given; more > file.Size()/2 || given < file.Size() {
		t.Errorf("%d bytes are read, %d where the autoencoder of %d bytes is given", own, given, file.Size())
	}
}
