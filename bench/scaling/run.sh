#!/usr/bin/env bash
# The study of docs/scaling.md: eleven models of five sizes and three patches, trained on Fashion-MNIST for equal steps,
# and what `ditrun scaling` makes of them. It takes less than two hours on two cores; finished runs are not repeated.
#
# Everything is written to SCALING_DIR.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=${SCALING_DIR:-build/scaling}
ditrun=bin/ditrun

models="DiT-144x5x6/1 DiT-192x6x6/2 DiT-96x4x3/1 DiT-144x5x6/2 DiT-64x3x2/1 DiT-96x4x3/2 DiT-192x6x6/4 DiT-64x3x2/2
	DiT-144x5x6/4 DiT-96x4x3/4 DiT-48x2x2/2"

train_model() { # train_model MODEL
	local dir=$out/runs/${1//\//-}
	if grep -qs 'Done!' "$dir/log.txt"; then return; fi
	"$ditrun" --quiet train --threads 1 --data "$out/latents" --run-dir "$dir" --resume auto --model "$1" \
		--global-batch-size 64 --max-steps 1000 --lr 2e-3 --warmup-steps 100 --lr-schedule linear --final-lr 0.05 \
		--ema-decay 0.998 --log-every 10
}
export -f train_model
export out ditrun

mkdir -p "$out/runs"
if [ ! -e "$out/latents/manifest.json" ]; then # as in the demo
	data=$(bench/demo/fashion-mnist.sh)
	"$ditrun" train-vae --data "$data" --out "$out/vae" --image-size 32 --downsample 4 --latent-channels 4 \
		--batch-size 8 --max-steps 1200 --flip-prob 0
	"$ditrun" encode-latents --data "$data" --vae "$out/vae" --out "$out/latents" --image-size 32 --flip none
fi
# Models as small as these gain little from a second thread, so each core gets a run.
tr -s ' \t\n' '\n' <<<"$models" | xargs -P "$(nproc)" -L 1 bash -c 'train_model "$@"' _
"$ditrun" scaling "$out/runs" --plot "$out/scaling.png" | tee "$out/table.txt"
# Would it have been known before? The largest by the three small ones of its patch.
"$ditrun" scaling "$out"/runs/DiT-{48x2x2,64x3x2,96x4x3}-2 --predict DiT-144x5x6/2,DiT-192x6x6/2
