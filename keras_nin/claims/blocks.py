"""Claims about modules and whole networks: Inception, Network in Network and SqueezeNet."""

from keras_nin.claims.networks import audited, convolutions, kernel_weights, network
from keras_nin.claims.records import Claim, Declared
from keras_nin.claims.sources import DEMYSTIFIED, NIN, SQUEEZENET

# Inception 3a of GoogLeNet: 192 channels at 28x28 to 64 (1x1), 128 (3x3), 32 (5x5) and 32 (after the pooling).
_MAP_3A = (28, 28, 192)
_FILTERS_3A = (64, 128, 32)
_REDUCTIONS = {"reduce3x3": 96, "reduce5x5": 16}
_PROJECTION = {"pool_projection": 32}
_WITH = 192 * 64 + (192 * 96 + 3 * 3 * 96 * 128) + (192 * 16 + 5 * 5 * 16 * 32) + 192 * 32
_WITHOUT = 192 * 64 + 3 * 3 * 192 * 128 + 5 * 5 * 192 * 32
_VARIANTS_3A = {
    "with reductions": (_REDUCTIONS | _PROJECTION, _WITH, 64 + 128 + 32 + 32),
    "without, pooling unprojected": ({}, _WITHOUT, 64 + 128 + 32 + 192),
    "without, pooling projected": (_PROJECTION, _WITHOUT + 192 * 32, 64 + 128 + 32 + 32),
}


def _inception():
    from keras_nin import layers
    from keras_nin.audit import audit

    figures = {}
    for label, (options, _, _) in _VARIANTS_3A.items():
        model = network(
            lambda x, options=options: layers.inception_module(x, *_FILTERS_3A, **options, name="inception_3a"),
            _MAP_3A,
            "module",
        )
        figures[f"{label}: weights"] = kernel_weights(model)
        figures[f"{label}: MACs"] = audit(model).total.macs
        figures[f"{label}: channels"] = model.output_shape[-1]
    return figures


def _inception_figures():
    for label, (_, weights, channels) in _VARIANTS_3A.items():
        yield Declared(f"{label}: weights", weights)
        yield Declared(f"{label}: MACs", 28 * 28 * weights)
        yield Declared(f"{label}: channels", None, channels)


def _nin():
    result = audited("nin_cifar10")
    rows = convolutions(result)
    return {
        "parameters on CIFAR-10": result.total.params,
        "kernels of the nine layers": " ".join("x".join(map(str, row.kernel)) for row in rows),
        "layers with a ReLU of their own": sum(row.activation_evaluations > 0 for row in rows),
        "dense layers": sum(row.kind == "dense" for row in result.rows),
        "global average poolings": sum(row.type == "GlobalAveragePooling2D" for row in result.rows),
    }


def _block(kernel, *channels):
    """Parameters of an mlpconv block: a convolution, then 1x1 layers; `channels` from the input's to the output's."""
    kernels = (kernel, *[1] * (len(channels) - 2))
    return sum(
        side * side * entering * leaving + leaving
        for side, entering, leaving in zip(kernels, channels[:-1], channels[1:], strict=True)
    )


def _squeezenet():
    rows = convolutions(audited("squeezenet_v1_0"))
    module = {row.name.removeprefix("fire2_"): row for row in rows if row.name.startswith("fire2_")}
    channels = {name: f"{row.input_shape[-1]} to {row.output_shape[-1]}" for name, row in module.items()}
    return {
        "fire2 squeeze 1x1, channels": channels["squeeze1x1"],
        "fire2 expand 1x1, channels": channels["expand1x1"],
        "fire2 expand 3x3, channels": channels["expand3x3"],
        "fire2, parameters": sum(row.params for row in module.values()),
        "SqueezeNet 1.0, parameters": audited("squeezenet_v1_0").total.params,
        "SqueezeNet 1.1, parameters": audited("squeezenet_v1_1").total.params,
    }


def _fire(channels, squeeze, expand):
    return (channels * squeeze + squeeze) + (squeeze * expand + expand) + (3 * 3 * squeeze * expand + expand)


# Squeeze and expand widths of fire2 to fire9; a module's input is what the two expand layers before it give together.
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))


def _network(first, channels):
    """Parameters of a SqueezeNet: those of its first layer, of the eight modules, and of the 1x1 layer to 1000."""
    total = first
    for squeeze, expand in _FIRES:
        total += _fire(channels, squeeze, expand)
        channels = 2 * expand
    return total + channels * 1000 + 1000


CLAIMS = (
    Claim(
        id="demystified-inception",
        source=DEMYSTIFIED,
        text="1x1 reductions ahead of the 3x3 and 5x5 branches are what makes an Inception module affordable "
        "(GoogLeNet's 3a, weights without biases).",
        figures=tuple(_inception_figures()),
        measure=_inception,
        why="They save a factor of 2.4 in weights and in MACs, although they are layers themselves. Left out, the "
        "module without a projection after the pooling also gives 416 channels instead of 256, which the next one "
        "pays for; with the projection the widths are equal and the factor is the same to one digit.",
    ),
    Claim(
        id="nin-mlpconv",
        source=NIN,
        text="Blocks of a k x k convolution and two 1x1 layers, each with a ReLU, and global average pooling instead "
        "of dense layers.",
        figures=(
            Declared(
                "parameters on CIFAR-10",
                _block(5, 3, 192, 160, 96) + _block(5, 96, 192, 192, 192) + _block(3, 192, 192, 192, 10),
            ),
            Declared("kernels of the nine layers", "5x5 1x1 1x1 5x5 1x1 1x1 3x3 1x1 1x1"),
            Declared("layers with a ReLU of their own", 9),
            Declared("dense layers", 0),
            Declared("global average poolings", 1),
            Declared("test error on CIFAR-10, %", 10.41, None),
            Declared("test error with augmentation, %", 8.81, None),
        ),
        measure=_nin,
        why="The structure and the count hold. The paper's test errors are not reproduced here: that would take a long "
        "training on CIFAR-10, which this command does not do.",
    ),
    Claim(
        id="squeezenet-fire",
        source=SQUEEZENET,
        text="A fire module squeezes with 1x1 layers and expands with 1x1 beside 3x3, concatenated; a whole network of "
        "them has 1.2 million parameters.",
        figures=(
            Declared("fire2 squeeze 1x1, channels", "96 to 16"),
            Declared("fire2 expand 1x1, channels", "16 to 64"),
            Declared("fire2 expand 3x3, channels", "16 to 64"),
            Declared("fire2, parameters", _fire(96, 16, 64)),
            Declared("SqueezeNet 1.0, parameters", _network(7 * 7 * 3 * 96 + 96, 96)),
            Declared("SqueezeNet 1.1, parameters", _network(3 * 3 * 3 * 64 + 64, 64)),
        ),
        measure=_squeezenet,
        why="Both totals hold, biases included. Version 1.1 differs in its first layer and in where it pools; that "
        "saves few parameters and more than half of the MACs.",
    ),
)
