"""Arithmetic on one layer: multiply-accumulates and applications of its non-linearity, for one input (batch 1)."""

import math

from keras_nin.audit.classify import (
    CONVOLUTIONS,
    DEPTHWISE,
    FOLDABLE_NORMS,
    KIND_OF,
    LOCAL_RESPONSE,
    PASS_THROUGH,
    TRANSPOSED,
    kind_of,
)

_FREE_KINDS = frozenset({"activation", "merge", "pool", "reshape"})
# Table look-ups and scaling element by element: no multiplication that is followed by an addition to a running sum.
_FREE = (
    FOLDABLE_NORMS | PASS_THROUGH | {LOCAL_RESPONSE, "Embedding", "Rescaling", "Resizing", "Cast", "Negative", "Clip"}
)


def macs(layer):
    """Return the MACs of `layer` (`LayerInfo`), or None where they are not known.

    One MAC is one multiply and one add. Biases, activations, poolings, resizing, merges and normalisations without a
    learned product (BatchNormalization, local response) count 0.
    """
    if layer.op in CONVOLUTIONS:
        return layer.output_elements * math.prod(layer.kernel) * (layer.inputs[0].shape[-1] // layer.groups)
    if layer.op in DEPTHWISE:
        return layer.output_elements * math.prod(layer.kernel)
    if layer.op in TRANSPOSED:
        # Every input element is multiplied by one kernel window for every output channel.
        return layer.inputs[0].elements * math.prod(layer.kernel) * layer.outputs[0].shape[-1]
    if layer.op == "Dense":
        return layer.output_elements * layer.inputs[0].shape[-1]
    return 0 if KIND_OF.get(layer.op) in _FREE_KINDS or layer.op in _FREE else None


def activation_evaluations(layer):
    """Return how often `layer` applies a non-linearity: its output elements, or 0 where it applies none."""
    applied = kind_of(layer) == "activation" if layer.activation is None else layer.activation != "linear"
    return layer.output_elements if applied else 0


def arithmetic_intensity(layer, macs):
    """Return MACs per byte that `layer` moves: inputs, outputs and weights, once each; None where `macs` is None."""
    moved = sum(tensor.nbytes for tensor in (*layer.inputs, *layer.outputs)) + layer.weight_bytes
    return None if macs is None else macs / moved if moved else 0.0
