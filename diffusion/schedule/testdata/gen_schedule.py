# Writes schedule.json with the original code of facebookresearch/DiT, found
# through the environment:
#   DIT_REPO=/path/to/DiT python3 gen_schedule.py
# Needs numpy and torch (which the original imports).
import hashlib
import json
import os
import sys

import numpy as np

sys.path.insert(0, os.environ["DIT_REPO"])
from diffusion import create_diffusion, gaussian_diffusion as gd
from diffusion.respace import space_timesteps

# Tables made of + - * / and square roots only: bit-equal, kept as a hash.
EXACT = [
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "alphas_cumprod_next",
    "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
    "posterior_variance", "posterior_mean_coef1", "posterior_mean_coef2",
]
LOGS = ["log_one_minus_alphas_cumprod", "posterior_log_variance_clipped", "log_betas"]


def sha(a, dtype):
    return hashlib.sha256(np.ascontiguousarray(a, dtype=dtype).tobytes()).hexdigest()


def schedule(kind, T, spec):
    d = create_diffusion(spec, noise_schedule=kind, diffusion_steps=T)
    d.log_betas = np.log(d.betas)
    n = d.num_timesteps
    at = sorted({k for k in (0, 1, 2, n // 3, n // 2, n - 2, n - 1) if 0 <= k < n})
    return {
        "betas": kind, "steps": T, "spec": spec, "at": at,
        "map": [int(d.timestep_map[k]) for k in at], "map_sha256": sha(d.timestep_map, "<i8"),
        "values": {k: [float(getattr(d, k)[i]) for i in at] for k in (LOGS if kind == "linear" else EXACT + LOGS)},
        "sha256": {k: sha(getattr(d, k), "<f8") for k in EXACT} if kind == "linear" else {},
    }


def space(T, spec):
    """The steps as text and their hash; an empty hash if the original refuses."""
    try:
        use = sorted(space_timesteps(T, spec))
    except ValueError:
        return ""
    return hashlib.sha256(",".join(map(str, use)).encode()).hexdigest()


specs = [(1000, s) for s in ("7", "2", "3", "5", "10", "49", "50", "250", "999", "1000", "1001", "10,15,20", "0,10",
                             "1,1", "500,500", "501,499", "334,333,333", "333,334,333", " 5 , 6", "+8", "", ",", "5,",
                             "x", "1.5", "ddim", "ddim1", "ddim0", "ddim-5", "ddim50", "ddim250", "ddim37",
                             "ddim1001", "ddimx", "ddim50,50")]
specs += [(300, "10,15,20"), (300, "100,100,100"), (300, "101,99,100"), (10, "1,1,1,1,1,1,1,1,1,1"), (3, "1,1,1,1"),
          (1, "1"), (1, "ddim1"), (2, "ddim2"), (2, "ddim1")]
spaces = [{"steps": T, "spec": s, "sha256": space(T, s if s else [T])} for T, s in specs]

# Every count and every stride, hashed together: one line of steps or "error" each.
def sweep(T, prefix):
    h = hashlib.sha256()
    for n in range(1, T + 2):
        try:
            h.update((",".join(map(str, sorted(space_timesteps(T, f"{prefix}{n}")))) + "\n").encode())
        except ValueError:
            h.update(b"error\n")
    return {"steps": T, "prefix": prefix, "sha256": h.hexdigest()}

sweeps = [sweep(T, p) for T in (1000, 300, 997, 64) for p in ("", "ddim", f"{T//4},")]

out = {
    "betas_sha256": {str(T): sha(gd.get_named_beta_schedule("linear", T), "<f8")
                     for T in (1, 20, 50, 100, 300, 999, 1000, 4000)},
    "schedules": [schedule("linear", 1000, s)
                  for s in ("", "250", "50", "7", "2", "10,15,20", "ddim50", "ddim250", "1000")]
    + [schedule("linear", 300, "10,15,20"), schedule("linear", 4000, "")]
    + [schedule("squaredcos_cap_v2", T, s) for T, s in ((1000, ""), (1000, "250"), (50, ""), (4000, "100"))],
    "spaces": spaces,
    "sweeps": sweeps,
}
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "schedule.json"), "w") as f:
    # One entry a line, to keep the file short and its changes readable.
    lines = [f'"betas_sha256": {json.dumps(out["betas_sha256"])}']
    lines += [f'"{k}": [\n' + ",\n".join(map(json.dumps, out[k])) + "\n]" for k in ("schedules", "spaces", "sweeps")]
    f.write("{\n" + ",\n".join(lines) + "\n}\n")
