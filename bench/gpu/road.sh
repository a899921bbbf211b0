#!/usr/bin/env bash
# The road of a user on one device: pictures, an autoencoder, latents, training that is killed and goes on, samples in
# batches of several sizes. Everything is small and made here, so that it takes seconds.
#
#   road.sh DITRUN DEVICE [FOLDER]
#
# It prints a line for each thing that holds, and ends with code 1 at the first that does not. FOLDER, by default a new
# one that is removed at the end, is where it works; FOLDER/log keeps what the commands print.
set -euo pipefail
ditrun=$(realpath "$1") device=$2
if [ $# -gt 2 ]; then
	mkdir -p "$3"
	cd "$3"
else
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	cd "$work"
fi
start=$SECONDS
say() { echo "road: $((SECONDS - start)) s: $*"; }
fail() {
	echo "road: error: $*" >&2
	[ ! -e log ] || tail -5 log >&2
	exit 1
}
run() {
	echo "\$ ditrun $*" >>log
	"$ditrun" "$@" --device "$device" >>log 2>&1 || fail "ditrun $1: exit code $?"
}
gpu() { [ "${device%%:*}" = cuda ]; }

# Four classes of 16 pictures: stripes of a width and colour of each class, each picture shifted and shaded otherwise.
for class in 1 2 3 4; do
	mkdir -p "pictures/$class"
	for i in $(seq 16); do
		awk -v class="$class" -v i="$i" 'BEGIN {
			print "P3 32 32 255"
			for (y = 0; y < 32; y++) for (x = 0; x < 32; x++) {
				on = int((x + i) / class) % 2
				print on * 60 * class, (1 - on) * (250 - 50 * class), 40 + 3 * y + 5 * i
			}
		}' >"pictures/$class/$i.ppm"
	done
done

run train-vae --data pictures --out vae --image-size 32 --batch-size 16 --max-steps 30
say "train-vae"

precisions=fp32
if gpu; then precisions="tf32 bf16"; fi
for p in $precisions; do
	run encode-latents --data pictures --vae vae --out "latents-$p" --image-size 32 --precision "$p"
	run encode-latents --out "latents-$p" --verify
	say "encode-latents in $p"
done

# A run that is killed once it has a checkpoint and then goes on, and one that is not, end with the same bytes. One that
# was done before it could be killed is made again, with twice the steps.
sums() { (cd "$1/checkpoints/$(printf %07d $steps)" && sha256sum ./*.safetensors); }
for p in $precisions; do
	for steps in 200 400 800 1600; do
		train=(train --data "latents-$p" --vae vae --model DiT-64x2x4/2 --global-batch-size 16 --max-steps $steps
			--ckpt-every 40 --log-every 40 --precision "$p" --deterministic)
		rm -rf "killed-$p"
		"$ditrun" "${train[@]}" --run-dir "killed-$p" --device "$device" >>log 2>&1 &
		pid=$!
		while kill -0 $pid 2>/dev/null && [ ! -e "killed-$p/checkpoints/latest" ]; do sleep 0.01; done
		kill -9 $pid 2>/dev/null || true
		code=0
		wait $pid 2>/dev/null || code=$?
		case $code in
		0 | 137) ;;
		*) fail "train in $p: exit code $code" ;;
		esac
		last=killed-$p/checkpoints/$(printf %07d $steps)
		[ -e "$last" ] || break
	done
	[ ! -e "$last" ] || fail "train in $p: $steps steps were done before it could be killed"
	run "${train[@]}" --run-dir "killed-$p" --resume auto
	run "${train[@]}" --run-dir "whole-$p"
	[ "$(sums "whole-$p")" = "$(sums "killed-$p")" ] ||
		fail "train in $p: a run that was killed and resumed ends with other weights, averages or moments"
	say "train in $p, killed and resumed: the same bytes"
	grep -o '"attention": *"[a-z ]*"' "whole-$p/run.json" | head -1
	grep 'Train Loss' "whole-$p/log.txt" | tail -1
done

# largest A B prints the largest difference of the bytes of two .npz files of samples, without the headers and
# checksums of the archive at both ends.
largest() {
	[ "$(stat -c %s "$1")" = "$(stat -c %s "$2")" ] || fail "$1 and $2 are of different sizes"
	{ cmp -l <(tail -c +513 "$1" | head -c -1024) <(tail -c +513 "$2" | head -c -1024) || true; } | awk '
		function number(octal,    i, v) {
			for (i = 1; i <= length(octal); i++) v = 8 * v + substr(octal, i, 1)
			return v
		}
		{ d = number($2) - number($3); if (d < 0) d = -d; if (d > most) most = d }
		END { print most + 0 }'
}
for p in $precisions; do
	sample=(sample --ckpt "whole-$p" --vae vae --num-samples 12 --num-sampling-steps 20 --seed 3)
	for batch in 12 5 1; do
		run "${sample[@]}" --batch-size $batch --out "$p-$batch.npz"
	done
	run "${sample[@]}" --batch-size 12 --out "$p-again.npz"
	cmp -s "$p-12.npz" "$p-again.npz" || fail "sample: the same command gives other pictures"
	for batch in 5 1; do
		most=$(largest "$p-12.npz" "$p-$batch.npz")
		[ "$most" -le 1 ] || fail "sample: batches of $batch and of 12 differ by $most levels"
		say "sample in batches of $batch and of 12: at most $most level apart"
	done
	if gpu; then
		"$ditrun" "${sample[@]}" --batch-size 12 --out "$p-cpu.npz" --device cpu >>log 2>&1 ||
			fail "sample on the CPU"
		most=$(largest "$p-12.npz" "$p-cpu.npz")
		[ "$most" -le 1 ] || fail "sample: the CPU and the GPU differ by $most levels"
		say "sample on the CPU and the GPU: at most $most level apart"
	fi
	run "${sample[@]}" --rng torch --sampler ddim --out "$p-torch.png"
done

if gpu; then
	# 64 pictures of 4096 pixels a side take more than any GPU has.
	echo "\$ ditrun encode-latents, too large" >>log
	code=0
	"$ditrun" encode-latents --data pictures --vae vae --out large --image-size 4096 --batch-size 64 \
		--device "$device" >large.log 2>&1 || code=$?
	cat large.log >>log
	if [ $code != 1 ] || ! grep -q '^ditrun: error: .*out of memory on cuda:[0-9]*: asked for .* are free' large.log ||
		grep -q PyTorch large.log; then
		fail "out of memory: exit code $code, and no line of ours"
	fi
	say "$(grep -o 'out of memory on .*' large.log | head -1)"
fi
say "all holds on $device"
