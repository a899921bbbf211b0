#!/usr/bin/env bash
# From real pictures to sampled ones: trains a VAE and a DiT on Fashion-MNIST (60,000 pictures of clothes in ten
# classes) and samples them. Each step is a ditrun command; the script prints it before it runs.
#
# DEMO_VAE_STEPS, DEMO_STEPS and DEMO_SAMPLING_STEPS in the environment shorten it. Everything is written to DEMO_DIR.
# The pictures are kept in ~/.cache/ditrun.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=${DEMO_DIR:-build/demo}
data=$(bench/demo/fashion-mnist.sh)
ditrun=bin/ditrun

vae_steps=${DEMO_VAE_STEPS:-1200} steps=${DEMO_STEPS:-2400} sampling_steps=${DEMO_SAMPLING_STEPS:-50}
# No mirrored views: all shoes of this data set point to the left.
train_vae=(--image-size 32 --downsample 4 --latent-channels 4 --batch-size 8 --max-steps "$vae_steps" --flip-prob 0)
encode_latents=(--image-size 32 --flip none)
train=(--model DiT-192x6x6/2 --global-batch-size 64 --max-steps "$steps"
	--lr 2e-3 --warmup-steps 100 --lr-schedule linear --final-lr 0.05 --ema-decay 0.998
	--log-every 50 --sample-every "$(((steps + 1) / 2))")
sample=(--cfg-scale 4.0 --num-sampling-steps "$sampling_steps" --num-samples 100)

run() {
	printf '\n$ %s\n' "$*"
	"$@"
}

mkdir -p "$out"
rm -rf "$out/vae" "$out/latents" "$out/run" "$out/samples.png"
run "$ditrun" train-vae --data "$data" --out "$out/vae" "${train_vae[@]}"
run "$ditrun" encode-latents --data "$data" --vae "$out/vae" --out "$out/latents" "${encode_latents[@]}"
run "$ditrun" train --data "$out/latents" --vae "$out/vae" --run-dir "$out/run" "${train[@]}"
run "$ditrun" sample --ckpt "$out/run" --vae "$out/vae" "${sample[@]}" --out "$out/samples.png"

printf '\nDone in %d min %02d s.\n' $((SECONDS / 60)) $((SECONDS % 60))
cat <<END
  samples, one class a row $out/samples.png
  loss over the steps      $out/run/loss.png
  the run                  $out/run

Without guidance the samples vary more and show their class less clearly; compare:
  $ditrun sample --ckpt $out/run --vae $out/vae --cfg-scale 1.0 \\
    --num-sampling-steps $sampling_steps --num-samples 100 --out $out/samples-cfg-1.png
END
