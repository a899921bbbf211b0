// Command contention measures how much decoding slows an encoder that computes on the same cores.
//
//	contention PHOTOS [ROUNDS] [THREADS]
//
// PHOTOS is a class folder tree of JPEG files. An autoencoder, so small that decoding matters, encodes in turn the
// photos from their files, with one decoder as by default, and their crops from memory. The fastest of ROUNDS (7)
// counts for each. Decoding must not slow the encoder by more than its own processor time.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/torch"
	_ "github.com/ditrun/ditrun/torch/keeppages" // as in ditrun
	"github.com/ditrun/ditrun/vae"
	"github.com/ditrun/ditrun/vae/encode"
)

const size, batch = 256, 16

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// crops is a source of crops that are kept in memory.
type crops struct {
	catalog.Source
	images []*picture.Image
}

func (c crops) Image(i int) (*picture.Image, error) { return c.images[i], nil }

func run(args []string) error {
	ctx := context.Background()
	rounds, threads := 7, 2
	for i, v := range []*int{&rounds, &threads} {
		if len(args) > i+1 {
			n, err := strconv.Atoi(args[i+1])
			if err != nil {
				return err
			}
			*v = n
		}
	}
	torch.SetNumThreads(threads)
	files, err := catalog.Open(ctx, args[0], catalog.Options{})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "contention-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	model, err := newVAE(dir)
	if err != nil {
		return err
	}
	defer model.Close()
	memory := crops{Source: files}
	decode := time.Duration(1 << 62)
	for range rounds { // the time that decoding takes when nothing else computes
		memory.images = nil
		start := cpuTime()
		for b, err := range stream.ImageRange(ctx, files, 0, files.Len(),
			stream.ImageOptions{Size: picture.Square(size), Batch: batch, Workers: 1}) {
			if err != nil {
				return err
			}
			for i := range b.IDs {
				img := picture.NewImage(size, size)
				copy(img.Pix, b.Pix[3*size*size*i:])
				memory.images = append(memory.images, img)
			}
		}
		decode = min(decode, cpuTime()-start)
	}
	encodeFrom := func(src catalog.Source) (wall time.Duration, err error) {
		out, err := os.MkdirTemp(dir, "latents-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(out)
		start := time.Now()
		_, err = encode.Run(ctx,
			encode.Options{Source: src, VAE: model, VAEName: "bench", OutDir: out, ImageSize: picture.Square(size),
				BatchSize: batch, Flip: "none"})
		return time.Since(start), err
	}
	best := [2]time.Duration{1 << 62, 1 << 62}
	for round := range rounds + 1 {
		for i, src := range []catalog.Source{memory, files} {
			wall, err := encodeFrom(src)
			if err != nil {
				return err
			}
			if round > 0 { // the first one warms up
				best[i] = min(best[i], wall)
			}
		}
	}
	per := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(files.Len()) }
	slower := best[1] - best[0]
	fmt.Printf("%d pictures, %d threads of torch, one decoder, fastest of %d; milliseconds a picture:\n", files.Len(),
		threads, rounds)
	fmt.Printf("| encoding crops from memory | %.2f |\n| encoding the files | %.2f |\n| slower by | %.2f |\n| "+
		"decoding and cropping alone, processor time | %.2f |\n| slower by, in processor times | %.2f |\n",
		per(best[0]), per(best[1]), per(slower), per(decode), slower.Seconds()/decode.Seconds())
	return nil
}

func newVAE(dir string) (m *vae.AutoencoderKL, err error) {
	cfg, err := vae.SmallConfig(size, 4, 8)
	if err != nil {
		return nil, err
	}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		if m, err = vae.New(s, cfg); err != nil {
			return err
		}
		return m.Save(dir)
	})
	return m, err
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
