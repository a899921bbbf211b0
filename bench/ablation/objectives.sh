#!/usr/bin/env bash
# The study of objectives in docs/ablation.md: four models on Fashion-MNIST that differ in what they are trained on,
# with equal steps and seeds. It takes about an hour on two cores; finished parts are not repeated.
#
# PYTHON names a Python with torch, numpy and pillow. Everything is written to ABLATION_DIR.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/ablation/common.sh

# Name of each run, and its flags.
objectives="eps
min-snr --loss-weight min-snr
velocity --objective velocity
velocity-logit-normal --objective velocity --time-sampling logit-normal"

train_objective() { # train_objective NAME FLAGS
	local dir=$out/objectives/$1
	if finished "$dir"; then return; fi
	# shellcheck disable=SC2086 # words
	run "$ditrun" --quiet train --threads 1 --data "$out/latents" --run-dir "$dir" --resume auto \
		--model DiT-192x6x6/2 --max-steps 2400 "${@:2}" $recipe
}
export -f run finished train_objective
export out ditrun recipe

# A run on each core, as in run.sh.
xargs -P "$(nproc)" -L 1 bash -c 'train_objective "$@"' _ <<<"$objectives"

# What the models make of pictures that none was trained on.
if [ ! -e "$out/test-latents/manifest.json" ]; then
	run "$ditrun" encode-latents --data "$data/t10k-images-idx3-ubyte.gz" --vae "$out/vae" --out "$out/test-latents" \
		--image-size 32 --flip none
fi
names=$(cut -d ' ' -f 1 <<<"$objectives")
mapfile -t runs < <(sed "s#^#$out/objectives/#" <<<"$names")
go run ./bench/ablation/denoise "$out/test-latents" "${runs[@]}" >"$out/objectives/denoise.json"

# Solvers of each family with and without noise, all of one call of the network a step.
for name in $names; do
	case $name in
	velocity*) solvers="sde-euler euler" ;;
	*) solvers="ddpm ddim" ;;
	esac
	for solver in $solvers; do
		samples=$out/objectives/$name-$solver
		if [ ! -e "$samples.npz" ]; then
			run "$ditrun" sample --ckpt "$out/objectives/$name" --vae "$out/vae" --solver "$solver" \
				--num-sampling-steps 50 --cfg-scale 4.0 --num-samples 500 --batch-size 250 --out "$samples.npz"
		fi
		judge "$samples.npz" --json >"$samples.json"
	done
done
go run ./bench/ablation/plot objectives "$out/objectives" | tee "$out/objectives/table.md"
