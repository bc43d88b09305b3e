"""Claims about parameters, MACs, shapes and roles, read from audits of layers, modules and networks built here."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from keras_nin.claims.claim import DEMYSTIFIED, NIN, ROBAITA, SQUEEZENET, Claim, DeclaredFigure, Figures
from keras_nin.claims.networks import (
    audit_zoo_model,
    build_network,
    convolution_rows,
    count_kernel_weights,
    map_shape,
    random_input,
    run_model,
)
from keras_nin.models.articles import CONVNET

if TYPE_CHECKING:
    from keras_nin.audit import Audit


def _measure_paperspace_params() -> Figures:
    small, large = audit_zoo_model("conv1x1_512to32").total, audit_zoo_model("conv3x3_512to32").total
    return {
        "1x1 layer, parameters": small.params,
        "3x3 layer, parameters": large.params,
        "MACs of 3x3 over 1x1": large.macs / small.macs,
    }


def _measure_relu_512() -> Figures:
    import numpy as np
    from keras import ops

    audit = audit_zoo_model("conv1x1_512to512")
    once = ops.relu(random_input(12, 12, 512))
    twice = ops.convert_to_numpy(ops.relu(once))
    return {
        "1x1 layer, parameters": audit.total.params,
        "1x1 layer, MACs": audit.total.macs,
        "ReLU evaluations": sum(row.activation_evaluations for row in audit.rows),
        "values changed by a ReLU directly after a ReLU": int(np.sum(twice != ops.convert_to_numpy(once))),
    }


def _measure_robaita_params() -> Figures:
    (large,), (small,) = (convolution_rows(audit_zoo_model(name)) for name in ("conv3x3_3to2", "conv1x1_3to2"))
    return {
        "3x3 layer, parameters": large.params,
        "3x3 layer, output": map_shape(large.output_shape),
        "1x1 layer, parameters": small.params,
        "1x1 layer, output": map_shape(small.output_shape),
    }


def _measure_robaita_nonlinearity() -> Figures:
    import keras

    from keras_nin.audit.api import audit_model

    padded = build_network(
        lambda x: keras.layers.Conv2D(2, 3, padding="same", activation="relu", name="conv1")(x), (6, 6, 3), "padded"
    )
    large, small, same = (
        _evaluations_per_filter(audit)
        for audit in (audit_zoo_model("conv3x3_3to2"), audit_zoo_model("conv1x1_3to2"), audit_model(padded))
    )
    return {
        "3x3 layer, ReLU evaluations per filter": large,
        "1x1 layer, ReLU evaluations per filter": small,
        "3x3 layer with padding 1, ReLU evaluations per filter": same,
        "the 1x1 kernel causes the difference": small > same,
    }


def _evaluations_per_filter(audit: "Audit") -> int:
    (row,) = convolution_rows(audit)
    return row.activation_evaluations // map_shape(row.output_shape)[-1]


# Filters of a 1x1 layer on K = 64 channels at 12x12, and the role that the audit gives the layer.
_CHANNELS, _SIDE, _BATCH = 64, 12, 2
_ROLES_BY_FILTERS = {16: "reduce", 32: "reduce", 64: "mix", 128: "expand", 256: "expand"}


def _measure_shapes() -> Figures:
    from keras_nin import layers
    from keras_nin.audit.api import audit_model

    figures = {}
    for filters in _ROLES_BY_FILTERS:
        shape = (_SIDE, _SIDE, _CHANNELS)
        model = build_network(lambda x, filters=filters: layers.conv1x1(x, filters, name="conv1"), shape, "shape")
        (row,) = convolution_rows(audit_model(model))
        figures[f"F = {filters}: output"] = run_model(model, random_input(_BATCH, *shape)).shape
        figures[f"F = {filters}: role"] = row.role
    return figures


def _shape_figures() -> Iterator[DeclaredFigure]:
    for filters, role in _ROLES_BY_FILTERS.items():
        yield DeclaredFigure(f"F = {filters}: output", (_BATCH, _SIDE, _SIDE, filters))
        # The claim speaks of fewer and of more filters; equal numbers are our addition.
        yield DeclaredFigure(f"F = {filters}: role", None if role == "mix" else role, role)


LAYER_CLAIMS = (
    Claim(
        id="paperspace-params",
        source=CONVNET,
        text="Going from 512 to 32 channels at 12x12 takes far fewer parameters with 1x1 kernels than with 3x3 ones.",
        figures=(
            DeclaredFigure("1x1 layer, parameters", 512 * 32 * 1 * 1 + 32),
            DeclaredFigure("3x3 layer, parameters", 512 * 32 * 3 * 3 + 32),
            DeclaredFigure("MACs of 3x3 over 1x1", None, 3 * 3),
        ),
        measure=_measure_paperspace_params,
        why="The weights differ by the 9 positions of the kernel at any width; the 32 biases are the same, so the "
        "parameters differ by a little less. What is saved is the view of the neighbours: a 1x1 kernel sees one pixel.",
    ),
    Claim(
        id="paperspace-relu-512",
        source=CONVNET,
        text="A 1x1 layer from 512 to 512 channels at 12x12 can be had for its ReLU alone, for 262,656 parameters.",
        figures=(
            DeclaredFigure("1x1 layer, parameters", 512 * 512 + 512),
            DeclaredFigure("1x1 layer, MACs", None, 12 * 12 * 512 * 512),
            DeclaredFigure("ReLU evaluations", None, 12 * 12 * 512),
            DeclaredFigure("values changed by a ReLU directly after a ReLU", None, 0),
        ),
        measure=_measure_relu_512,
        why="The count holds. The ReLU itself has no parameters, and straight after another it changes nothing: all of "
        "the price is for the mixing of channels between the two, which is what makes the second one worth having.",
    ),
    Claim(
        id="robaita-params",
        source=ROBAITA,
        text="Two filters on a 6x6x3 input: 56 parameters and a 4x4x2 output with 3x3, 8 and 6x6x2 with 1x1.",
        figures=(
            DeclaredFigure("3x3 layer, parameters", (3 * 3 * 3 + 1) * 2),
            DeclaredFigure("3x3 layer, output", (6 - 2, 6 - 2, 2)),
            DeclaredFigure("1x1 layer, parameters", (1 * 1 * 3 + 1) * 2),
            DeclaredFigure("1x1 layer, output", (6, 6, 2)),
        ),
        measure=_measure_robaita_params,
        why="Both counts and both shapes hold. The 3x3 output is smaller only because that layer has no padding.",
    ),
    Claim(
        id="robaita-nonlinearity",
        source=ROBAITA,
        text="The 1x1 layer applies its non-linearity more often: 36 times per filter, against 16 for 3x3.",
        figures=(
            DeclaredFigure("3x3 layer, ReLU evaluations per filter", 4 * 4),
            DeclaredFigure("1x1 layer, ReLU evaluations per filter", 6 * 6),
            DeclaredFigure("3x3 layer with padding 1, ReLU evaluations per filter", None, 6 * 6),
            DeclaredFigure("the 1x1 kernel causes the difference", True, False),
        ),
        measure=_measure_robaita_nonlinearity,
        why="The counts hold for a 3x3 layer without padding. One evaluation belongs to each output position, so with "
        "padding 1 the 3x3 layer has 36 as well: the map's size decides, not the kernel's.",
    ),
    Claim(
        id="demystified-shape",
        source=DEMYSTIFIED,
        text="F filters of 1x1 turn K channels into F and leave batch, height and width alone: F < K reduces, F > K "
        "expands.",
        figures=tuple(_shape_figures()),
        measure=_measure_shapes,
        why="It holds for every F tried at K = 64 (shapes as run here: batch, height, width, channels), with stride 1. "
        "The role is the audit's; where F = K the layer mixes, and a stride of 2 would halve the map as in any layer.",
    ),
)


# Inception 3a of GoogLeNet: 192 channels at 28x28 to 64 (1x1), 128 (3x3), 32 (5x5) and 32 (after the pooling).
_MAP_3A = (28, 28, 192)
_FILTERS_3A = (64, 128, 32)
_REDUCTIONS = {"reduce3x3": 96, "reduce5x5": 16}
_PROJECTION = {"pool_projection": 32}
_WEIGHTS_WITH_REDUCTIONS = 192 * 64 + (192 * 96 + 3 * 3 * 96 * 128) + (192 * 16 + 5 * 5 * 16 * 32) + 192 * 32
_WEIGHTS_WITHOUT_REDUCTIONS = 192 * 64 + 3 * 3 * 192 * 128 + 5 * 5 * 192 * 32
_VARIANTS_3A = {
    "with reductions": (_REDUCTIONS | _PROJECTION, _WEIGHTS_WITH_REDUCTIONS, 64 + 128 + 32 + 32),
    "without, pooling unprojected": ({}, _WEIGHTS_WITHOUT_REDUCTIONS, 64 + 128 + 32 + 192),
    "without, pooling projected": (_PROJECTION, _WEIGHTS_WITHOUT_REDUCTIONS + 192 * 32, 64 + 128 + 32 + 32),
}


def _measure_inception() -> Figures:
    from keras_nin import layers
    from keras_nin.audit.api import audit_model

    figures = {}
    for label, (options, _, _) in _VARIANTS_3A.items():
        model = build_network(
            lambda x, options=options: layers.inception_module(x, *_FILTERS_3A, **options, name="inception_3a"),
            _MAP_3A,
            "module",
        )
        figures[f"{label}: weights"] = count_kernel_weights(model)
        figures[f"{label}: MACs"] = audit_model(model).total.macs
        figures[f"{label}: channels"] = model.output_shape[-1]
    return figures


def _inception_figures() -> Iterator[DeclaredFigure]:
    for label, (_, weights, channels) in _VARIANTS_3A.items():
        yield DeclaredFigure(f"{label}: weights", weights)
        yield DeclaredFigure(f"{label}: MACs", 28 * 28 * weights)
        yield DeclaredFigure(f"{label}: channels", None, channels)


def _measure_nin() -> Figures:
    result = audit_zoo_model("nin_cifar10")
    rows = convolution_rows(result)
    return {
        "parameters on CIFAR-10": result.total.params,
        "kernels of the nine layers": " ".join("x".join(map(str, row.kernel or ())) for row in rows),
        "layers with a ReLU of their own": sum(row.activation_evaluations > 0 for row in rows),
        "dense layers": sum(row.kind == "dense" for row in result.rows),
        "global average poolings": sum(row.type == "GlobalAveragePooling2D" for row in result.rows),
    }


def _mlpconv_params(kernel: int, *channels: int) -> int:
    """Parameters of an mlpconv block: a convolution, then 1x1 layers; `channels` from the input's to the output's."""
    kernels = (kernel, *[1] * (len(channels) - 2))
    return sum(
        side * side * entering * leaving + leaving
        for side, entering, leaving in zip(kernels, channels[:-1], channels[1:], strict=True)
    )


def _measure_squeezenet() -> Figures:
    rows = convolution_rows(audit_zoo_model("squeezenet_v1_0"))
    module = {row.name.removeprefix("fire2_"): row for row in rows if row.name.startswith("fire2_")}
    channels = {
        name: f"{map_shape(row.input_shape)[-1]} to {map_shape(row.output_shape)[-1]}" for name, row in module.items()
    }
    return {
        "fire2 squeeze 1x1, channels": channels["squeeze1x1"],
        "fire2 expand 1x1, channels": channels["expand1x1"],
        "fire2 expand 3x3, channels": channels["expand3x3"],
        "fire2, parameters": sum(row.params for row in module.values()),
        "SqueezeNet 1.0, parameters": audit_zoo_model("squeezenet_v1_0").total.params,
        "SqueezeNet 1.1, parameters": audit_zoo_model("squeezenet_v1_1").total.params,
    }


def _fire_params(channels: int, squeeze: int, expand: int) -> int:
    return (channels * squeeze + squeeze) + (squeeze * expand + expand) + (3 * 3 * squeeze * expand + expand)


# Squeeze and expand widths of fire2 to fire9; a module's input is what the two expand layers before it give together.
_FIRE_WIDTHS = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))


def _squeezenet_params(first: int, channels: int) -> int:
    """Parameters of a SqueezeNet: those of its first layer, of the eight modules, and of the 1x1 layer to 1000."""
    total = first
    for squeeze, expand in _FIRE_WIDTHS:
        total += _fire_params(channels, squeeze, expand)
        channels = 2 * expand
    return total + channels * 1000 + 1000


NETWORK_CLAIMS = (
    Claim(
        id="demystified-inception",
        source=DEMYSTIFIED,
        text="1x1 reductions ahead of the 3x3 and 5x5 branches are what makes an Inception module affordable "
        "(GoogLeNet's 3a, weights without biases).",
        figures=tuple(_inception_figures()),
        measure=_measure_inception,
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
            DeclaredFigure(
                "parameters on CIFAR-10",
                _mlpconv_params(5, 3, 192, 160, 96)
                + _mlpconv_params(5, 96, 192, 192, 192)
                + _mlpconv_params(3, 192, 192, 192, 10),
            ),
            DeclaredFigure("kernels of the nine layers", "5x5 1x1 1x1 5x5 1x1 1x1 3x3 1x1 1x1"),
            DeclaredFigure("layers with a ReLU of their own", 9),
            DeclaredFigure("dense layers", 0),
            DeclaredFigure("global average poolings", 1),
            DeclaredFigure("test error on CIFAR-10, %", 10.41, None),
            DeclaredFigure("test error with augmentation, %", 8.81, None),
        ),
        measure=_measure_nin,
        why="The structure and the count hold. The paper's test errors are not reproduced here: that would take a long "
        "training on CIFAR-10, which this command does not do.",
    ),
    Claim(
        id="squeezenet-fire",
        source=SQUEEZENET,
        text="A fire module squeezes with 1x1 layers and expands with 1x1 beside 3x3, concatenated; a whole network of "
        "them has 1.2 million parameters.",
        figures=(
            DeclaredFigure("fire2 squeeze 1x1, channels", "96 to 16"),
            DeclaredFigure("fire2 expand 1x1, channels", "16 to 64"),
            DeclaredFigure("fire2 expand 3x3, channels", "16 to 64"),
            DeclaredFigure("fire2, parameters", _fire_params(96, 16, 64)),
            DeclaredFigure("SqueezeNet 1.0, parameters", _squeezenet_params(7 * 7 * 3 * 96 + 96, 96)),
            DeclaredFigure("SqueezeNet 1.1, parameters", _squeezenet_params(3 * 3 * 3 * 64 + 64, 64)),
        ),
        measure=_measure_squeezenet,
        why="Both totals hold, biases included. Version 1.1 differs in its first layer and in where it pools; that "
        "saves few parameters and more than half of the MACs.",
    ),
)
