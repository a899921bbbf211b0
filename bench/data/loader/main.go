// Command loader times how the packages below data read the pictures of a folder. loader.py compares it with the
// original.
//
//	loader decode|crop|read DIR       one goroutine: pictures a second
//	loader batches DIR WORKERS        shuffled, mirrored batches of 32 crops of 256
//	loader latents DIR                records a second of a set of latents, shuffled
//	loader cold DIR shuffle|block N   the same for N batches, after the files were dropped from the page cache
//	loader write-latents DIR N        writes such a set of N records of 4 x 32 x 32 latents in both views
//	loader stdlib DIR                 like crop, with Go's image/jpeg and disintegration/imaging
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ditrun/ditrun/data/latents"

	"github.com/disintegration/imaging"
	"golang.org/x/sys/unix"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

const size, batch = 256, 32

func main() {
	n, seconds, err := run(os.Args[1], os.Args[2], os.Args[3:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("%.1f\n", float64(n)/seconds)
}

func run(what, dir string, args []string) (n int, seconds float64, err error) {
	ctx := context.Background()
	if what == "latents" {
		return readLatents(ctx, dir, stream.Options{})
	}
	if what == "cold" {
		if err := forget(dir); err != nil {
			return 0, 0, err
		}
		steps, err := strconv.Atoi(args[1])
		if err != nil {
			return 0, 0, err
		}
		return readLatents(ctx, dir, stream.Options{Order: args[0], MaxSteps: steps})
	}
	if what == "write-latents" {
		return writeLatents(ctx, dir, args[0])
	}
	if what == "batches" {
		workers, err := strconv.Atoi(args[0])
		if err != nil {
			return 0, 0, err
		}
		src, err := catalog.Open(ctx, dir, catalog.Options{})
		if err != nil {
			return 0, 0, err
		}
		steps := 2 * src.Len() / batch
		start := time.Now()
		for b, err := range stream.Images(ctx, src,
			stream.ImageOptions{Size: picture.Square(size), Batch: batch, Workers: workers, FlipProb: 0.5,
				MaxSteps: steps}) {
			if err != nil {
				return 0, 0, err
			}
			n += len(b.IDs)
		}
		return n, time.Since(start).Seconds(), nil
	}
	names, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		return 0, 0, err
	}
	crop, err := picture.NewCropper(picture.Square(size), picture.PillowClassic)
	if err != nil {
		return 0, 0, err
	}
	dst, img := make([]uint8, 3*size*size), new(picture.Image)
	start := time.Now()
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return 0, 0, err
		}
		n++
		if what == "stdlib" {
			m, _, err := image.Decode(bytes.NewReader(b))
			if err != nil {
				return 0, 0, err
			}
			imaging.Fill(m, size, size, imaging.Center, imaging.CatmullRom)
			continue
		}
		if what == "read" {
			continue
		}
		if err := picture.DecodeInto(img, b); err != nil {
			return 0, 0, err
		}
		if what == "crop" {
			if err := crop.Crop(dst, img); err != nil {
				return 0, 0, err
			}
		}
	}
	return n, time.Since(start).Seconds(), nil
}

func readLatents(ctx context.Context, dir string, o stream.Options) (n int, seconds float64, err error) {
	l, err := latents.Open(dir)
	if err != nil {
		return 0, 0, err
	}
	defer l.Close()
	start := time.Now()
	o.GlobalBatch, o.FlipProb, o.Workers = 256, 0.5, 2
	if o.MaxSteps == 0 {
		o.Epochs = max(1, 60000/l.Len())
	}
	for b, err := range stream.Batches(ctx, l, o) {
		if err != nil {
			return 0, 0, err
		}
		n += len(b.IDs)
	}
	return n, time.Since(start).Seconds(), nil
}

// forget drops the files of dir from the page cache.
func forget(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

func writeLatents(ctx context.Context, dir, count string) (n int, seconds float64, err error) {
	if n, err = strconv.Atoi(count); err != nil {
		return 0, 0, err
	}
	start := time.Now()
	w, err := latents.NewWriter(dir, latents.Plan{
		Dataset:  latents.Dataset{Samples: n, Hash: "noise", Order: "label, position", Classes: []string{"noise"}},
		VAE:      latents.VAE{Name: "none", SHA256: "none", ScalingFactor: 0.18215},
		Channels: 4, Height: 32, Width: 32, DType: checkpoint.F16, Flip: true,
		ImageSize: picture.Square(size), Crop: picture.PillowClassic.Crop(), Decoder: picture.Decoders,
		Precision: "fp32", Tool: "loader",
	})
	if err != nil {
		return 0, 0, err
	}
	moments := make([]float32, 2*4*32*32)
	for c, err := range w.Claims(ctx, 0, 1) {
		if err != nil {
			return 0, 0, err
		}
		for id := c.Lo; id < c.Hi; id++ {
			for i := range moments {
				moments[i] = float32((id+i*7)%64)/16 - 2
			}
			if err := c.Add([]int{id}, moments, moments, []int64{0}); err != nil {
				return 0, 0, err
			}
		}
		if err := c.Commit(); err != nil {
			return 0, 0, err
		}
	}
	_, err = w.Finish(ctx)
	return n, time.Since(start).Seconds(), err
}
