package main

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/interop"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/vae"
)

// convertLatents writes latents in the form of another program, or theirs in ours.
func convertLatents(e *env) error {
	c := e.flags
	to, from := c.String("to"), c.String("latents")
	kinds := []string{"ditrun"}
	for _, k := range interop.Kinds() {
		kinds = append(kinds, string(k))
	}
	if err := e.oneOf("to", kinds...); err != nil {
		return err
	}
	if exists(filepath.Join(from, latents.ManifestName)) == (to == "ditrun") {
		return usagef("convert: --latents %s: want latents of another program for --to ditrun, and ditrun's for "+
			"the others", from)
	}
	if to == "ditrun" {
		return importLatents(e)
	}
	return exportLatents(e, interop.Kind(to))
}

func importLatents(e *env) error {
	c := e.flags
	if c.String("vae") == "" {
		return withHint(usagef("convert: --to ditrun needs the autoencoder that made the latents: --vae"),
			"`ditrun fetch sd-vae-ft-ema` gets that of the published models")
	}
	set, err := interop.Open(e.ctx, c.String("latents"))
	if err != nil {
		return err
	}
	defer set.Close()
	encoder, err := vae.Read(c.String("vae"))
	if err != nil {
		return err
	}
	defer encoder.Close()
	cfg := encoder.Config
	if set.Channels != cfg.LatentChannels {
		return fmt.Errorf("--latents %s have %d channels, --vae %s has %d", c.String("latents"), set.Channels,
			c.String("vae"), cfg.LatentChannels)
	}
	sum, err := encoder.SHA256()
	if err == nil {
		err = encoder.Verify()
	}
	if err != nil {
		return err
	}
	size := picture.Size{Height: set.Height * cfg.Downsample(), Width: set.Width * cfg.Downsample()}
	e.printf("found   %s: %s of %dx%dx%d, of %s-pixel pictures", set.Kind, plural(len(set.Labels), "latent"),
		set.Channels, set.Height, set.Width, size)
	e.warn("%s does not keep %s", set.Kind, set.Kind.Loses())
	m, err := set.Write(e.ctx, c.String("out"), interop.Import{
		VAE: latents.VAE{Name: c.String("vae"), SHA256: sum, ScalingFactor: cfg.ScalingFactor}, ImageSize: size,
		Tool: "ditrun " + readVersion().Ditrun})
	if err != nil {
		return e.continues(err, "whole shards are kept")
	}
	// Latents that were scaled by another factor, or not at all, are seen by their size.
	std := 0.0
	for _, v := range m.Std {
		std = max(std, v*cfg.ScalingFactor)
	}
	if std < 0.5 || std > 2 {
		e.warn("after scaling by %.5g the channels have standard deviations of up to %.3g, where about 1 is usual: "+
			"is this the autoencoder that made them?", cfg.ScalingFactor, std)
	}
	e.printf("wrote   %s: %s in %s", c.String("out"), plural(len(set.Labels), "latent"), plural(len(m.Shards), "shard"))
	return e.result(map[string]any{"out": c.String("out"), "from": set.Kind, "to": "ditrun", "samples": len(set.Labels),
		"loses": set.Kind.Loses()})
}

func exportLatents(e *env, kind interop.Kind) error {
	c := e.flags
	l, err := latents.Open(c.String("latents"))
	if err != nil {
		return err
	}
	defer l.Close()
	out := filepath.Clean(c.String("out"))
	zip := filepath.Ext(out) == ".zip"
	if zip && kind != interop.EDM2 {
		return usagef("--out %s: only edm2 has an archive", out)
	}
	check := func() error { return checkTarget("diffusers", out) }
	if zip {
		check = func() error { return checkNoFolder(out) }
	}
	if err := check(); err != nil {
		return err
	}
	e.printf("found   ditrun: %s of %dx%dx%d", plural(l.Len(), "latent"), l.Manifest().Channels, l.Manifest().Height,
		l.Manifest().Width)
	e.warn("%s does not keep %s", kind, kind.Loses())
	bar := e.progress("convert", "latents", int64(l.Len()))
	bar.Start(0)
	o := interop.Export{Kind: kind, Seed: c.Uint64("seed"), OnProgress: func(done, _ int) { bar.Set(int64(done)) }}
	if zip {
		disk.Sweep(out)
		err = o.ToZip(e.ctx, l, out)
	} else {
		err = disk.WriteFolder(out, func(dir string) error { return o.ToFolder(e.ctx, l, dir) })
	}
	if err != nil {
		return err
	}
	bar.Finish()
	size, err := sizeOf(out)
	if err != nil {
		return err
	}
	e.printf("wrote   %s, %s", out, format.Bytes(size))
	return e.result(map[string]any{"out": out, "from": "ditrun", "to": kind, "samples": l.Len(), "loses": kind.Loses(),
		"bytes": size})
}

// convertsLatents says whether --latents is given, and refuses what does not go with it.
func convertsLatents(e *env) (bool, error) {
	c := e.flags
	if c.String("latents") == "" {
		return false, nil
	}
	for _, name := range []string{"ckpt", "model", "num-classes", "image-size", "learn-sigma",
		"timestep-frequency-shift"} {
		if slices.Contains(c.LocalFlagNames(), name) {
			return true, usagef("convert: --%s is for checkpoints, not for --latents", name)
		}
	}
	return true, e.require("to", "out")
}
