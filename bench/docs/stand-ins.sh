#!/usr/bin/env bash
# Makes what the pages begin with, by the names that they use, in the current folder; in the folder HUB the files of the
# hub, and in the cache of ditrun a file of the original, with the names of the released ones.
#
#   stand-ins.sh HUB
set -euxo pipefail
hub=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
go run -C "$root" ./bench/docs/pictures "$PWD/pictures"
go run -C "$root" ./bench/docs/album "$PWD/photos"
mkdir imagenet && cp -r pictures imagenet/train
ditrun train-vae --data pictures --out vae --image-size 64 --downsample 8 --max-steps 2
ditrun encode-latents --data pictures --vae vae --out latents --image-size 256
ditrun train --data latents --vae vae
DOCS_RELEASED=1 ditrun train --data latents --num-classes 1000 --run-dir released
mkdir -p "$DOCS_CACHE/ditrun" "$hub/stabilityai" "$hub/facebook"
ditrun convert --ckpt released --to official --out "$DOCS_CACHE/ditrun/DiT-XL-2-256x256.pt"
ditrun convert --ckpt released --to diffusers --vae vae --out "$hub/facebook/DiT-XL-2-256"
rm -r released
for name in ema mse; do cp -r vae "$hub/stabilityai/sd-vae-ft-$name"; done
go run -C "$root" ./bench/docs/inception "$DOCS_CACHE/ditrun/pt_inception-2015-12-05-6726825d.pth"
