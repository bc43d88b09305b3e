"""Networks in PyTorch, their weights from a seed, and what PyTorch computes with them.

Run as a script it needs torch, and writes `pytorch_outputs.npz` and the files in `pytorch_files`, which tests read.
"""

import pathlib

import numpy as np

OUTPUTS = pathlib.Path(__file__).with_name("pytorch_outputs.npz")
FILES = pathlib.Path(__file__).with_name("pytorch_files")

# (input channels, squeeze, expand) of SqueezeNet 1.1, by the number in `features`.
FIRES = {
    3: (64, 16, 64),
    4: (128, 16, 64),
    6: (128, 32, 128),
    7: (256, 32, 128),
    9: (256, 48, 192),
    10: (384, 48, 192),
    11: (384, 64, 256),
    12: (512, 64, 256),
}
MLPCONV = ((3, 8, 5), (8, 6, 1), (6, 4, 1))
SHAPES = {"squeezenet": (3, 79, 63), "flattened": (1, 12, 20), "mlpconv": (3, 5, 5)}


def images(name):
    """Return two images, channels first."""
    return np.random.default_rng(1).standard_normal((2, *SHAPES[name])).astype(np.float32)


def state(name, bias=True):
    """Return the weights of a network under the names that PyTorch gives them, by a seed."""
    rng, arrays = np.random.default_rng(0), {}

    def layer(prefix, shape, with_bias=True):
        arrays[f"{prefix}.weight"] = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        if with_bias:
            arrays[f"{prefix}.bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)

    if name == "squeezenet":
        layer("features.0", (64, 3, 3, 3))
        for number, (channels, squeeze, expand) in FIRES.items():
            layer(f"features.{number}.squeeze", (squeeze, channels, 1, 1))
            layer(f"features.{number}.expand1x1", (expand, squeeze, 1, 1))
            layer(f"features.{number}.expand3x3", (expand, squeeze, 3, 3))
        layer("classifier.1", (7, 512, 1, 1))
    elif name == "flattened":
        layer("conv1", (3, 1, 3, 3))
        layer("conv2", (64, 3, 3, 3))
        layer("dense1", (100, 3 * 5 * 64))
        layer("dense2", (10, 100))
    else:
        for number, (channels, filters, size) in enumerate(MLPCONV):
            layer(f"c{number}", (filters, channels, size, size), bias)
            for variable in ("weight", "bias", "running_mean", "running_var"):
                low = 0.001 if variable == "running_var" else -1
                arrays[f"n{number}.{variable}"] = rng.uniform(low, 2, filters).astype(np.float32)
            arrays[f"n{number}.num_batches_tracked"] = np.array(3)
    return arrays


def _network(name, bias):
    from torch import cat, nn

    class Fire(nn.Module):
        def __init__(self, channels, squeeze, expand):
            super().__init__()
            self.squeeze = nn.Conv2d(channels, squeeze, 1)
            self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
            self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

        def forward(self, x):
            x = self.squeeze(x).relu()
            return cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)

    if name == "squeezenet":
        layers = [nn.Conv2d(3, 64, 3, 2), nn.ReLU()]
        for number in range(2, 13):
            layers.append(Fire(*FIRES[number]) if number in FIRES else nn.MaxPool2d(3, 2, ceil_mode=True))
        network = nn.Sequential()
        network.add_module("features", nn.Sequential(*layers))
        head = [nn.Dropout(), nn.Conv2d(512, 7, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        network.add_module("classifier", nn.Sequential(*head))
        return network
    network = nn.Sequential()
    if name == "flattened":
        parts = {
            **{"conv1": nn.Conv2d(1, 3, 3, padding=1), "pool1": nn.MaxPool2d(2), "relu1": nn.ReLU()},
            **{"conv2": nn.Conv2d(3, 64, 3, padding=1), "pool2": nn.MaxPool2d(2), "relu2": nn.ReLU()},
            **{"flatten": nn.Flatten(), "dense1": nn.Linear(3 * 5 * 64, 100), "relu3": nn.ReLU()},
            "dense2": nn.Linear(100, 10),
        }
    else:
        parts = {}
        for number, (channels, filters, size) in enumerate(MLPCONV):
            parts[f"c{number}"] = nn.Conv2d(channels, filters, size, padding=size // 2, bias=bias)
            parts |= {f"n{number}": nn.BatchNorm2d(filters, eps=0.001), f"r{number}": nn.ReLU()}
    for part, module in parts.items():
        network.add_module(part, module)
    return network


def main():
    """Compute and store the outputs, and two small files as torch.save writes them."""
    import torch

    outputs = {}
    for key, name, bias in (
        ("squeezenet", "squeezenet", True),
        ("flattened", "flattened", True),
        ("mlpconv_bias", "mlpconv", True),
        ("mlpconv_nobias", "mlpconv", False),
    ):
        network = _network(name, bias)
        network.load_state_dict({part: torch.from_numpy(array.copy()) for part, array in state(name, bias).items()})
        with torch.no_grad():
            outputs[key] = network.eval()(torch.from_numpy(images(name))).numpy()
    np.savez_compressed(OUTPUTS, **outputs)
    FILES.mkdir(exist_ok=True)
    for legacy in (False, True):
        path = FILES / ("torch_legacy.pth" if legacy else "torch.pt")
        torch.save(checkpoint(torch), path, _use_new_zipfile_serialization=not legacy)


def checkpoint(torch):
    """Return a checkpoint of tensors of every kind: views, parameters, types, none at all."""
    values = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7
    tensors = {
        "plain.weight": values,
        "permuted.weight": values.permute(2, 0, 1),
        "part.weight": values[1],
        "parameter.bias": torch.nn.Parameter(values[0, 0]),
        "half.weight": values.half(),
        "bfloat16.weight": values.bfloat16(),
        "double.weight": values.double(),
        "counter.num_batches_tracked": torch.tensor(7),
        "empty.weight": torch.zeros(0, 3),
    }
    return {"epoch": 3, "best": 0.5, "state_dict": tensors}


if __name__ == "__main__":
    main()
