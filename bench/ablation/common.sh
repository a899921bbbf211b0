# What the studies of docs/ablation.md share; run.sh and objectives.sh source it from the top of the repository.
#
# PYTHON names a Python with torch, numpy and pillow. Everything is written to ABLATION_DIR.

out=${ABLATION_DIR:-build/ablation}
python=${PYTHON:-python3}
ditrun=bin/ditrun
data=$(bench/demo/fashion-mnist.sh)

run() {
	printf '\n$ %s\n' "$*"
	"$@"
}

finished() { grep -qs 'Done!' "$1/log.txt"; }

# How the demo trains. Words, not an array: bash does not export arrays.
recipe="--global-batch-size 64 --lr 2e-3 --warmup-steps 100 --lr-schedule linear --final-lr 0.05 --ema-decay 0.998
	--log-every 50"

judge() { # judge SAMPLES [FLAGS]
	"$python" bench/demo/judge.py --data "$data" --cache "$out/judge.pt" "$@"
}

mkdir -p "$out/runs"
if [ ! -d "$out/vae" ]; then # as in the demo
	run "$ditrun" train-vae --data "$data" --out "$out/vae" --image-size 32 --downsample 4 --latent-channels 4 \
		--batch-size 8 --max-steps 1200 --flip-prob 0
fi
if [ ! -e "$out/latents/manifest.json" ]; then
	run "$ditrun" encode-latents --data "$data" --vae "$out/vae" --out "$out/latents" --image-size 32 --flip none
fi
