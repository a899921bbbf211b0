"""Times facebookresearch/DiT in PyTorch and `ditrun bench` side by side, on the same weights, and prints a table.

Needs what original.py needs, and bin/ditrun (make build)
Usage: python compare.py --dit-src DIR [train|sample|encode|decode]... [--model DiT-S/2] [--image-size 256] [--batch 8]
       [--precision fp32] [--device cpu] [--threads N] [--rounds 5] [--steps 2] [--compile [MODE]] [--adamw fused]
       [--json FILE]

Each round is one of PyTorch, one of compiled PyTorch with --compile, and one of ditrun, so that a slow minute of the
machine affects all. PyTorch stays loaded; ditrun starts anew for each round, and warms up as PyTorch did once. The
figures are the fastest round, and the peak of memory: of the device, or of the process where that has none. Ratios are
those of ditrun to PyTorch: below 1 ditrun takes less.

OpenMP runs as users have it: with PyTorch's default, and for ours with the setting of the ditrun command. --passive
sets OMP_WAIT_POLICY=passive for both, which is fairer when other programs share the cores. --compile MODE is a mode of
torch.compile; on a GPU reduce-overhead is the fastest for sampling.
"""
import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
WORKS = ["train", "sample", "encode", "decode"]


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("works", nargs="*", metavar="WORK", help="train, sample, encode, decode; default all")
    parser.add_argument("--dit-src", required=True, help="checkout of github.com/facebookresearch/DiT")
    parser.add_argument("--ditrun", default=os.path.join(HERE, "..", "..", "bin", "ditrun"))
    parser.add_argument("--model", default="DiT-S/2")
    parser.add_argument("--image-size", default="256")
    parser.add_argument("--batch", default="8")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", default="0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", default="2", help="of a round")
    parser.add_argument("--adamw", default="default", choices=["default", "fused"])
    parser.add_argument("--compile", nargs="?", const="default", metavar="MODE")
    parser.add_argument("--passive", action="store_true")
    parser.add_argument("--json", metavar="FILE", help="write all figures to it")
    args = parser.parse_args()
    for work in args.works:
        if work not in WORKS:
            parser.error("%r: want %s" % (work, ", ".join(WORKS)))
    if not os.path.exists(os.path.join(args.dit_src, "models.py")):
        parser.error("--dit-src %s: no models.py there: git clone https://github.com/facebookresearch/DiT %s"
                     % (args.dit_src, args.dit_src))
    if not os.path.exists(args.ditrun):
        parser.error("--ditrun %s: no such file: make build" % args.ditrun)
    args.works = args.works or WORKS
    if "sample" in args.works and int(args.steps) < 2:
        parser.error("--steps %s: the original samples in 2 steps or more" % args.steps)
    return args


def environment(args):
    env = dict(os.environ)
    if args.passive:
        env["OMP_WAIT_POLICY"] = "passive"
    if args.threads != "0":
        env["OMP_NUM_THREADS"] = args.threads
    return env


def pytorch(args, work, weights, *more):
    return [sys.executable, os.path.join(HERE, "original.py"), work, "--weights", weights, "--dit-src", args.dit_src,
            "--model", args.model, "--image-size", args.image_size, "--batch", args.batch, "--precision",
            args.precision, "--device", args.device, "--threads", args.threads, "--steps", args.steps, "--adamw",
            args.adamw, *more]


class PyTorch:
    """original.py, loaded and warm."""

    def __init__(self, args, work, weights, *more):
        self.process = subprocess.Popen(pytorch(args, work, weights, *more), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment(args))
        self.answer()  # that it is ready

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            failed(self.process.args)
        return line

    def round(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.answer())

    def end(self):
        self.process.stdin.close()
        result = json.loads(self.answer())
        self.process.wait()
        return result["peak_memory_bytes"], result


class Ditrun:
    """ditrun bench, started for each round."""

    def __init__(self, args, work, weights):
        model = ["--ckpt", weights, "--model", args.model] if work in ("train", "sample") else [
            "--vae", weights, "--image-size", args.image_size]
        self.command = [args.ditrun, "bench", work, "--json", "--quiet", "--batch-size", args.batch, "--precision",
                        args.precision, "--device", args.device, "--threads", args.threads, "--rounds", "1", "--steps",
                        args.steps, *model]
        self.env = environment(args)
        self.peak = 0

    def round(self):
        process = subprocess.run(self.command, env=self.env, stdout=subprocess.PIPE)
        if process.returncode:
            failed(self.command)
        self.result = json.loads(process.stdout)
        figures = self.result["works"][0]
        self.peak = max(self.peak, figures["peak_memory_bytes"])
        return figures["step_seconds"]

    def end(self):
        return self.peak, {k: v for k, v in self.result.items() if k != "works"}


def measure(args, work, folder):
    """The figures of a work: {side: {"seconds": best, "rounds": [...], "peak_memory_bytes": ...}}."""
    weights = os.path.join(folder, "dit.pt" if work in ("train", "sample") else "vae")
    if not os.path.exists(weights):
        command = pytorch(args, work, weights, "--save")
        if subprocess.run(command, env=environment(args)).returncode:
            failed(command)
    sides = {"eager": PyTorch(args, work, weights)}
    if args.compile:
        say("compiling", work)
        sides["compile"] = PyTorch(args, work, weights, "--compile", args.compile)
    sides["ditrun"] = Ditrun(args, work, weights)
    rounds = {name: [] for name in sides}
    for i in range(args.rounds):
        say("%s: round %d of %d" % (work, i + 1, args.rounds))
        for name, side in sides.items():
            rounds[name].append(side.round())
    result = {}
    for name, side in sides.items():
        peak, about = side.end()
        result[name] = {"seconds": min(rounds[name]), "rounds": rounds[name], "peak_memory_bytes": peak, "is": about}
    return result


def failed(command):
    sys.exit("compare: error: this failed, for the reason above: " + " ".join(command))


def say(*words):
    print("compare:", *words, file=sys.stderr, flush=True)


def table(results):
    """Lines of the table, in the form that documents take."""
    compiled = any("compile" in r for r in results.values())
    sides = ["eager"] + ["compile"] * compiled + ["ditrun"]
    rows = [["work"] + ["%s ms" % s for s in sides] + ["time to %s" % s for s in sides[:-1]]
            + ["%s GB" % s for s in sides] + ["memory to %s" % s for s in sides[:-1]]]
    for work, r in results.items():
        def of(key, unit):
            ratios = ["%.3f" % (r["ditrun"][key] / r[s][key]) for s in sides[:-1]]
            return ["%.3f" % (r[s][key] * unit) for s in sides] + ratios
        rows.append([work] + of("seconds", 1e3) + of("peak_memory_bytes", 1e-9))
    rows.insert(1, ["---"] * len(rows[0]))
    return ["| %s |" % " | ".join(row) for row in rows]


def main():
    args = arguments()
    results = {}
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        for work in args.works:
            if work in ("encode", "decode") and importlib.util.find_spec("diffusers") is None:
                say("%s: left out: diffusers is not installed" % work)
                continue
            results[work] = measure(args, work, folder)
    print("%s, %s pixels, batch %s, %s, %s, best of %d rounds of %s steps" % (
        args.model, args.image_size, args.batch, args.precision, args.device, args.rounds, args.steps))
    print("\n".join(table(results)))
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"arguments": vars(args), "works": results}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
