#!/usr/bin/env bash
# Fetches Fashion-MNIST into ~/.cache/ditrun, once, and prints the folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/demo/fetch.sh

data=$cache/fashion-mnist

# The checksums are those of the unpacked files, because Debian compresses them again.
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
		download "$url/$name.gz" "$1/$name.gz" || return 1
	done <<<"$checksums"
}

if ! intact "$data"; then
	exec 3>&1 >&2
	echo "fetching Fashion-MNIST (31 MB, MIT licence, (c) 2017 Zalando SE) into $data"
	mkdir -p "$cache"
	new=$(mktemp -d "$data.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	if ! from_debian "$new" && ! from_origin "$new"; then
		names=$(awk '{ printf "%s%s.gz", sep, $2; sep = ", " }' <<<"$checksums")
		fail "could reach neither the Debian package dataset-fashion-mnist nor the original site" \
			"run again with a network" "put the four files ($names) into $data"
	fi
	intact "$new" || fail "the fetched files do not have the pinned checksums"
	rm -rf "$new/apt" "$new/apt.log" "$new/usr"
	replace "$data" "$new"
	exec >&3
fi

# IDX files hold only numbers of classes; the names go into a file beside them.
printf '%s\n' T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag 'Ankle boot' >"$data/classes.txt"

echo "$data"
