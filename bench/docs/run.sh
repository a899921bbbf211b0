#!/usr/bin/env bash
# Runs the commands of README.md and docs/ in a copy of this tree, after `make build`, and lists those that it did not.
#
#   run.sh [--with REASON]... [PAGE]...
#
# Every ```sh block is run as it stands, in the order of its page, by a shell that stops at the first failure. A page
# begins with what its remarks `<!-- run with NAME... -->` name: pictures, photos, imagenet, vae, latents, results, all
# stand-ins that take seconds to make. A block behind `<!-- not run: REASON -->` is run only with --with REASON:
# minutes, hours, network, GPU, another program, placeholder. `ditrun` is short.sh, which keeps the work of a command to
# seconds, and the hub is hub.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD here=bench/docs

with=()
while [ "${1:-}" = --with ]; do
	with+=("$2")
	shift 2
done
pages=("$@")
[ $# -gt 0 ] || pages=(README.md docs/*.md)

work=$root/build/docs
rm -rf "$work"
mkdir -p "$work/bin" "$work/tree" "$work/blocks"
for name in pages hub cache stage home; do mkdir "$work/$name"; done
cp $here/short.sh "$work/bin/ditrun"
chmod +x "$work/bin/ditrun"
GOCACHE=$(go env GOCACHE) GOMODCACHE=$(go env GOMODCACHE)
export GOCACHE GOMODCACHE HOME=$work/home # where a page installs to
export PATH=$work/bin:$PATH DITRUN=$root/bin/ditrun DOCS_RELEASED=
export DOCS_CACHE=$work/cache HF_HOME=$work/cache/huggingface

# The tree as a clone has it, built.
git ls-files -z -co --exclude-standard | xargs -0 cp --parents -p -t "$work/tree"
mkdir -p "$work/tree/build" "$work/tree/bin"
cp -r build/lib "$work/tree/build/"
cp -l bin/ditrun "$work/tree/bin/"
for name in libtorch codecs; do
	if [ -e third_party/$name ]; then ln -s "$root/third_party/$name" "$work/tree/third_party/$name"; fi
done

if ! (cd "$work/stage" && "$root/$here/stand-ins.sh" "$work/hub") >"$work/stand-ins.log" 2>&1; then
	cat "$work/stand-ins.log"
	echo "docs: error: the stand-ins could not be made" >&2
	exit 1
fi

python3 $here/hub.py "$work/hub" >"$work/address" &
hub=$!
trap 'kill $hub' EXIT
for _ in {1..100}; do # ten seconds
	[ ! -s "$work/address" ] || break
	sleep 0.1
done
[ -s "$work/address" ] || { echo "docs: error: the hub, hub.py, does not start" >&2; exit 1; }
HF_ENDPOINT=$(cat "$work/address")
export HF_ENDPOINT

# wanted REASON: whether a block with it is run.
wanted() {
	[ -z "$1" ] && return
	local w
	for w in "${with[@]}"; do case $1 in "$w"*) return ;; esac done
	return 1
}

ran=0 failed=0
left_out=()
for page in "${pages[@]}"; do
	blocks=$work/blocks/${page//\//-} folder=$work/pages/${page//\//-}
	mkdir "$blocks"
	cp -al "$work/tree" "$folder"
	plan=$(awk -v DIR="$blocks" -f $here/blocks.awk "$page")
	while read -r line reason; do
		if [ "$line" = with ]; then
			for name in $reason; do cp -r "$work/stage/$name" "$folder/"; done
		elif [ -n "$line" ] && ! wanted "$reason"; then
			left_out+=("$page:$line: $reason")
		elif [ -n "$line" ]; then
			began=$SECONDS ran=$((ran + 1))
			if (cd "$folder" && bash -euo pipefail -x "$blocks/$line.sh") >"$blocks/$line.log" 2>&1 </dev/null; then
				echo "docs: $page:$line: $((SECONDS - began)) s"
			else
				failed=$((failed + 1))
				tail -n 40 "$blocks/$line.log"
				echo "docs: error: $page:$line failed (whole output: $blocks/$line.log)" >&2
			fi
		fi
	done <<<"$plan"
done
[ ${#left_out[@]} -eq 0 ] || printf 'docs: not run: %s\n' "${left_out[@]}"
echo "docs: $ran blocks run, $failed failed, ${#left_out[@]} not run"
[ $failed -eq 0 ]
