#!/usr/bin/env bash
# How many samples of make demo show what was asked for? Samples the model three times, with three seeds, lets three
# judges look at each set (bench/demo/judge.py, trained with three seeds), and prints the table and the mean.
# It takes about 15 minutes on two cores; finished parts are not repeated.
#
# Run make demo first. PYTHON names a Python with torch, numpy and pillow. CFG_SCALE is the guidance, 4.0.
# Everything is written to DEMO_DIR/judge.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=${DEMO_DIR:-build/demo}
python=${PYTHON:-python3}
scale=${CFG_SCALE:-4.0}
seeds="0 1 2"
data=$(bench/demo/fashion-mnist.sh)
mkdir -p "$out/judge"

for seed in $seeds; do
	samples=$out/judge/cfg-$scale-seed-$seed.npz
	if [ -e "$samples" ]; then continue; fi
	bin/ditrun sample --ckpt "$out/run" --vae "$out/vae" --cfg-scale "$scale" --num-sampling-steps 50 \
		--num-samples 500 --seed "$seed" --out "$samples"
done
for judge in $seeds; do
	for seed in $seeds; do
		"$python" bench/demo/judge.py --json --data "$data" --seed "$judge" --cache "$out/judge/judge-$judge.pt" \
			"$out/judge/cfg-$scale-seed-$seed.npz" >"$out/judge/cfg-$scale-seed-$seed-judge-$judge.json"
	done
done

"$python" - "$out/judge" "$scale" "$seeds" <<'END'
import json
import statistics
import sys

folder, scale, seeds = sys.argv[1], sys.argv[2], sys.argv[3].split()
table = [[json.load(open(f"{folder}/cfg-{scale}-seed-{seed}-judge-{judge}.json")) for seed in seeds] for judge in seeds]
print(f"\nrecognised of 500 samples at guidance {scale}, and of the real test pictures, in %\n")
print("            " + "".join(f"   seed {seed}" for seed in seeds) + "     mean     real")
ratios = []
for judge, row in zip(seeds, table):
    found = [r["agreement"] for r in row]
    real = row[0]["judge_accuracy"]
    ratios += [f / real for f in found]
    print(f"    judge {judge} " + "".join(f"{x:9.1f}" for x in found + [statistics.mean(found), real]))
found = [r["agreement"] for row in table for r in row]
print(f"\nmean {statistics.mean(found):.1f} (from {min(found):.1f} to {max(found):.1f}), "
      f"{statistics.mean(ratios):.2f} of the rate of real pictures")
END
