# Writes golden.safetensors with the reference writer, and checks that it opens
# files whose header is padded to 4096 bytes. Needs torch and safetensors:
#   python3 gen_golden.py
import json
import os
import torch
from safetensors.torch import load, save

def seq(n, dtype, shape):
    return torch.arange(n, dtype=torch.uint8).view(dtype).reshape(shape) if n else torch.empty(shape, dtype=dtype)

tensors = {
    "z": seq(3, torch.uint8, [3]),
    "b.weight": seq(8, torch.float32, [2, 1]),
    "a.weight": seq(4, torch.float32, []),
    "half": seq(0, torch.float16, [2, 0]),
    "bf": seq(2, torch.bfloat16, [1]),
    "long <&> \u00e9": seq(8, torch.int64, [1, 1]),
    "double": seq(8, torch.float64, [1]),
    "int": seq(4, torch.int32, [1]),
    "bool": seq(1, torch.bool, [1]),
}
out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden.safetensors")
data = save(tensors, {"format": "pt"})
with open(out, "wb") as f:
    f.write(data)

small = save({"a": torch.tensor([1.0])})
n = int.from_bytes(small[:8], "little")
padded = (4096 - 8).to_bytes(8, "little") + small[8:8 + n].ljust(4096 - 8) + small[8 + n:]
assert load(padded)["a"].item() == 1.0
print(json.loads(data[8:8 + int.from_bytes(data[:8], "little")]))
