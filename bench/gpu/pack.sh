#!/usr/bin/env bash
# make gpu-check: packs build/gpu-check, and that into build/gpu-check.tar.xz. The machine that runs it needs only a
# libtorch and a GPU:
#   bin/      ditrun and the test binaries, which load lib/ beside them
#   lib/      libditshim.so, libditcuda.so
#   pkg/      the test data of each package, in the folder where its test binary starts
#   run.sh    runs the tests and the other checks on the GPU and writes a summary; road.sh is a part of it
# If this machine has a GPU, it runs them at once, unless PACK_ONLY is set.
set -euo pipefail
cd "$(dirname "$0")/../.."

pack=build/gpu-check
limit=60 # MB: small enough to upload anywhere

rm -rf $pack
mkdir -p $pack/bin $pack/lib $pack/pkg
cp build/lib/libditshim.so $pack/lib/
# Without symbols the files are a third smaller; a panic still names its line.
go build -ldflags '-s -w' -o $pack/bin/ditrun ./cmd/ditrun

# Every package whose tests compute with libtorch, except the command: its tests would double the size, and ditrun
# itself is packed.
module=$(go list -m)
go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Deps}}{{end}}' ./... |
	awk '/ditrun\/torch[] ]/ && $1 !~ /\/cmd\// { print $1 }' |
	while read -r package; do
		folder=${package#"$module"/}
		grep -q torchtest "$folder"/*_test.go || continue
		name=${folder//\//-}
		go test -c -ldflags '-s -w' -o "$pack/bin/$name.test" "$package"
		mkdir -p "$pack/pkg/$folder"
		echo "$name $folder" >>$pack/tests
		find "$folder" -maxdepth 1 \( -name testdata -o -name '*.table' \) -exec cp -r {} "$pack/pkg/$folder/" \;
	done
# What the tests of dit/text, and of all packages of diffusion, read.
cp -r --parents dit/text/bpe/testdata diffusion/testdata "$pack/pkg/"

# The CUDA kernels, where nvcc can be had: in libditcuda.so, and in a program of their own.
if [ -z "${PACK_ONLY:-}" ]; then .ci/kernels fetch; fi
[ ! -f build/lib/libditcuda.so ] || cp build/lib/libditcuda.so $pack/lib/
if [ -z "${PACK_ONLY:-}" ] && nvcc=$(third_party/nvcc.sh); then
	# shellcheck disable=SC2016 # the loader expands it
	"$nvcc" -std=c++17 -O3 -x cu -cudart static -L"$(dirname "$nvcc")/../lib" -Itorch -Itorch/shim \
		-gencode 'arch=compute_80,code=[sm_80,compute_80]' -gencode arch=compute_90a,code=sm_90a \
		torch/shim/test/{kernels,block}.cpp -Lbuild/lib -lditshim -Xlinker -rpath,'$ORIGIN/../lib' \
		-o $pack/bin/kernels.test
	echo "kernels ." >>$pack/tests
fi
cp bench/gpu/{run,road}.sh bench/gpu/quick.txt .ci/gotest.awk $pack/
mkdir -p $pack/bench/speed
cp bench/speed/*.py $pack/bench/speed/ # it finds ditrun as in the tree

XZ_OPT='-6 -T0' tar -C build -cJf $pack.tar.xz gpu-check
size=$(du -m $pack.tar.xz | cut -f1)
if [ "$size" -gt $limit ]; then
	echo "gpu-check: error: $pack.tar.xz is $size MB, want at most $limit; the largest files:" >&2
	find $pack -type f -size +1M -printf '%s %p\n' | sort -rn | head -5 >&2
	exit 1
fi
echo "packed $(wc -l <$pack/tests) test binaries into $pack and $pack.tar.xz ($size MB)"

[ -z "${PACK_ONLY:-}" ] || exit 0
if ! nvidia-smi -L >/dev/null 2>&1; then
	echo "gpu-check: no GPU here, so nothing was run: unpack $pack.tar.xz on a machine with a GPU" \
		"and start gpu-check/run.sh"
	exit
fi
exec $pack/run.sh
