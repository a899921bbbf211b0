#!/usr/bin/env bash
# Runs the packed tests on this machine's GPU. libtorch is LIBTORCH=<torch folder>, or the torch that python3 has
# installed; the tests were packed for 2.11 with CUDA.
set -uo pipefail
cd "$(dirname "$0")" || exit
top=$PWD

find_torch='import importlib.util as u, os; print(os.path.dirname(u.find_spec("torch").origin))'
torch=${LIBTORCH:-$(cd / && python3 -c "$find_torch" 2>/dev/null)}
if [ ! -e "$torch/lib/libtorch_cuda.so" ]; then
	echo "gpu-check: error: no libtorch with CUDA in '${torch}' (want lib/libtorch_cuda.so)" >&2
	echo "  - set LIBTORCH to a torch folder, or install one: python3 -m pip install torch==2.11.0" >&2
	exit 1
fi
export LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export DITRUN_TEST_DEVICE=cuda

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
# If this fails, every test would be skipped.
bin/ditrun doctor --device cuda || exit 1

mkdir -p log
passed=0 failed=0 skipped=0 broken=
count() { grep -c "^ *--- $1" "$log"; }
while read -r name folder; do
	log=$top/log/$name.log
	(cd "pkg/$folder" && timeout "${TEST_TIMEOUT:-300}" "$top/bin/$name.test" -test.v) 2>&1 |
		tee "$log" | awk -f "$top/gotest.awk"
	rc=${PIPESTATUS[0]}
	[ "$rc" -eq 0 ] || broken="$broken $name"
	printf '%-24s %4d passed %3d failed %3d skipped, exit code %d\n' \
		"$name" "$(count PASS)" "$(count FAIL)" "$(count SKIP)" "$rc"
	passed=$((passed + $(count PASS))) failed=$((failed + $(count FAIL))) skipped=$((skipped + $(count SKIP)))
done <tests
echo "gpu-check: $passed passed, $failed failed, $skipped skipped; whole output in $top/log"
[ -z "$broken" ] || { echo "gpu-check: error: failed:$broken" >&2; exit 1; }
