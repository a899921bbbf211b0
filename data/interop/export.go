package interop

import (
	"archive/zip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/philox"
)

// An Export says how latents are written.
type Export struct {
	Kind Kind
	Seed uint64 // of the latents that are drawn from their posteriors
	// OnProgress, which may be nil, is told how many records are written.
	OnProgress func(done, total int)
}

// ToFolder writes latents into dir, an empty folder. Latents that have not the checksums of their manifest are an
// error.
func (o Export) ToFolder(ctx context.Context, l *latents.Set, dir string) error {
	e := &exporter{ctx, o, l}
	switch o.Kind {
	case FastDiT:
		return e.compared(func() error { return e.writeFast(dir) })
	case LightningDiT:
		return e.compared(func() error { return e.writeLightning(dir) })
	case EDM2:
		return e.compared(func() error { return e.writeEDM2(inFolder(dir)) })
	}
	return fmt.Errorf("latents cannot be written as %q: want one of %v", o.Kind, Kinds())
}

// ToZip writes latents of kind EDM2 into an archive, which appears whole or not at all.
func (o Export) ToZip(ctx context.Context, l *latents.Set, path string) error {
	return disk.WriteFile(path, func(w io.Writer) error {
		z := zip.NewWriter(w)
		e := &exporter{ctx, o, l}
		if err := e.compared(func() error { return e.writeEDM2(inZip(z)) }); err != nil {
			return err
		}
		return z.Close()
	})
}

// Bytes is about what the latents of a manifest take in a layout: its arrays, of float32.
func (k Kind) Bytes(m *latents.Manifest) int64 {
	copies := 2 // lightningdit: both views; edm2: mean and standard deviation
	if k == FastDiT {
		copies = 1
	}
	samples := 0
	for _, s := range m.Shards {
		samples += s.Samples
	}
	return 4 * int64(copies*m.Channels*m.Height*m.Width) * int64(samples)
}

type exporter struct {
	ctx context.Context
	Export
	latents *latents.Set
}

// compared writes while the latents are held against their checksums, whose verdict it waits for.
func (e *exporter) compared(write func() error) error {
	c := e.latents.Compare(0, 1)
	defer c.Stop()
	if err := write(); err != nil {
		return err
	}
	return c.Wait(e.ctx)
}

// each calls write for each record.
func (e *exporter) each(write func(i int) error) error {
	for i := range e.latents.Len() {
		if err := write(i); err != nil {
			return err
		}
		if err := e.tick(i); err != nil {
			return err
		}
	}
	return nil
}

// tick says that record i is done.
func (e *exporter) tick(i int) error {
	if e.OnProgress != nil {
		e.OnProgress(i+1, e.latents.Len())
	}
	return e.ctx.Err()
}

// sample draws the latent [C, h, w] of record i from its posterior, unscaled: by the random numbers of tag
// posterior and the seed, index i, step 0 for the plain view and 1 for the mirrored one.
func (e *exporter) sample(i int, flip bool) ([]float32, error) {
	moments := make([]float32, e.latents.RecordLen())
	if err := e.latents.Read(i, flip, moments); err != nil {
		return nil, err
	}
	n := len(moments) / 2
	noise := make([]float32, n)
	step := uint32(0)
	if flip {
		step = 1
	}
	philox.Normals(noise, e.Seed, philox.TagPosterior, step, uint64(i))
	for j := range n {
		noise[j] = float32(float64(moments[j]) + math.Exp(float64(moments[n+j])/2)*float64(noise[j]))
	}
	return noise, nil
}

func floatBytes(x []float32) []byte {
	b := make([]byte, 0, 4*len(x))
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}
