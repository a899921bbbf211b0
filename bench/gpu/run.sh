#!/usr/bin/env bash
# Checks the packed ditrun on this machine's GPU within six minutes, in order of value: what doctor says, the tests, the
# road of a user, where DIT_SRC is a checkout of facebookresearch/DiT the speed beside PyTorch, a profile. libtorch is
# LIBTORCH=<torch folder>, or the torch that python3 has installed; the tests were packed for 2.11 with CUDA.
#
#   LIMIT=360      seconds for everything; each part has a limit of its own within that
#   OUT=out        a new folder for two files: summary.txt, and log.tar.gz with all output
#   DEVICE=cuda    or cpu: the same check on a machine without a GPU
#   TESTS=all      or quick: the packages and tests of quick.txt, which take seconds on a CPU
#   DIT_SRC        a checkout of facebookresearch/DiT; SPEED holds other arguments for bench/speed/compare.py
set -uo pipefail
cd "$(dirname "$0")" || exit
top=$PWD
device=${DEVICE:-cuda} limit=${LIMIT:-360} tests=${TESTS:-all}
out=${OUT:-out}
mkdir -p "$out/log" || exit
out=$(cd "$out" && pwd)
log=$out/log

find_torch='import importlib.util as u, os; print(os.path.dirname(u.find_spec("torch").origin))'
torch=${LIBTORCH:-$(cd / && python3 -c "$find_torch" 2>/dev/null)}
library=libtorch_cuda.so
[ "$device" != cpu ] || library=libtorch_cpu.so
if [ ! -e "$torch/lib/$library" ]; then
	echo "gpu-check: error: no libtorch for $device in '${torch}' (want lib/$library)" >&2
	echo "  - set LIBTORCH to a torch folder, or install one: python3 -m pip install torch==2.11.0" >&2
	exit 1
fi
export LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export DITRUN_TEST_DEVICE=$device

say() { echo "$*" | tee -a "$out/summary.txt"; }
: >"$out/summary.txt"
failed=

# part NAME SECONDS COMMAND...: runs the command for at most so long, and within what is left of all.
part() {
	local name=$1 seconds=$2 left=$((limit - SECONDS)) began=$SECONDS rc=0
	shift 2
	[ "$seconds" -le $left ] || seconds=$left
	if [ "$seconds" -lt 5 ]; then
		say "$name: left out, the $limit seconds are over"
		failed="$failed $name"
		return
	fi
	timeout -k 5 "$seconds" "$@" >"$log/$name.log" 2>&1 || rc=$?
	case $rc in
	0) say "$name: ok, $((SECONDS - began)) s" ;;
	124 | 137) say "$name: FAILED, stopped after $seconds s" ;;
	*) say "$name: FAILED with code $rc, $((SECONDS - began)) s" ;;
	esac
	[ $rc -eq 0 ] || failed="$failed $name"
	return $rc
}

# Packages one after the other: each uses the whole GPU. Those of quick.txt, or all.
run_tests() {
	local name folder pattern rc broken=
	while read -r name folder; do
		pattern=.
		if [ "$TESTS" != all ]; then
			pattern=$(awk -v folder="$folder" '$1 == folder { print $2 }' quick.txt)
			[ -n "$pattern" ] || continue
		fi
		# In the foreground it stays in the process group that the timeout of the part stops.
		(cd "pkg/$folder" && timeout --foreground -k 5 "${TEST_TIMEOUT:-90}" "$top/bin/$name.test" \
			-test.v -test.run "$pattern") >"$LOG/test-$name.log" 2>&1
		rc=$?
		awk -f gotest.awk "$LOG/test-$name.log"
		count() { grep -c "^ *--- $1" "$LOG/test-$name.log"; }
		printf '%-24s %4d passed %3d failed %3d skipped, exit code %d\n' \
			"$name" "$(count PASS)" "$(count FAIL)" "$(count SKIP)" $rc
		[ $rc -eq 0 ] || broken="$broken $name"
	done <tests
	[ -z "$broken" ]
}
export -f run_tests
export top LOG=$log TESTS=$tests

say "$(date -u '+%F %T') UTC, $(uname -sr), $(nproc) cores"
[ "$device" = cpu ] || say "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1)"
if part doctor 60 bin/ditrun doctor --device "$device"; then
	part tests "${TESTS_LIMIT:-200}" bash -c run_tests
	grep 'exit code' "$log/tests.log" | tee -a "$out/summary.txt"
	grep -hE '^ *--- FAIL' "$log"/test-*.log | sort | uniq | head -100 | tee -a "$out/summary.txt"
	part road "${ROAD_LIMIT:-90}" ./road.sh bin/ditrun "$device" "$out/road"
	grep '^road:' "$log/road.log" | tee -a "$out/summary.txt"
	mv "$out/road/log" "$log/road-commands.log" 2>/dev/null
	if [ -n "${DIT_SRC:-}" ] && [ -e bench/speed/compare.py ]; then
		# shellcheck disable=SC2086 # words
		part speed 150 python3 bench/speed/compare.py --dit-src "$DIT_SRC" --device "$device" --json "$log/speed.json" \
			${SPEED:-train sample --model DiT-XL/2 --batch 64 --precision bf16 --adamw fused --compile}
		tee -a "$out/summary.txt" <"$log/speed.log"
	fi
	if [ "$device" != cpu ]; then
		part profile 60 bin/ditrun bench train sample --profile --precision bf16 --rounds 1 --device "$device"
		cat "$log/profile.log" >>"$out/summary.txt"
	fi
	rm -rf "$out/road"
fi # else every test would be skipped

tar -C "$out" -czf "$out/log.tar.gz" log && rm -rf "$log"
say "gpu-check: $((SECONDS)) s; $out/log.tar.gz holds all output"
[ -z "$failed" ] || { say "gpu-check: failed:$failed"; exit 1; }
