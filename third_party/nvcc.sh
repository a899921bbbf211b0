#!/usr/bin/env bash
# nvcc.sh [fetch]: prints the path of an nvcc of CUDA 12 or newer: the pinned one if it was fetched, else that in PATH
# or /usr/local/cuda. With `fetch`, and on a machine with an NVIDIA driver, the pinned wheels are fetched (105 MB, once)
# into third_party/tools where there is none. Exit code 69 means that there is none; so it is with NVCC=none.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pinned=$here/tools/nvcc/nvidia/cu13/bin/nvcc

[ "${NVCC:-}" != none ] || exit 69
if cmp -s "$here/nvcc.txt" "$here/tools/nvcc/pins.txt"; then
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
[ "${1:-}" = fetch ] || [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null || exit 69
"$here/fetch-wheels.sh" nvcc
echo "$pinned"
