#!/usr/bin/env bash
# From real pictures to sampled ones: a VAE and a DiT are trained on Fashion-MNIST (60,000 pictures of
# clothes in ten classes), each step being a ditrun command that is shown before it runs.
#
# The environment may shorten it: DEMO_VAE_STEPS, DEMO_STEPS, DEMO_SAMPLING_STEPS; DEMO_DIR is where
# everything is written. The pictures are kept in ~/.cache/ditrun.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=${DEMO_DIR:-build/demo}
data=${XDG_CACHE_HOME:-$HOME/.cache}/ditrun/fashion-mnist
ditrun=bin/ditrun

vae_steps=${DEMO_VAE_STEPS:-1200} steps=${DEMO_STEPS:-2400} sampling_steps=${DEMO_SAMPLING_STEPS:-50}
# No mirrored views: shoes of this data set all point to the left.
train_vae=(--image-size 32 --downsample 4 --latent-channels 4 --batch-size 8 --max-steps "$vae_steps" --flip-prob 0)
encode_latents=(--image-size 32 --flip none)
train=(--model DiT-192x6x6/2 --global-batch-size 64 --max-steps "$steps" --lr 2e-3 --warmup-steps 100 --lr-schedule linear
	--final-lr 0.05 --ema-decay 0.998 --log-every 50 --sample-every "$(((steps + 1) / 2))")
sample=(--cfg-scale 4.0 --num-sampling-steps "$sampling_steps" --num-samples 100)

fail() { # fail MESSAGE [WAY OUT]...
	printf 'demo: error: %s\n' "$1" >&2
	shift
	if [ $# -gt 0 ]; then printf '  - %s\n' "$@" >&2; fi
	exit 1
}

run() {
	printf '\n$ %s\n' "$*"
	"$@"
}

# The checksums are those of the unpacked files: Debian packs them anew, so its archives differ.
checksums="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888 train-images-idx3-ubyte
bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9 train-labels-idx1-ubyte
5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b t10k-images-idx3-ubyte
0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34 t10k-labels-idx1-ubyte"

intact() { # intact FOLDER: the four files are there, and they are the right ones
	local sum name
	while read -r sum name; do
		[ -f "$1/$name.gz" ] || return 1
		[ "$(gzip -dc "$1/$name.gz" 2>/dev/null | sha256sum | cut -d' ' -f1)" = "$sum" ] || return 1
	done <<<"$checksums"
}

from_debian() { # from_debian FOLDER
	third_party/debian.sh "$1" dataset-fashion-mnist=0.0~git20200523.55506a9-1 || return 1
	mv "$1"/usr/share/datasets/fashion-mnist/*.gz "$1/"
}

from_origin() { # from_origin FOLDER
	local url=http://fashion-mnist.s3-website.eu-central-1.amazonaws.com _ name
	while read -r _ name; do
		echo "fetching $url/$name.gz"
		if command -v curl >/dev/null; then
			curl -fsSL --retry 2 -o "$1/$name.gz" "$url/$name.gz"
		else
			wget -q -O "$1/$name.gz" "$url/$name.gz"
		fi || return 1
	done <<<"$checksums"
}

if ! intact "$data"; then
	echo "fetching Fashion-MNIST (31 MB, MIT licence, (c) 2017 Zalando SE) into $data"
	mkdir -p "$(dirname "$data")"
	new=$(mktemp -d "$data.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	from_debian "$new" || from_origin "$new" || fail "Fashion-MNIST could not be fetched: neither the Debian package dataset-fashion-mnist nor its origin could be reached" \
		"run again with a network" \
		"put the four files ($(awk '{ printf "%s%s.gz", sep, $2; sep = ", " }' <<<"$checksums")) into $data"
	intact "$new" || fail "Fashion-MNIST: what was fetched does not have the pinned checksums"
	rm -rf "$new/apt" "$new/apt.log" "$new/usr" "$data"
	chmod 755 "$new"
	mv "$new" "$data"
fi

# IDX files hold numbers for the classes; their names go beside them.
printf '%s\n' T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag 'Ankle boot' >"$data/classes.txt"

mkdir -p "$out"
rm -rf "$out/vae" "$out/latents" "$out/run" "$out/samples.png"
run "$ditrun" train-vae --data "$data" --out "$out/vae" "${train_vae[@]}"
run "$ditrun" encode-latents --data "$data" --vae "$out/vae" --out "$out/latents" "${encode_latents[@]}"
run "$ditrun" train --data "$out/latents" --vae "$out/vae" --run-dir "$out/run" "${train[@]}"
run "$ditrun" sample --ckpt "$out/run" --vae "$out/vae" "${sample[@]}" --out "$out/samples.png"

printf '\nDone in %d min %02d s.\n' $((SECONDS / 60)) $((SECONDS % 60))
cat <<END
  samples, a class a row   $out/samples.png
  loss over the steps      $out/run/loss.png
  the run                  $out/run

Without guidance the samples vary more and obey less; compare:
  $ditrun sample --ckpt $out/run --vae $out/vae --cfg-scale 1.0 --num-sampling-steps $sampling_steps --num-samples 100 --out $out/samples-cfg-1.png
END
