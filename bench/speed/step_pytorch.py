"""Times one training step of the original DiT in plain eager PyTorch on the CPU, as in its train.py, from latents.

Needs: pip install torch==2.11.0 torchvision==0.26.0 timm==0.9.16 numpy
       git clone https://github.com/facebookresearch/DiT
Usage: python step_pytorch.py --dit-src DIR [--model DiT-S/2] [--batch 8] [--threads 2] [--adamw default|fused]
       [--rounds 5]
       python step_pytorch.py --dit-src DIR --stdin ...

A step draws timesteps and noise, runs forward with label dropout, loss, zero_grad, backward, AdamW (lr 1e-4, no weight
decay) and EMA 0.9999 over every parameter, and reads back the loss, all in float32. The first two steps (allocation,
optimizer state) do not count.

Without --stdin it prints one JSON line {"seconds": fastest round, "rounds": [...], "peak_rss_kb": ...}. With --stdin it
prints "ready"; for each line "go" that it reads, it runs one step and prints the seconds, so that a driver can
alternate it with another program on the same cores. At the end of input it prints the JSON line.
"""
import argparse
import copy
import json
import resource
import sys
import time

import torch


def new_step(args):
    sys.path.insert(0, args.dit_src)
    from diffusion import create_diffusion
    from models import DiT_models

    torch.manual_seed(0)
    side = args.input_size
    model = DiT_models[args.model](input_size=side)
    ema = copy.deepcopy(model).requires_grad_(False).eval()
    model.train()
    process = create_diffusion(timestep_respacing="")
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0, fused=True if args.adamw == "fused" else None)
    x = torch.randn(args.batch, 4, side, side)
    y = torch.randint(0, 1000, (args.batch,))
    pairs = list(zip(ema.parameters(), model.parameters()))

    def step():
        t = torch.randint(0, process.num_timesteps, (args.batch,))
        loss = process.training_losses(model, x, t, dict(y=y))["loss"].mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for average, p in pairs:
                average.mul_(0.9999).add_(p.data, alpha=1 - 0.9999)
        return loss.item()

    return step


def timed(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dit-src", required=True, help="checkout of github.com/facebookresearch/DiT")
    parser.add_argument("--model", default="DiT-S/2")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--input-size", type=int, default=32, help="side of the latents")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--adamw", choices=["default", "fused"], default="default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stdin", action="store_true", help='run one step for each line "go"')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    step = new_step(args)
    for _ in range(2):
        step()
    rounds = []
    if args.stdin:
        print("ready", flush=True)
        for line in iter(sys.stdin.readline, ""):
            if line.strip() != "go":
                sys.exit('expected "go", got %r' % line)
            rounds.append(timed(step))
            print("%.6f" % rounds[-1], flush=True)
    else:
        rounds = [timed(step) for _ in range(args.rounds)]
    print(json.dumps({
        "model": args.model, "batch": args.batch, "threads": args.threads, "adamw": args.adamw,
        "torch": torch.__version__, "seconds": min(rounds, default=None), "rounds": [round(r, 4) for r in rounds],
        "peak_rss_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


if __name__ == "__main__":
    main()
