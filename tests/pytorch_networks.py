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
SHAPES = {"squeezenet": (3, 79, 63), "flattened": (1, 12, 20), "mlpconv": (3, 5, 5), "googlenet": (3, 64, 96)}
# torchvision's modules by name: input channels, 1x1, 3x3 reduction, 3x3, 5x5 reduction, 5x5, pool projection.
INCEPTIONS = {
    "inception3a": (192, 64, 96, 128, 16, 32, 32),
    "inception3b": (256, 128, 128, 192, 32, 96, 64),
    "inception4a": (480, 192, 96, 208, 16, 48, 64),
    "inception4b": (512, 160, 112, 224, 24, 64, 64),
    "inception4c": (512, 128, 128, 256, 24, 64, 64),
    "inception4d": (512, 112, 144, 288, 32, 64, 64),
    "inception4e": (528, 256, 160, 320, 32, 128, 128),
    "inception5a": (832, 256, 160, 320, 32, 128, 128),
    "inception5b": (832, 384, 192, 384, 48, 128, 128),
}


def inception_convolutions(name):
    """Return (input channels, filters, kernel size) of a module's convolutions by their names in it."""
    channels, one, reduce3, three, reduce5, five, projection = INCEPTIONS[name]
    return {
        "branch1": (channels, one, 1),
        "branch2.0": (channels, reduce3, 1),
        "branch2.1": (reduce3, three, 3),
        "branch3.0": (channels, reduce5, 1),
        "branch3.1": (reduce5, five, 3),
        "branch4.1": (channels, projection, 1),
    }


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

    def normalized(prefix, channels, filters, size):
        layer(f"{prefix}.conv", (filters, channels, size, size), False)
        low = {"weight": 1, "bias": -0.2, "running_mean": -0.2, "running_var": 0.5}
        for variable, least in low.items():
            arrays[f"{prefix}.bn.{variable}"] = rng.uniform(least, least + 1, filters).astype(np.float32)
        arrays[f"{prefix}.bn.num_batches_tracked"] = np.array(3)

    if name == "googlenet":
        for stem in (("conv1", 3, 64, 7), ("conv2", 64, 64, 1), ("conv3", 64, 192, 3)):
            normalized(*stem)
        for module in INCEPTIONS:
            for part, sizes in inception_convolutions(module).items():
                normalized(f"{module}.{part}", *sizes)
        for auxiliary, channels in (("aux1", 512), ("aux2", 528)):
            normalized(f"{auxiliary}.conv", channels, 128, 1)
            layer(f"{auxiliary}.fc1", (4, 2048))
            layer(f"{auxiliary}.fc2", (1000, 4))
        layer("fc", (1000, 1024))
    elif name == "squeezenet":
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

    class Normalized(nn.Sequential):
        def __init__(self, channels, filters, size, stride=1):
            convolution = nn.Conv2d(channels, filters, size, stride, padding=size // 2, bias=False)
            super().__init__()
            self.add_module("conv", convolution)
            self.add_module("bn", nn.BatchNorm2d(filters, eps=0.001))

        def forward(self, x):
            return super().forward(x).relu()

    class Inception(nn.Module):
        def __init__(self, module):
            super().__init__()
            parts = {part: Normalized(*sizes) for part, sizes in inception_convolutions(module).items()}
            self.branch1 = parts["branch1"]
            self.branch2 = nn.Sequential(parts["branch2.0"], parts["branch2.1"])
            self.branch3 = nn.Sequential(parts["branch3.0"], parts["branch3.1"])
            self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1, ceil_mode=True), parts["branch4.1"])

        def forward(self, x):
            return cat([branch(x) for branch in (self.branch1, self.branch2, self.branch3, self.branch4)], 1)

    if name == "googlenet":
        network = nn.Sequential()
        network.add_module("conv1", Normalized(3, 64, 7, 2))
        network.add_module("maxpool1", nn.MaxPool2d(3, 2, ceil_mode=True))
        network.add_module("conv2", Normalized(64, 64, 1))
        network.add_module("conv3", Normalized(64, 192, 3))
        network.add_module("maxpool2", nn.MaxPool2d(3, 2, ceil_mode=True))
        for module in INCEPTIONS:
            network.add_module(module, Inception(module))
            if module == "inception3b":
                network.add_module("maxpool3", nn.MaxPool2d(3, 2, ceil_mode=True))
            elif module == "inception4e":
                network.add_module("maxpool4", nn.MaxPool2d(2, 2, ceil_mode=True))
        for part in (nn.AdaptiveAvgPool2d(1), nn.Flatten()):
            network.append(part)
        network.add_module("fc", nn.Linear(1024, 1000))
        return network
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
        ("googlenet", "googlenet", True),
    ):
        network = _network(name, bias)
        arrays = {part: array for part, array in state(name, bias).items() if not part.startswith("aux")}
        network.load_state_dict({part: torch.from_numpy(array.copy()) for part, array in arrays.items()})
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
