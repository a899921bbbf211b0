#!/usr/bin/env bash
# build.sh NVCC OUT OBJECT: compiles plugin.cu, for sm_80, sm_90a, and as PTX for what is newer, and links it with
# OBJECT to the library OUT. It fails where a kernel spills registers into memory. With the pinned nvcc, the registers
# and the memory of each kernel must also be those in resources.txt; `UPDATE=1 make kernels` writes that file.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
nvcc=$1 out=$2 object=$3
fail() {
	printf '%s\n' "ditrun: error: CUDA kernels: $1" "ditrun: hint: $2" >&2
	exit 1
}

mkdir -p "$(dirname "$out")"
trap 'rm -f "$out.part" "$out.log"' EXIT
# The wheels have their libraries in lib, where nvcc does not look by itself.
"$nvcc" -std=c++17 -O3 -Xptxas -v -shared -cudart static -L"$(dirname "$nvcc")/../lib" \
	-gencode 'arch=compute_80,code=[sm_80,compute_80]' -gencode arch=compute_90a,code=sm_90a \
	-Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra -Xlinker --exclude-libs,ALL \
	-I"$here/.." -I"$here/../.." -o "$out.part" "$here/plugin.cu" "$object" 2>"$out.log" || {
	cat "$out.log" >&2
	fail "$nvcc could not compile them" "its messages are above; NVCC=none make build builds without them"
}
grep -v '^ptxas info\|bytes stack frame' "$out.log" >&2 || true # warnings

# One line a kernel and architecture.
table=$(c++filt <"$out.log" | awk '
	/Compiling entry function/ {
		match($0, /for .sm_[0-9a-z]*/)
		arch = substr($0, RSTART + 5, RLENGTH - 5)
		name = $0
		sub(/^[^\047]*\047(void )?/, "", name)
		sub(/\(.*/, "", name)
	}
	/bytes stack frame/ { stack = $1; spilled = $5 + $9 }
	/: Used [0-9]+ registers/ {
		shared = 0
		for (i = 1; i <= NF; i++) {
			if ($i == "registers,") registers = $(i - 1)
			if ($i ~ /^smem/) shared = $(i - 2)
		}
		printf "%-7s %3d registers %5d B shared %4d B stack %4d B spilled  %s\n",
			arch, registers, shared, stack, spilled, name
	}' | LC_ALL=C sort -k 10 -k 1,1)
[ -n "$table" ] || fail "no kernel in the output of $nvcc -Xptxas -v" "look at it: $nvcc may write it in another way"
spilled=$(grep -v ' 0 B spilled ' <<<"$table") || true
[ -z "$spilled" ] || fail "registers are spilled into memory:"$'\n'"$spilled" \
	"use fewer live values in the kernel, or fewer threads in its __launch_bounds__"

pinned=13.0.88
if "$nvcc" --version | grep -q "V$pinned"; then
	if [ -n "${UPDATE:-}" ]; then
		{
			echo "# What nvcc $pinned makes of the kernels. torch/shim/kernels/build.sh compares and writes this file."
			echo "$table"
		} >"$here/resources.txt"
	fi
	diff -u <(grep -v '^#' "$here/resources.txt") - <<<"$table" >&2 ||
		fail "registers or memory differ from torch/shim/kernels/resources.txt" \
			"where that is meant, UPDATE=1 make kernels writes the file"
fi
mv "$out.part" "$out"
