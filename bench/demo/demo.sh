#!/usr/bin/env bash
# From real pictures to sampled ones: trains a VAE and a DiT on pictures and samples them. Each step is a ditrun
# command; the script prints it before it runs.
#
#   demo.sh fashion-mnist    60,000 grey pictures of clothes in ten classes, at 32 pixels: make demo
#   demo.sh emoji            1,239 coloured emoji in six classes, at 64 pixels: make demo-color
#
# DEMO_VAE_STEPS, DEMO_STEPS and DEMO_SAMPLING_STEPS in the environment shorten it. Everything is written to DEMO_DIR.
# The pictures are kept in ~/.cache/ditrun.
set -euo pipefail
cd "$(dirname "$0")/../.."

ditrun=bin/ditrun

run() {
	printf '\n$ %s\n' "$*"
	"$@"
}

case ${1:-} in
fashion-mnist)
	out=${DEMO_DIR:-build/demo}
	vae_steps=${DEMO_VAE_STEPS:-1200} steps=${DEMO_STEPS:-2400}
	# No mirrored views: all shoes of this data set point to the left.
	train_vae=(--image-size 32 --downsample 4 --latent-channels 4 --batch-size 8 --flip-prob 0)
	encode_latents=(--image-size 32 --flip none)
	train=(--model DiT-192x6x6/2 --global-batch-size 64 --lr 2e-3 --ema-decay 0.998)
	cfg_scale=4.0 samples=100
	sample=()
	data=$(bench/demo/fashion-mnist.sh)
	;;
emoji)
	out=${DEMO_DIR:-build/demo-color}
	vae_steps=${DEMO_VAE_STEPS:-2000} steps=${DEMO_STEPS:-13000}
	train_vae=(--image-size 64 --downsample 4 --latent-channels 4 --batch-size 8)
	encode_latents=(--image-size 64)
	# Patches of 4 make 16 tokens of the 16 x 16 latents: with 64 tokens, a step takes four times as long.
	train=(--model DiT-192x6x6/4 --global-batch-size 32 --lr 1.5e-3 --ema-decay 0.998)
	cfg_scale=2.5 samples=60
	sample=(--cfg-channels all)
	data=$out/pictures
	package=$(bench/demo/emoji.sh)
	rm -rf "$data"
	run go run ./bench/demo/emoji -out "$data" "$package"
	;;
*)
	echo "usage: demo.sh fashion-mnist|emoji" >&2
	exit 2
	;;
esac
train+=(--warmup-steps 100 --lr-schedule linear --final-lr 0.05 --max-steps "$steps"
	--log-every 50 --sample-every "$(((steps + 1) / 2))")
sampling_steps=${DEMO_SAMPLING_STEPS:-50}
sample+=(--num-sampling-steps "$sampling_steps" --num-samples "$samples")

mkdir -p "$out"
rm -rf "$out/vae" "$out/latents" "$out/run" "$out/samples.png"
run "$ditrun" train-vae --data "$data" --out "$out/vae" "${train_vae[@]}" --max-steps "$vae_steps"
run "$ditrun" encode-latents --data "$data" --vae "$out/vae" --out "$out/latents" "${encode_latents[@]}"
run "$ditrun" train --data "$out/latents" --vae "$out/vae" --run-dir "$out/run" "${train[@]}"
run "$ditrun" sample --ckpt "$out/run" --vae "$out/vae" --cfg-scale "$cfg_scale" "${sample[@]}" --out "$out/samples.png"

printf '\nDone in %d min %02d s.\n' $((SECONDS / 60)) $((SECONDS % 60))
cat <<END
  samples, one class a row $out/samples.png
  loss over the steps      $out/run/loss.png
  the run                  $out/run

Without guidance the samples vary more and show their class less clearly; compare:
  $ditrun sample --ckpt $out/run --vae $out/vae --cfg-scale 1.0 \\
    --num-sampling-steps $sampling_steps --num-samples $samples --out $out/samples-cfg-1.png
END
