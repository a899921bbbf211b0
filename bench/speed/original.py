"""Times the original in PyTorch: a training step or a guided sampling step of facebookresearch/DiT, or the encoding or
decoding of a batch with diffusers' autoencoder. compare.py starts it; the protocol is at the end.

Needs: pip install torch==2.11.0 torchvision==0.26.0 timm==1.0.22, for encode and decode also diffusers==0.35.2
       git clone https://github.com/facebookresearch/DiT

The work is what its scripts do:

train   timesteps and noise are drawn, forward with label dropout, loss, zero_grad, backward, AdamW (lr 1e-4, no weight
        decay) and EMA 0.9999 over every parameter, as in train.py, from latents in host memory
sample  p_sample_loop over forward_with_cfg, as in sample.py; a step is a whole one, with the noise it adds
encode  bytes of pictures in host memory to the parameters of the posteriors in host memory
decode  latents to bytes of pictures in host memory, as in sample.py

bf16 is autocast where the parameters are trained, and else a model of that type; tf32 is that of PyTorch.
"""
import argparse
import copy
import json
import os
import sys
import time

import torch

SCALE = 0.18215


def dit(args):
    from models import DiT_models

    return DiT_models[args.model](input_size=args.image_size // 8).to(args.device)


def random_weights(model):
    """Fills what begins with zeros too: such products may take less time."""
    for p in model.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.02)


def save_weights(args):
    """Writes random weights, as both sides read them."""
    torch.manual_seed(0)
    if args.work in ("train", "sample"):
        model = dit(args)
        random_weights(model)
        torch.save(model.cpu().state_dict(), args.weights)
    else:
        autoencoder().save_pretrained(args.weights)


def autoencoder():
    from diffusers import AutoencoderKL

    return AutoencoderKL(block_out_channels=(128, 256, 512, 512), down_block_types=["DownEncoderBlock2D"] * 4,
                         up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2, scaling_factor=SCALE)


def load_dit(args):
    model = dit(args)
    model.load_state_dict(torch.load(args.weights, map_location=args.device))
    return model


def load_autoencoder(args):
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(args.weights, low_cpu_mem_usage=False).to(args.device).eval()
    return vae.bfloat16() if args.precision == "bf16" else vae


def compiled(args, f):
    return torch.compile(f, dynamic=False, mode=args.compile) if args.compile else f


def train(args):
    from diffusion import create_diffusion

    model = load_dit(args)
    ema = copy.deepcopy(model).requires_grad_(False).eval()
    model.train()
    process = create_diffusion(timestep_respacing="")
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0, fused=True if args.adamw == "fused" else None)
    forward = compiled(args, model)
    side = args.image_size // 8
    x = torch.randn(args.batch, 4, side, side)
    y = torch.randint(0, 1000, (args.batch,))
    pairs = list(zip(ema.parameters(), model.parameters()))

    def step():
        latents, labels = x.to(args.device), y.to(args.device)
        t = torch.randint(0, process.num_timesteps, (args.batch,), device=args.device)
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.precision == "bf16"):
            loss = process.training_losses(forward, latents, t, dict(y=labels))["loss"].mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for average, p in pairs:
                average.mul_(0.9999).add_(p.data, alpha=1 - 0.9999)

    def steps(n):
        for _ in range(n):
            step()

    return steps


def sample(args):
    from diffusion import create_diffusion

    model = load_dit(args).eval()
    dtype = torch.float32
    if args.precision == "bf16":
        dtype = torch.bfloat16
        model.to(dtype)
        # The code of the timesteps stays float32.
        model.t_embedder.mlp.register_forward_pre_hook(lambda m, inputs: (inputs[0].to(dtype),))
    forward = compiled(args, model.forward_with_cfg)
    side, n = args.image_size // 8, args.batch
    y = torch.randint(0, 1000, (n,), device=args.device)
    kwargs = dict(y=torch.cat([y, torch.full_like(y, 1000)]), cfg_scale=4.0)

    def denoise(x, t, **kwargs):
        return forward(x.to(dtype), t, **kwargs).float()

    @torch.no_grad()
    def steps(count):
        process = create_diffusion(str(count))
        z = torch.randn(n, 4, side, side, device=args.device)
        z = torch.cat([z, z])
        z = process.p_sample_loop(denoise, z.shape, z, clip_denoised=False, model_kwargs=kwargs, progress=False,
                                  device=args.device)
        return z.chunk(2)[0].sum().item()

    return steps


def encode(args):
    vae = load_autoencoder(args)
    forward = compiled(args, lambda x: vae.encode(x).latent_dist.parameters)
    pixels = torch.randint(0, 256, (args.batch, args.image_size, args.image_size, 3), dtype=torch.uint8)

    @torch.no_grad()
    def steps(n):
        for _ in range(n):
            x = pixels.to(args.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            forward(x.to(vae.dtype)).float().cpu()

    return steps


def decode(args):
    vae = load_autoencoder(args)
    forward = compiled(args, lambda z: vae.decode(z).sample)
    side = args.image_size // 8
    latents = torch.randn(args.batch, 4, side, side, device=args.device)

    @torch.no_grad()
    def steps(n):
        for _ in range(n):
            # At most 16 at a time, as ditrun does: the activations of more take a lot of memory.
            for z in (latents / SCALE).to(vae.dtype).split(16):
                x = forward(z).float()
                (127.5 * x + 128).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).cpu()

    return steps


class Memory:
    """The peak of the device, or of the process where that has none."""

    def __init__(self, args):
        self.cuda = args.device.startswith("cuda")
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            try:
                with open("/proc/self/clear_refs", "w") as f:
                    f.write("5")
            except OSError:
                pass  # not every system lets a process do so: the peak is then that since it began

    def peak(self):
        if self.cuda:
            return torch.cuda.max_memory_allocated()
        with open("/proc/self/status") as f:
            return next(1024 * int(line.split()[1]) for line in f if line.startswith("VmHWM:"))


def timed(args, steps):
    """Seconds a step."""
    synchronize = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None
    synchronize()
    start = time.perf_counter()
    steps(args.steps)
    synchronize()
    return (time.perf_counter() - start) / args.steps


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["train", "sample", "encode", "decode"])
    parser.add_argument("--weights", required=True, help="file of a DiT, or folder of an autoencoder")
    parser.add_argument("--save", action="store_true", help="only write random weights there")
    parser.add_argument("--dit-src", required=True, help="checkout of github.com/facebookresearch/DiT")
    parser.add_argument("--model", required=True)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16"], required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--steps", type=int, required=True, help="of a round")
    parser.add_argument("--adamw", choices=["default", "fused"], default="default")
    parser.add_argument("--compile", metavar="MODE", help="mode of torch.compile; without it PyTorch is eager")
    args = parser.parse_args()
    sys.path.insert(0, args.dit_src)
    if args.save:
        return save_weights(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    tf32 = args.precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.manual_seed(0)
    steps = dict(train=train, sample=sample, encode=encode, decode=decode)[args.work](args)
    memory = Memory(args)
    timed(args, steps)  # allocates, compiles
    print("ready", flush=True)
    # A round for each line that comes, whose seconds a step are the answer. At the end of input, the peak of memory.
    for line in iter(sys.stdin.readline, ""):
        if line.strip() != "go":
            sys.exit('expected "go", got %r' % line)
        print("%.9f" % timed(args, steps), flush=True)
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(),
                      "peak_memory_bytes": memory.peak()}), flush=True)


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # compare.py has failed, and said why
        pass
    os._exit(0)  # threads of a compiler may not end
