"""Claims about single layers: parameters, MACs, shapes and roles, all read from an audit of the built layer."""

from keras_nin.claims.networks import audited, convolutions, network, noise, run
from keras_nin.claims.records import Claim, Declared
from keras_nin.claims.sources import DEMYSTIFIED, PAPERSPACE, ROBAITA


def _paperspace_params():
    small, large = audited("conv1x1_512to32").total, audited("conv3x3_512to32").total
    return {
        "1x1 layer, parameters": small.params,
        "3x3 layer, parameters": large.params,
        "MACs of 3x3 over 1x1": large.macs / small.macs,
    }


def _relu_512():
    import numpy as np
    from keras import ops

    total = audited("conv1x1_512to512")
    once = ops.relu(noise(12, 12, 512))
    twice = ops.convert_to_numpy(ops.relu(once))
    return {
        "1x1 layer, parameters": total.total.params,
        "1x1 layer, MACs": total.total.macs,
        "ReLU evaluations": sum(row.activation_evaluations for row in total.rows),
        "values that a ReLU straight after a ReLU changes": int(np.sum(twice != ops.convert_to_numpy(once))),
    }


def _robaita_params():
    (large,), (small,) = (convolutions(audited(name)) for name in ("conv3x3_3to2", "conv1x1_3to2"))
    return {
        "3x3 layer, parameters": large.params,
        "3x3 layer, output": large.output_shape[1:],
        "1x1 layer, parameters": small.params,
        "1x1 layer, output": small.output_shape[1:],
    }


def _robaita_nonlinearity():
    import keras

    from keras_nin.audit import audit

    padded = network(
        lambda x: keras.layers.Conv2D(2, 3, padding="same", activation="relu", name="conv1")(x), (6, 6, 3), "padded"
    )
    large, small, same = (
        _per_filter(result) for result in (audited("conv3x3_3to2"), audited("conv1x1_3to2"), audit(padded))
    )
    return {
        "3x3 layer, ReLU evaluations per filter": large,
        "1x1 layer, ReLU evaluations per filter": small,
        "3x3 layer with padding 1, ReLU evaluations per filter": same,
        "it is the 1x1 kernel that makes them more": small > same,
    }


def _per_filter(result):
    (row,) = convolutions(result)
    return row.activation_evaluations // row.output_shape[-1]


# Filters of a 1x1 layer on K = 64 channels at 12x12, and the role that the audit gives the layer.
_CHANNELS, _SIDE, _BATCH = 64, 12, 2
_ROLES = {16: "reduce", 32: "reduce", 64: "mix", 128: "expand", 256: "expand"}


def _demystified_shape():
    from keras_nin import layers
    from keras_nin.audit import audit

    figures = {}
    for filters in _ROLES:
        shape = (_SIDE, _SIDE, _CHANNELS)
        model = network(lambda x, filters=filters: layers.conv1x1(x, filters, name="conv1"), shape, "shape")
        (row,) = convolutions(audit(model))
        figures[f"F = {filters}: output"] = run(model, noise(_BATCH, *shape)).shape
        figures[f"F = {filters}: role"] = row.role
    return figures


def _shape_figures():
    for filters, role in _ROLES.items():
        yield Declared(f"F = {filters}: output", (_BATCH, _SIDE, _SIDE, filters))
        # The claim speaks of fewer and of more filters; equal numbers are our addition.
        yield Declared(f"F = {filters}: role", None if role == "mix" else role, role)


CLAIMS = (
    Claim(
        id="paperspace-params",
        source=PAPERSPACE,
        text="Going from 512 to 32 channels at 12x12 takes far fewer parameters with 1x1 kernels than with 3x3 ones.",
        figures=(
            Declared("1x1 layer, parameters", 512 * 32 * 1 * 1 + 32),
            Declared("3x3 layer, parameters", 512 * 32 * 3 * 3 + 32),
            Declared("MACs of 3x3 over 1x1", None, 3 * 3),
        ),
        measure=_paperspace_params,
        why="The weights differ by the 9 positions of the kernel at any width; the 32 biases are the same, so the "
        "parameters differ by a little less. What is saved is the view of the neighbours: a 1x1 kernel sees one pixel.",
    ),
    Claim(
        id="paperspace-relu-512",
        source=PAPERSPACE,
        text="A 1x1 layer from 512 to 512 channels at 12x12 can be had for its ReLU alone, for 262,656 parameters.",
        figures=(
            Declared("1x1 layer, parameters", 512 * 512 + 512),
            Declared("1x1 layer, MACs", None, 12 * 12 * 512 * 512),
            Declared("ReLU evaluations", None, 12 * 12 * 512),
            Declared("values that a ReLU straight after a ReLU changes", None, 0),
        ),
        measure=_relu_512,
        why="The count holds. The ReLU itself has no parameters, and straight after another it changes nothing: all of "
        "the price is for the mixing of channels between the two, which is what makes the second one worth having.",
    ),
    Claim(
        id="robaita-params",
        source=ROBAITA,
        text="Two filters on a 6x6x3 input: 56 parameters and a 4x4x2 output with 3x3, 8 and 6x6x2 with 1x1.",
        figures=(
            Declared("3x3 layer, parameters", (3 * 3 * 3 + 1) * 2),
            Declared("3x3 layer, output", (6 - 2, 6 - 2, 2)),
            Declared("1x1 layer, parameters", (1 * 1 * 3 + 1) * 2),
            Declared("1x1 layer, output", (6, 6, 2)),
        ),
        measure=_robaita_params,
        why="Both counts and both shapes hold. The 3x3 output is smaller only because that layer has no padding.",
    ),
    Claim(
        id="robaita-nonlinearity",
        source=ROBAITA,
        text="The 1x1 layer applies its non-linearity more often: 36 times per filter, against 16 for 3x3.",
        figures=(
            Declared("3x3 layer, ReLU evaluations per filter", 4 * 4),
            Declared("1x1 layer, ReLU evaluations per filter", 6 * 6),
            Declared("3x3 layer with padding 1, ReLU evaluations per filter", None, 6 * 6),
            Declared("it is the 1x1 kernel that makes them more", True, False),
        ),
        measure=_robaita_nonlinearity,
        why="The counts hold for a 3x3 layer without padding. One evaluation belongs to each output position, so with "
        "padding 1 the 3x3 layer has 36 as well: the map's size decides, not the kernel's.",
    ),
    Claim(
        id="demystified-shape",
        source=DEMYSTIFIED,
        text="F filters of 1x1 turn K channels into F and leave batch, height and width alone: F < K reduces, F > K "
        "expands.",
        figures=tuple(_shape_figures()),
        measure=_demystified_shape,
        why="It holds for every F tried at K = 64 (shapes as run here: batch, height, width, channels), with stride 1. "
        "The role is the audit's; where F = K the layer mixes, and a stride of 2 would halve the map as in any layer.",
    ),
)
