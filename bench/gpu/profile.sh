#!/usr/bin/env bash
# Kernels of training steps of DiT-XL/2 by their share of the time, as Nsight Systems counts them.
#
#   profile.sh DITRUN DEVICE ROAD
#
# ROAD is the folder in which road.sh worked: its pictures and its autoencoder make latents of 32 x 32.
set -euo pipefail
ditrun=$(realpath "$1") device=$2
cd "$3"
"$ditrun" encode-latents --data pictures --vae vae --out profile-latents --image-size 128 --device "$device" >/dev/null
nsys profile --trace=cuda --sample=none --cpuctxsw=none --force-overwrite=true --output=profile \
	"$ditrun" train --data profile-latents --model DiT-XL/2 --global-batch-size 64 --precision bf16 --max-steps 30 \
	--log-every 10 --ckpt-every 1000000 --run-dir profile-run --device "$device" >profile.out 2>&1 ||
	{ tail -5 profile.out >&2; exit 1; }
nsys stats --report cuda_gpu_kern_sum --format table profile.nsys-rep
