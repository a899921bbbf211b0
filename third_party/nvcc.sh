#!/usr/bin/env bash
# nvcc.sh [fetch]: prints the path of an nvcc of CUDA 12 or newer: the pinned one if it was fetched, else that in PATH
# or /usr/local/cuda. With `fetch`, the pinned wheels are fetched (105 MB, once) into third_party/tools where there is
# none. Exit code 69 means that there is none.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dest=$here/tools/nvcc
pinned=$dest/nvidia/cu13/bin/nvcc

if cmp -s "$here/nvcc.txt" "$dest/pins.txt"; then
	echo "$pinned"
	exit
fi
for nvcc in "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
	[ -x "$nvcc" ] || continue
	release=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p') || continue # it does not run
	if [ "${release:-0}" -ge 12 ]; then
		echo "$nvcc"
		exit
	fi
done
[ "${1:-}" = fetch ] || exit 69

# The file with the pins is written last, and the folder renamed into place.
part=$dest.part
rm -rf "$part"
PIP_USER=0 PIP_ROOT_USER_ACTION=ignore python3 -m pip install -q --no-deps --only-binary=:all: --require-hashes \
	--disable-pip-version-check --target "$part" -r "$here/nvcc.txt" >&2 || exit 69
cp "$here/nvcc.txt" "$part/pins.txt"
rm -rf "$dest"
mv "$part" "$dest"
echo "$pinned"
