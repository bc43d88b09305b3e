"""Claims about parameters, MACs, shapes and roles, read from audits of layers, modules and networks built here."""

import math
from typing import Any

from keras_nin import layers
from keras_nin.audit.api import audit_model
from keras_nin.claims.claim import Figures
from keras_nin.claims.networks import (
    audit_zoo_model,
    build_network,
    convolution_rows,
    map_shape,
    random_input,
    run_model,
)


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

    padded = build_network(
        lambda x: keras.layers.Conv2D(2, 3, padding="same", activation="relu", name="conv1")(x), (6, 6, 3), "padded"
    )
    audits = (audit_zoo_model("conv3x3_3to2"), audit_zoo_model("conv1x1_3to2"), audit_model(padded))
    rows = [row for audit in audits for row in convolution_rows(audit)]
    large, small, same = (row.activation_evaluations // map_shape(row.output_shape)[-1] for row in rows)
    return {
        "3x3 layer, ReLU evaluations per filter": large,
        "1x1 layer, ReLU evaluations per filter": small,
        "3x3 layer with padding 1, ReLU evaluations per filter": same,
        "the 1x1 kernel causes the difference": small > same,
    }


def _measure_shapes() -> Figures:
    figures, shape = {}, (12, 12, 64)
    for filters in (16, 32, 64, 128, 256):
        model = build_network(lambda x, filters=filters: layers.conv1x1(x, filters, name="conv1"), shape, "shape")
        (row,) = convolution_rows(audit_model(model))
        figures[f"F = {filters}: output"] = run_model(model, random_input(2, *shape)).shape
        figures[f"F = {filters}: role"] = row.role
    return figures


def _measure_inception() -> Figures:
    """Build Inception 3a of GoogLeNet: 192 channels at 28x28 to 64 (1x1), 128 (3x3), 32 (5x5), 32 (after pooling)."""
    variants: dict[str, dict[str, Any]] = {
        "with reductions": {"reduce3x3": 96, "reduce5x5": 16, "pool_projection": 32},
        "without, pooling unprojected": {},
        "without, pooling projected": {"pool_projection": 32},
    }
    figures = {}
    for label, options in variants.items():
        model = build_network(
            lambda x, options=options: layers.inception_module(x, 64, 128, 32, **options, name="inception_3a"),
            (28, 28, 192),
            "module",
        )
        figures[f"{label}: weights"] = sum(math.prod(weight.shape) for weight in model.weights if len(weight.shape) > 1)
        figures[f"{label}: MACs"] = audit_model(model).total.macs
        figures[f"{label}: channels"] = model.output_shape[-1]
    return figures


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


def _measure_squeezenet() -> Figures:
    audit = audit_zoo_model("squeezenet_v1_0")
    module = [row for row in convolution_rows(audit) if row.name.startswith("fire2_")]
    names = ("squeeze 1x1", "expand 1x1", "expand 3x3")
    return {
        **{
            f"fire2 {name}, channels": f"{map_shape(row.input_shape)[-1]} to {map_shape(row.output_shape)[-1]}"
            for name, row in zip(names, module, strict=True)
        },
        "fire2, parameters": sum(row.params for row in module),
        "SqueezeNet 1.0, parameters": audit.total.params,
        "SqueezeNet 1.1, parameters": audit_zoo_model("squeezenet_v1_1").total.params,
    }


MEASURES = {
    "paperspace-params": _measure_paperspace_params,
    "paperspace-relu-512": _measure_relu_512,
    "robaita-params": _measure_robaita_params,
    "robaita-nonlinearity": _measure_robaita_nonlinearity,
    "demystified-shape": _measure_shapes,
    "demystified-inception": _measure_inception,
    "nin-mlpconv": _measure_nin,
    "squeezenet-fire": _measure_squeezenet,
}
