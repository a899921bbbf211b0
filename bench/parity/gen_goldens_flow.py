"""Writes the golden files of the flow paths and of the fast solvers from their originals.

Needs: pip install torch==2.11.0 diffusers==0.42.1 torchdiffeq==0.2.5 safetensors numpy tqdm
       git clone https://github.com/willisma/SiT     (947f95b)
       git clone https://github.com/sihyun-yu/REPA   (67f7145)
Usage: python gen_goldens_flow.py --sit-src DIR --repa-src DIR [--out ../../diffusion]

schedule/testdata/grids.json   {"SCHEDULER SPACING N": {"t": timesteps, "sigma": noise over signal}} of diffusers
flow/testdata/losses.safetensors
                 x1 (data) x0 (noise), and for PATH.PREDICTION.WEIGHT of SiT: NAME.t, NAME.loss
solver/testdata/flow.safetensors
                 z noise (SiT's draws in order), noise64 (REPA's); for each case of config.cases: the final latents of
                 the original sampler on the network below, and config.cases[NAME] = its number of network calls
solver/testdata/multistep.json {"SOLVER SPACING N": [x0, x1, distance]} of diffusers' schedulers on DiT's betas in
                 float64, but for their noise levels, and the distance of the same in float32

network of flow:      -0.7 x + 0.5 cos(3 t) + 0.1 sin(4 x), for REPA + 0.05 y / 1000, y = 207 and 360
network of multistep: eps = 0.3 x + 0.1 sin(t / 100), start [1, -0.5]; for flows the same with t = 1000 sigma unrounded;
                      ddim-eta has eta 0.7 and the noise (k + 1) / 10, -0.1 in step k

config.f64 and distance: largest difference of this float32 run from one in float64, over the largest value there.
"""
import argparse
import json
import os
import sys

import numpy as np
import torch

from goldens import File, rel, sig

NULL = 1000


class Net:
    """The network, which counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, t, **_):
        self.calls += 1
        t = t.view(-1, 1, 1, 1)
        return -0.7 * x + 0.5 * torch.cos(3 * t) + 0.1 * torch.sin(4 * x)


class Labelled(Net):
    """The network with labels, which answers as REPA's does, with a tuple."""

    def __call__(self, x, t, y):
        return (super().__call__(x, t) + 0.05 * y.view(-1, 1, 1, 1) / 1000,)


class Given:
    """Makes a function of torch that draws return the given tensors instead, one a call."""

    def __init__(self, name, tensors):
        self.name, self.tensors = name, list(tensors)

    def __enter__(self):
        self.original = getattr(torch, self.name)
        setattr(torch, self.name, lambda x, *_, **__: self.tensors.pop(0))

    def __exit__(self, *_):
        setattr(torch, self.name, self.original)


def flow(transport, samplers, out):
    file = File()
    torch.manual_seed(0)
    z = torch.randn(2, 1, 2, 2)
    state = torch.get_rng_state()
    noise = torch.stack([torch.randn(2, 1, 2, 2) for _ in range(19)])
    torch.set_rng_state(state)
    noise64 = torch.stack([torch.randn(2, 1, 2, 2, dtype=torch.float64) for _ in range(19)])
    file.add("z", z)
    file.add("noise", noise)
    file.add("noise64", noise64)
    cases, f64 = {}, {}

    def add(name, play):
        """play(network, dtype) returns the latents; for the original in float64 the default dtype is that too."""
        net = (Labelled if name.startswith("repa") else Net)()
        result = play(net, torch.float32)
        torch.set_default_dtype(torch.float64)
        exact = play(type(net)(), torch.float64)
        torch.set_default_dtype(torch.float32)
        file.add(name, result)
        cases[name], f64[name] = net.calls, sig(rel(result, exact))
        print("%-40s %3d calls, %.1e from float64" % (name, net.calls, f64[name]), result.flatten()[:4].tolist(),
              result.sum().item())

    def ode(path, prediction, method, points):
        def play(net, dtype):
            sampler = transport.Sampler(transport.create_transport(path, prediction))
            return sampler.sample_ode(sampling_method=method, num_steps=points)(z.to(dtype), net)[-1]
        add("ode %s %s %s %d" % (path, prediction, method, points), play)

    def sde(path, prediction, method, form, last, points=20):
        def play(net, dtype):
            sampler = transport.Sampler(transport.create_transport(path, prediction))
            sample = sampler.sample_sde(sampling_method=method, diffusion_form=form, last_step=last, num_steps=points)
            with Given("randn", noise.to(dtype)):
                return sample(z.to(dtype), net)[-1]
        add("sde %s %s %s %s %s %d" % (path, prediction, method, form, last, points), play)

    fixed = (("euler", 20), ("heun2", 20), ("heun3", 10), ("midpoint", 10), ("rk4", 10))
    for path, prediction in (("Linear", "velocity"), ("GVP", "velocity"), ("VP", "velocity"), ("Linear", "noise"),
                             ("GVP", "noise"), ("VP", "noise"), ("VP", "score")):
        for method, points in fixed:
            # Near data the original's own rounding passes 2e-6 for noise on VP: 1 - exp(2L) cancels.
            if (path, prediction) != ("VP", "noise") or method not in ("heun2", "rk4"):
                ode(path, prediction, method, points)
    for path, prediction in (("Linear", "velocity"), ("GVP", "velocity"), ("VP", "velocity"), ("VP", "score")):
        ode(path, prediction, "dopri5", 50)
    for form in ("linear", "decreasing", "inccreasing-decreasing"):
        sde("Linear", "velocity", "Euler", form, "Mean")
    for path, prediction in (("Linear", "velocity"), ("GVP", "velocity"), ("VP", "velocity"), ("VP", "noise"),
                             ("GVP", "score")):
        for last in ("Mean", "Tweedie", "Euler", None):
            sde(path, prediction, "Euler", "sigma", last)
        sde(path, prediction, "Heun", "sigma", "Mean")
    for path, prediction in (("VP", "velocity"), ("VP", "noise"), ("GVP", "score"), ("Linear", "noise")):
        sde(path, prediction, "Euler", "SBDM", "Mean")

    y = torch.tensor([207, 360])

    def repa(name, sampler, **options):
        def play(net, dtype):
            with Given("randn_like", noise64):
                return sampler(net, z.to(dtype), y, num_steps=20, **options)
        add("repa " + name, play)

    guided = dict(cfg_scale=1.8, guidance_low=0.0, guidance_high=0.7)
    repa("euler", samplers.euler_sampler)
    repa("heun", samplers.euler_sampler, heun=True)
    repa("heun guided", samplers.euler_sampler, heun=True, **guided)
    repa("em", samplers.euler_maruyama_sampler)
    repa("em guided", samplers.euler_maruyama_sampler, **guided)
    repa("em guided cosine", samplers.euler_maruyama_sampler, path_type="cosine", **guided)
    file.config = {"cases": cases, "f64": f64}
    file.save(os.path.join(out, "solver/testdata/flow.safetensors"))


def losses(transport, out):
    file, f64 = File(), {}
    torch.manual_seed(0)
    x1 = torch.randn(4, 1, 2, 2)
    state = torch.get_rng_state()
    x0 = torch.randn_like(x1)
    file.add("x1", x1)
    file.add("x0", x0)
    for path in ("Linear", "GVP", "VP"):
        for prediction in ("velocity", "noise", "score"):
            for weight in ("none", "velocity", "likelihood"):
                if prediction == "velocity" and weight != "none":
                    continue
                name = "%s.%s.%s" % (path, prediction, weight)
                process = transport.create_transport(path, prediction, weight)
                torch.set_rng_state(state)
                loss = process.training_losses(Net(), x1)["loss"]
                torch.set_rng_state(state)
                t, _, _ = process.sample(x1)
                process.sample = lambda x: (t.double(), x0.double(), x1.double())
                exact = process.training_losses(Net(), x1.double())["loss"]
                file.add(name + ".t", t)
                file.add(name + ".loss", loss)
                f64[name] = [sig(rel(a, b)) for a, b in zip(loss, exact)]
                print(name, loss.tolist(), f64[name])
    file.config = {"f64": f64}
    file.save(os.path.join(out, "flow/testdata/losses.safetensors"))


BETAS = dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", num_train_timesteps=1000)
FLOW = dict(use_flow_sigmas=True, prediction_type="flow_prediction", num_train_timesteps=1000)


def schedulers():
    """The schedulers by the names of our solvers, each with its options apart from the grid."""
    from diffusers import DEISMultistepScheduler as DEIS
    from diffusers import DPMSolverMultistepScheduler as DPM
    from diffusers import UniPCMultistepScheduler as UniPC
    both = [("", {}), ("min ", {"final_sigmas_type": "sigma_min"})]
    for last, options in both:
        for order, kind, name in ((1, "midpoint", "dpm++1"), (2, "midpoint", "dpm++2m"), (2, "heun", "dpm++2m-heun"),
                                  (3, "midpoint", "dpm++3m")):
            yield last + name, DPM, dict(options, solver_order=order, solver_type=kind)
        for order in (1, 2, 3):
            yield last + "unipc%d" % order, UniPC, dict(options, solver_order=order)
    for order in (2, 3):
        yield "min unipc%d-bh1" % order, UniPC, dict(final_sigmas_type="sigma_min", solver_order=order,
                                                     solver_type="bh1")
    for order in (1, 2, 3):
        yield "min deis%d" % order, DEIS, dict(solver_order=order)


SPACINGS = {"linspace": {}, "leading": {"timestep_spacing": "leading"}, "trailing": {"timestep_spacing": "trailing"},
            "karras": {"use_karras_sigmas": True}, "lambda": {"use_lu_lambdas": True}}


def walk(scheduler, steps, dtype, is_flow=False, eta=None):
    scheduler.set_timesteps(steps)
    x = torch.tensor([[1.0, -0.5]], dtype=dtype)
    if hasattr(scheduler, "sigmas") and dtype == torch.float64:
        scheduler.sigmas = scheduler.sigmas.double()
    for i, t in enumerate(scheduler.timesteps):
        told = 1000 * scheduler.sigmas[i].to(dtype) if is_flow else t.to(dtype)
        output = 0.3 * x + 0.1 * torch.sin(told / 100)
        drawn = {} if eta is None else {"eta": eta, "variance_noise": torch.tensor([[i + 1.0, -1.0]], dtype=dtype) / 10}
        x = scheduler.step(output, t, x, **drawn).prev_sample
    return x


def multistep(out):
    from diffusers import DDIMScheduler
    result, grids = {}, {}

    def add(name, make, steps, *more):
        x, exact = (walk(make(), steps, dtype, *more) for dtype in (torch.float32, torch.float64))
        if not x.isfinite().all():
            print("not finite:", name)  # a last step without length, by which it divides
            return
        result[name] = exact.flatten().tolist() + [sig(rel(x, exact))]

    for steps in (8, 14, 15, 20, 50):
        for name, kind, options in schedulers():
            for spacing, more in SPACINGS.items():
                if spacing == "lambda" and not name.startswith(("dpm", "min dpm")):
                    continue  # only this scheduler of diffusers has it
                if steps in (14, 15) and spacing != "linspace":
                    continue  # the numbers of steps around which the orders of the last ones change
                make = lambda: kind(**BETAS, **options, **more)
                add("%s %s %d" % (name, spacing, steps), make, steps)
                if name in ("dpm++2m", "unipc2", "min deis2"):
                    s = make()
                    s.set_timesteps(steps)
                    grids["%s %s %d" % (name, spacing, steps)] = {"t": s.timesteps.tolist(),
                                                                  "sigma": s.sigmas.tolist()}
            for shift in (1.0, 3.0) if not name.startswith("min") else ():  # there its last step goes nowhere
                make = lambda: kind(**FLOW, **options, flow_shift=shift)
                add("%s flow%g %d" % (name, shift, steps), make, steps, True)
        for spacing in ("leading", "trailing"):
            make = lambda: DDIMScheduler(**BETAS, timestep_spacing=spacing, clip_sample=False)
            if 1000 % steps == 0:  # else its steps do not meet
                add("ddim %s %d" % (spacing, steps), make, steps)
                add("ddim-eta %s %d" % (spacing, steps), make, steps, False, 0.7)
    for path, data in (("solver/testdata/multistep.json", result), ("schedule/testdata/grids.json", grids)):
        with open(os.path.join(out, path), "w") as f:
            f.write("{\n" + ",\n".join("%s: %s" % (json.dumps(k), json.dumps(v)) for k, v in data.items()) + "\n}\n")
        print(path, len(data), "cases", os.path.getsize(os.path.join(out, path)), "bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sit-src", required=True)
    parser.add_argument("--repa-src", required=True)
    parser.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../diffusion"))
    args = parser.parse_args()
    sys.path[:0] = [args.sit_src, args.repa_src]
    import samplers
    import transport
    flow(transport, samplers, args.out)
    losses(transport, args.out)
    multistep(args.out)
