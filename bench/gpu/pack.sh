#!/usr/bin/env bash
# make gpu-check: packs build/gpu-check, and that into build/gpu-check.tar.gz. The machine that runs it needs only a
# libtorch and a GPU:
#   bin/      ditrun and the test binaries, which load lib/ beside them
#   lib/      libditshim.so
#   pkg/      the test data of each package, in the folder where its test binary starts
#   run.sh    runs all tests with DITRUN_TEST_DEVICE=cuda and prints a summary
# If this machine has a GPU, it runs the tests at once.
set -euo pipefail
cd "$(dirname "$0")/../.."

pack=build/gpu-check
limit=60 # MB: small enough to upload anywhere

rm -rf $pack
mkdir -p $pack/bin $pack/lib $pack/pkg
cp build/lib/libditshim.so $pack/lib/
# Without symbols the files are a third smaller; a panic still names its line.
go build -ldflags '-s -w' -o $pack/bin/ditrun ./cmd/ditrun

# Every package that has tests and uses libtorch, as in the Makefile, except the command: its tests would double the
# size, and ditrun itself is packed.
module=$(go list -m)
go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Deps}}{{end}}' ./... |
	awk '/ditrun\/torch[] ]/ && $1 !~ /\/cmd\// { print $1 }' |
	while read -r package; do
		folder=${package#"$module"/}
		name=${folder//\//-}
		go test -c -ldflags '-s -w' -o "$pack/bin/$name.test" "$package"
		mkdir -p "$pack/pkg/$folder"
		echo "$name $folder" >>$pack/tests
		find "$folder" -maxdepth 1 \( -name testdata -o -name '*.table' \) -exec cp -r {} "$pack/pkg/$folder/" \;
	done
cp -r --parents dit/text/bpe/testdata "$pack/pkg/" # which the tests of dit/text read

# The CUDA kernels, in a program of their own, where nvcc can be had.
.ci/kernels fetch
if nvcc=$(third_party/nvcc.sh); then
	# shellcheck disable=SC2016 # the loader expands it
	"$nvcc" -std=c++17 -O3 -x cu -cudart static -L"$(dirname "$nvcc")/../lib" -Itorch -Itorch/shim \
		-gencode 'arch=compute_80,code=[sm_80,compute_80]' -gencode arch=compute_90a,code=sm_90a \
		torch/shim/test/kernels.cpp -Lbuild/lib -lditshim -Xlinker -rpath,'$ORIGIN/../lib' -o $pack/bin/kernels.test
	echo "kernels ." >>$pack/tests
fi
cp bench/gpu/run.sh .ci/gotest.awk $pack/

tar -C build -czf $pack.tar.gz gpu-check
size=$(du -m $pack.tar.gz | cut -f1)
if [ "$size" -gt $limit ]; then
	echo "gpu-check: error: $pack.tar.gz is $size MB, want at most $limit; the largest files:" >&2
	find $pack -type f -size +1M -printf '%s %p\n' | sort -rn | head -5 >&2
	exit 1
fi
echo "packed $(wc -l <$pack/tests) test binaries into $pack and $pack.tar.gz ($size MB)"

if ! nvidia-smi -L >/dev/null 2>&1; then
	echo "gpu-check: no GPU here, so nothing was run: unpack $pack.tar.gz on a machine with a GPU" \
		"and start gpu-check/run.sh"
	exit
fi
exec $pack/run.sh
