package main

import (
	"fmt"
	"path/filepath"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/interop"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/vae"
)

// checkLatents is check for --latents.
func (o *convertOptions) checkLatents(given func(string) bool) error {
	for _, name := range []string{"ckpt", "model", "num-classes", "image-size", "learn-sigma",
		"timestep-frequency-shift"} {
		if given(name) {
			return usagef("convert: --%s is for checkpoints, not for --latents", name)
		}
	}
	if err := require("convert", required{"to", o.to}, required{"out", o.out}); err != nil {
		return err
	}
	kinds := []string{"ditrun"}
	for _, k := range interop.Kinds() {
		kinds = append(kinds, string(k))
	}
	if err := oneOf("to", o.to, kinds...); err != nil {
		return err
	}
	if exists(filepath.Join(o.latents, latents.ManifestName)) == (o.to == "ditrun") {
		return usagef("convert: --latents %s: want latents of another program for --to ditrun, and ditrun's for "+
			"the others", o.latents)
	}
	if o.to == "ditrun" {
		if o.vae == "" {
			return withHint(usagef("convert: --to ditrun needs the autoencoder that made the latents: --vae"),
				"`ditrun fetch sd-vae-ft-ema` gets that of the published models")
		}
		return checkFolder("out", o.out)
	}
	o.out = filepath.Clean(o.out)
	if !o.toArchive() {
		return checkTarget("diffusers", o.out)
	}
	if interop.Kind(o.to) != interop.EDM2 {
		return usagef("--out %s: only edm2 has an archive", o.out)
	}
	if err := disk.FitsFile(o.out); err != nil {
		return fmt.Errorf("--out %s: %w", o.out, err)
	}
	return checkFile("out", o.out)
}

func (o *convertOptions) toArchive() bool { return filepath.Ext(o.out) == ".zip" }

// importLatents writes the latents of another program in our form.
func (o *convertOptions) importLatents(e *env) error {
	endWait := e.waiting("opening the latents")
	set, err := interop.Open(e.ctx, o.latents)
	endWait()
	if err != nil {
		return err
	}
	defer set.Close()
	encoder, err := vae.Read(o.vae)
	if err != nil {
		return err
	}
	defer encoder.Close()
	cfg := encoder.Config
	if set.Channels != cfg.LatentChannels {
		return fmt.Errorf("--latents %s have %d channels, --vae %s has %d", o.latents, set.Channels, o.vae,
			cfg.LatentChannels)
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
	if err := o.checkImport(e, set); err != nil {
		return err
	}
	e.warn("%s does not keep %s", set.Kind, set.Kind.Loses())
	defer e.waiting("writing " + o.out)()
	m, err := set.Write(e.ctx, o.out, interop.Import{
		VAE: latents.VAE{Name: o.vaeName, SHA256: sum, ScalingFactor: cfg.ScalingFactor}, ImageSize: size,
		Tool: "ditrun " + readVersion().Ditrun})
	if err != nil {
		return e.continues(err, "whole shards are kept")
	}
	// Latents that were scaled by another factor, or not at all, show by their size.
	if text := latents.WrongScale(cfg.ScalingFactor, overallStd(m.Mean, m.Std)*cfg.ScalingFactor); text != "" {
		e.warn("%s", text)
	}
	e.printf("wrote   %s: %s in %s", o.out, plural(len(set.Labels), "latent"), plural(len(m.Shards), "shard"))
	return e.result(map[string]any{"out": o.out, "from": set.Kind, "to": "ditrun", "samples": len(set.Labels),
		"loses": set.Kind.Loses()})
}

// checkImport compares what latents take in our form with what is free.
func (o *convertOptions) checkImport(e *env, set *interop.Set) error {
	plan := latents.Plan{Dataset: latents.Dataset{Samples: len(set.Labels)}, Channels: set.Channels,
		Height: set.Height, Width: set.Width, DType: checkpoint.F32, Flip: set.Flip}
	left := plan.BytesLeft(o.out)
	_, err := e.checkRoom(latentShards(o.out, left, min(left, plan.ShardBytes())))
	return err
}

// exportLatents writes our latents in the form of another program.
func (o *convertOptions) exportLatents(e *env) error {
	kind := interop.Kind(o.to)
	l, err := latents.Open(o.latents)
	if err != nil {
		return err
	}
	defer l.Close()
	e.printf("found   ditrun: %s of %dx%dx%d", plural(l.Len(), "latent"), l.Manifest().Channels, l.Manifest().Height,
		l.Manifest().Width)
	n := kind.Bytes(l.Manifest())
	if _, err := e.checkRoom(writing{flag: "out", path: o.out, what: "the latents", all: n, least: n}); err != nil {
		return err
	}
	e.warn("%s does not keep %s", kind, kind.Loses())
	bar := e.progress("convert", "latents", int64(l.Len()))
	bar.Start(0)
	export := interop.Export{Kind: kind, Seed: o.changes.Seed, OnProgress: func(done, _ int) { bar.Set(int64(done)) }}
	if o.toArchive() {
		disk.Sweep(o.out)
		err = export.ToZip(e.ctx, l, o.out)
	} else {
		err = disk.WriteFolder(o.out, func(dir string) error { return export.ToFolder(e.ctx, l, dir) })
	}
	if err != nil {
		return err
	}
	bar.Finish()
	size, err := sizeOf(o.out)
	if err != nil {
		return err
	}
	e.printf("wrote   %s, %s", o.out, format.Bytes(size))
	return e.result(map[string]any{"out": o.out, "from": "ditrun", "to": kind, "samples": l.Len(),
		"loses": kind.Loses(), "bytes": size})
}
