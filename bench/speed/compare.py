"""Runs step_pytorch.py and our step in turn, one step each, and prints one line with the ratio.

Needs what step_pytorch.py needs, and bin/ditrun-step: go build -o bin/ditrun-step ./bench/speed/step
Usage: python compare.py --dit-src DIR [--model DiT-S/2] [--batch 8] [--threads 2] [--rounds 8] [--adamw default|fused]

Both programs stay loaded and their steps alternate, so that a slow minute of the machine affects both. The figure is
the fastest step of each; memory is the peak of each process. OpenMP runs as users have it: with PyTorch's default, and
for ours with the setting of the ditrun command. --passive sets OMP_WAIT_POLICY=passive for both, which is fairer when
other programs share the cores.
"""
import argparse
import json
import os
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--dit-src", required=True)
parser.add_argument("--model", default="DiT-S/2")
parser.add_argument("--batch", default="8")
parser.add_argument("--threads", default="2")
parser.add_argument("--rounds", type=int, default=8)
parser.add_argument("--adamw", default="default")
parser.add_argument("--passive", action="store_true")
parser.add_argument("--ours", default="bin/ditrun-step")
args = parser.parse_args()

here = os.path.dirname(os.path.abspath(__file__))
commands = {
    "pytorch": [sys.executable, os.path.join(here, "step_pytorch.py"), "--stdin", "--dit-src", args.dit_src,
                "--model", args.model, "--batch", args.batch, "--threads", args.threads, "--adamw", args.adamw],
    "ditrun": [args.ours, "-model", args.model, "-batch", args.batch, "-threads", args.threads],
}
openmp = {"pytorch": {}, "ditrun": {"GOMP_SPINCOUNT": "4000"}}
if args.passive:
    openmp = dict.fromkeys(openmp, {"OMP_WAIT_POLICY": "passive"})
running = {}
for name, command in commands.items():
    running[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                     env=dict(os.environ, OMP_NUM_THREADS=args.threads, **openmp[name]))
    assert running[name].stdout.readline().strip() == "ready", name
seconds = {name: [] for name in running}
for _ in range(args.rounds):
    for name, p in running.items():
        p.stdin.write("go\n")
        p.stdin.flush()
        seconds[name].append(float(p.stdout.readline()))
result = {"model": args.model, "batch": args.batch, "threads": args.threads, "adamw": args.adamw,
          "passive": args.passive, "rounds": args.rounds}
for name, p in running.items():
    p.stdin.close()
    result[name] = {"seconds": min(seconds[name]),
                    "peak_rss_mb": json.loads(p.stdout.readline())["peak_rss_kb"] // 1024}
    p.wait()
result["seconds_ratio"] = round(result["ditrun"]["seconds"] / result["pytorch"]["seconds"], 3)
result["memory_ratio"] = round(result["ditrun"]["peak_rss_mb"] / result["pytorch"]["peak_rss_mb"], 3)
print(json.dumps(result))
