package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/internal/names"
)

// A foreignFlag is a flag of another program that a command of ours has under another name, or does not need.
type foreignFlag struct {
	program string // whose it is
	command string // of ours
	theirs  string // with dashes, also where the program writes underscores
	ours    string // "" where there is none
	note    string // what is not the same, or why there is none; "" where it is the same
}

// The programs whose flags are known.
const (
	ofDiT          = "DiT" // facebookresearch/DiT: train.py, sample.py, sample_ddp.py
	ofFastDiT      = "fast-DiT"
	ofSiT          = "SiT"
	ofLightningDiT = "LightningDiT"
	ofDiffusers    = "diffusers"
	ofEDM2         = "EDM2"
	ofTorchrun     = "torchrun"
	ofOthers       = "another program"
)

// foreignFlags has no flag that our command has under the same name: docs/from-dit.md lists those too.
var foreignFlags = []foreignFlag{
	{ofDiT, "train", "data-path", "data", "the latents that encode-latents makes of the pictures"},
	{ofFastDiT, "train", "feature-path", "data",
		"convert --latents FEATURES --to ditrun makes our form of its features"},
	{ofFastDiT, "train", "features-path", "data",
		"convert --latents FEATURES --to ditrun makes our form of its features"},
	{ofSiT, "train", "ckpt", "resume", "or --init-from, for weights alone"},
	{ofSiT, "train", "wandb", "",
		"a run writes log.jsonl and TensorBoard's event files, --metrics-addr serves Prometheus"},
	{ofSiT, "train", "cfg-scale", "", "previews are drawn with guidance 4"},
	{ofSiT, "train", "path-type", "path", "in small letters"},
	{ofSiT, "train", "prediction", "objective", ""},
	{ofSiT, "train", "train-eps", "", "the margins are those that SiT has without it"},
	{ofDiffusers, "train", "prediction-type", "objective",
		"epsilon is eps; sample has no counterpart on DiT's steps: data and velocity are on a path"},
	{ofDiffusers, "train", "weighting-scheme", "time-sampling", "logit-normal"},
	{ofDiffusers, "train", "logit-mean", "time-sampling", "logit-normal:MEAN,STD"},
	{ofDiffusers, "train", "logit-std", "time-sampling", "logit-normal:MEAN,STD"},
	{ofDiffusers, "train", "snr-gamma", "loss-weight", "min-snr has a gamma of 5"},
	{ofDiffusers, "train", "train-data-dir", "data", "the latents that encode-latents makes of the pictures"},
	{ofDiffusers, "train", "dataset-name", "data", "the latents that encode-latents makes of pictures"},
	{ofDiffusers, "train", "output-dir", "run-dir", "or --results-dir, for a new folder in it"},
	{ofDiffusers, "train", "resolution", "image-size", ""},
	{ofDiffusers, "train", "train-batch-size", "global-batch-size", "of all processes together"},
	{ofOthers, "train", "batch-size", "global-batch-size", "of all processes together"},
	{ofDiffusers, "train", "num-epochs", "epochs", ""},
	{ofDiffusers, "train", "num-train-epochs", "epochs", ""},
	{ofDiffusers, "train", "max-train-steps", "max-steps", ""},
	{ofDiffusers, "train", "learning-rate", "lr", ""},
	{ofDiffusers, "train", "lr-scheduler", "lr-schedule", ""},
	{ofDiffusers, "train", "lr-warmup-steps", "warmup-steps", ""},
	{ofDiffusers, "train", "adam-weight-decay", "weight-decay", ""},
	{ofDiffusers, "train", "seed", "global-seed", ""},
	{ofDiffusers, "train", "mixed-precision", "precision", "bf16, tf32 or fp32"},
	{ofDiffusers, "train", "allow-tf32", "precision", "--precision tf32, which is the default on a GPU"},
	{ofDiffusers, "train", "gradient-checkpointing", "recompute-activations", ""},
	{ofDiffusers, "train", "checkpointing-steps", "ckpt-every", ""},
	{ofDiffusers, "train", "checkpoints-total-limit", "keep-last", ""},
	{ofDiffusers, "train", "resume-from-checkpoint", "resume", ""},
	{ofDiffusers, "train", "dataloader-num-workers", "num-workers", ""},
	{ofDiffusers, "train", "pretrained-model-name-or-path", "init-from", ""},
	{ofDiffusers, "train", "use-ema", "", "the weights are always averaged"},
	{ofDiffusers, "train", "ema-max-decay", "ema-decay", ""},
	{ofDiffusers, "train", "random-flip", "flip-prob", "0.5 is the default"},
	{ofOthers, "train", "cfg", "config", "a YAML file, or the name of a preset"},
	{ofOthers, "train", "dataset", "data", "the latents that encode-latents makes of the pictures"},
	{ofOthers, "train", "output", "run-dir", "or --results-dir, for a new folder in it"},
	{ofOthers, "train", "out", "run-dir", "or --results-dir, for a new folder in it"},
	{ofOthers, "train", "img-size", "image-size", ""},
	{ofOthers, "train", "steps", "max-steps", ""},
	{ofOthers, "train", "num-steps", "max-steps", ""},
	{ofOthers, "train", "iterations", "max-steps", ""},
	{ofOthers, "train", "fp16", "precision", "give --precision bf16"},
	{ofOthers, "train", "bf16", "precision", "give --precision bf16"},
	{ofOthers, "train", "amp", "precision", "give --precision bf16"},
	{ofOthers, "train", "wd", "weight-decay", ""},
	{ofOthers, "train", "clip-grad", "max-grad-norm", ""},
	{ofOthers, "train", "grad-clip", "max-grad-norm", ""},
	{ofOthers, "train", "workers", "num-workers", ""},
	{ofOthers, "train", "gpus", "", "`ditrun launch -n N` starts a process for each GPU"},

	{ofDiT, "sample", "image-size", "", "the checkpoint has its size"},
	{ofDiT, "sample", "num-classes", "", "the checkpoint has its classes"},
	{ofDiT, "sample", "sample-dir", "out", "a folder, or a name that ends in .npz"},
	{ofDiT, "sample", "per-proc-batch-size", "batch-size", ""},
	{ofDiT, "sample", "num-fid-samples", "num-samples", "with --class-labels random, as sample_ddp.py draws them"},
	{ofDiT, "sample", "global-seed", "seed", ""},
	{ofDiT, "sample", "tf32", "precision", "--precision tf32, which is the default on a GPU"},
	{ofDiT, "sample", "no-tf32", "precision", "--precision fp32"},
	{ofDiffusers, "sample", "guidance-scale", "cfg-scale", "--cfg-channels all guides all channels, as diffusers does"},
	{ofDiffusers, "sample", "num-inference-steps", "num-sampling-steps", ""},
	{ofDiffusers, "sample", "pretrained-model-name-or-path", "ckpt", ""},
	{ofDiffusers, "sample", "output-dir", "out", ""},
	{ofEDM2, "sample", "gnet", "guide-ckpt", ""},
	{ofSiT, "sample", "atol", "", "dopri5 has 1e-6, as SiT has; Go programs can choose another"},
	{ofSiT, "sample", "rtol", "", "dopri5 has 1e-3, as SiT has; Go programs can choose another"},
	{ofLightningDiT, "sample", "timestep-shift", "", "the weights have the shift that train --time-shift gave them"},
	{ofLightningDiT, "sample", "cfg-interval-start", "guidance-interval", "LO,HI in one, as 0.1,1"},
	{ofLightningDiT, "train", "timestep-shift", "time-shift", ""},
	{ofSiT, "sample", "sampling-method", "solver", "euler, heun, dopri5, ..., of an SDE sde-euler or sde-heun"},
	{ofOthers, "sample", "checkpoint", "ckpt", ""},
	{ofOthers, "sample", "weights", "ckpt", ""},
	{ofOthers, "sample", "cfg", "cfg-scale", ""},
	{ofOthers, "sample", "guidance", "cfg-scale", ""},
	{ofOthers, "sample", "scale", "cfg-scale", ""},
	{ofOthers, "sample", "steps", "num-sampling-steps", ""},
	{ofOthers, "sample", "num-steps", "num-sampling-steps", ""},
	{ofOthers, "sample", "guidance-low", "guidance-interval", "LO,HI in one, as 0,0.7"},
	{ofOthers, "sample", "guidance-high", "guidance-interval", "LO,HI in one, as 0,0.7"},
	{ofOthers, "sample", "ddim", "solver", "give --solver ddim"},
	{ofOthers, "sample", "ddim-steps", "num-sampling-steps", "with --solver ddim"},
	{ofOthers, "sample", "ddim-eta", "solver", "ddim is an eta of 0, ddpm of 1"},
	{ofOthers, "sample", "eta", "solver", "ddim is an eta of 0, ddpm of 1"},
	{ofOthers, "sample", "fp16", "precision", "give --precision bf16"},
	{ofOthers, "sample", "bf16", "precision", "give --precision bf16"},
	{ofOthers, "sample", "half", "precision", "give --precision bf16"},
	{ofOthers, "sample", "n-samples", "num-samples", ""},
	{ofOthers, "sample", "num-images", "num-samples", ""},
	{ofOthers, "sample", "class", "class-labels", ""},
	{ofOthers, "sample", "classes", "class-labels", ""},
	{ofOthers, "sample", "label", "class-labels", ""},
	{ofOthers, "sample", "labels", "class-labels", ""},
	{ofOthers, "sample", "output", "out", ""},
	{ofOthers, "sample", "outdir", "out", ""},

	{ofDiT, "encode-latents", "data-path", "data", ""},
	{ofFastDiT, "encode-latents", "features-path", "out", ""},
	{ofFastDiT, "encode-latents", "results-dir", "",
		"it has no use in extract_features.py either: --out names the folder"},
	{ofFastDiT, "encode-latents", "model", "", "latents are the same for every model: train has it"},
	{ofFastDiT, "encode-latents", "num-classes", "", "the class folders decide"},
	{ofFastDiT, "encode-latents", "epochs", "", "each picture is encoded once, and its mirror image: train has it"},
	{ofFastDiT, "encode-latents", "global-batch-size", "batch-size", "of one process, and without effect on training"},
	{ofFastDiT, "encode-latents", "global-seed", "", "nothing is drawn: the posteriors are kept, and training draws"},
	{ofFastDiT, "encode-latents", "log-every", "", "a bar shows how far it is"},
	{ofFastDiT, "encode-latents", "ckpt-every", "", "whole shards are kept, and the same command continues"},
	{ofDiffusers, "encode-latents", "train-data-dir", "data", ""},
	{ofDiffusers, "encode-latents", "output-dir", "out", ""},
	{ofDiffusers, "encode-latents", "resolution", "image-size", ""},
	{ofDiffusers, "encode-latents", "mixed-precision", "precision", ""},
	{ofDiffusers, "encode-latents", "pretrained-model-name-or-path", "vae", ""},
	{ofOthers, "encode-latents", "output", "out", ""},
	{ofOthers, "encode-latents", "img-size", "image-size", ""},
	{ofOthers, "encode-latents", "fp16", "precision", "give --precision fp16"},
	{ofOthers, "encode-latents", "bf16", "precision", "give --precision bf16"},
	{ofOthers, "encode-latents", "workers", "num-workers", ""},

	{ofDiT, "train-vae", "data-path", "data", ""},
	{ofDiT, "train-vae", "global-batch-size", "batch-size", ""},
	{ofDiffusers, "train-vae", "train-data-dir", "data", ""},
	{ofDiffusers, "train-vae", "output-dir", "out", ""},
	{ofDiffusers, "train-vae", "resolution", "image-size", ""},
	{ofDiffusers, "train-vae", "train-batch-size", "batch-size", ""},
	{ofDiffusers, "train-vae", "max-train-steps", "max-steps", ""},
	{ofDiffusers, "train-vae", "learning-rate", "lr", ""},
	{ofDiffusers, "train-vae", "seed", "global-seed", ""},
	{ofOthers, "train-vae", "output", "out", ""},
	{ofOthers, "train-vae", "img-size", "image-size", ""},
	{ofOthers, "train-vae", "steps", "max-steps", ""},
	{ofOthers, "train-vae", "iterations", "max-steps", ""},
	{ofOthers, "train-vae", "fp16", "", "it trains in fp32"},
	{ofOthers, "train-vae", "bf16", "", "it trains in fp32"},
	{ofOthers, "train-vae", "workers", "num-workers", ""},

	{ofTorchrun, launchName, "nproc-per-node", "num-processes", ""},
	{ofTorchrun, launchName, "nnodes", "",
		"launch starts processes on this machine; torchrun and Slurm start ditrun on several"},
}

// foreign returns the flag of another program that a user of a command of ours gave.
func foreign(command, flag string) (foreignFlag, bool) {
	flag = strings.ReplaceAll(flag, "_", "-")
	i := slices.IndexFunc(foreignFlags, func(f foreignFlag) bool { return f.command == command && f.theirs == flag })
	if i < 0 {
		return foreignFlag{}, false
	}
	return foreignFlags[i], true
}

// hint says what we have for the flag. Dashes are what stands before names of flags, "" for keys of a configuration.
func (f foreignFlag) hint(dashes string) string {
	text := fmt.Sprintf("%s%s is what %s calls %s%s", dashes, f.ours, f.program, dashes, f.theirs)
	switch {
	case f.ours == "":
		return fmt.Sprintf("%s needs no %s%s: %s", f.command, dashes, f.theirs, f.note)
	case f.note == "":
		return text
	}
	return text + ": " + f.note
}

// hintOfFlag says which of our flags an unknown one of a command may stand for, "" where that is not known. Dashes are
// as in [foreignFlag.hint].
func hintOfFlag(command, dashes, flag string, ours []string) string {
	if f, ok := foreign(command, flag); ok {
		return f.hint(dashes)
	}
	if dashed := strings.ReplaceAll(flag, "_", "-"); slices.Contains(ours, dashed) {
		return fmt.Sprintf("did you mean %s%s?", dashes, dashed)
	}
	if n := names.Nearest(flag, ours); n != "" {
		return fmt.Sprintf("did you mean %s%s?", dashes, n)
	}
	return ""
}
