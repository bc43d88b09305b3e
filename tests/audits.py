"""Audits made by hand, for tests of what is printed and judged: no Keras needed."""

import dataclasses

from keras_nin.audit.api import Audit
from keras_nin.audit.records import AuditRow, AuditTotal, Finding


def row(name, **facts):
    """A 1x1 layer's row at float32, with what `facts` say otherwise."""
    elements = facts.pop("activation_elements", 100)
    plain = {
        **{"type": "Conv2D", "kind": "pointwise", "role": "mix", "kernel": (1, 1), "block": None},
        **{"input_shape": (1, 5, 5, 4), "output_shape": (1, 5, 5, 4), "receptive_field": (1, 1)},
        **{"params": 20, "trainable_params": 20, "macs": 400, "weight_bytes": 80},
        **{"activation_elements": elements, "activation_bytes": 4 * elements, "activation_evaluations": 0},
    }
    return AuditRow(name=name, **plain | facts)


def audit(rows, findings=(), peak=800, model="small"):
    """An audit of `rows`, its totals their sums."""
    params, trainable = sum(one.params for one in rows), sum(one.trainable_params for one in rows)
    pointwise = [one for one in rows if one.kind == "pointwise"]
    known = {
        "params": params,
        "trainable_params": trainable,
        "non_trainable_params": params - trainable,
        "macs": sum(one.macs or 0 for one in rows),
        "pointwise_params": sum(one.params for one in pointwise),
        "pointwise_macs": sum(one.macs for one in pointwise),
        "activation_bytes": sum(one.activation_bytes for one in rows),
        "peak_activation_bytes": peak,
        "peak_activation_bytes_int8": peak // 4,
        "weight_bytes": sum(one.weight_bytes for one in rows),
        "macs_unknown": sum(one.macs is None for one in rows),
    }
    fields = [field.name for field in dataclasses.fields(AuditTotal)]
    return Audit(model, tuple(rows), AuditTotal(**{key: known.get(key) for key in fields}), tuple(findings))


def small():
    """Three layers in two blocks and one in none, 1,000 MACs known, one layer's unknown, and a finding."""
    rows = [
        row("a_1x1", block="a", role="reduce", params=10, trainable_params=10, macs=100, weight_bytes=40),
        row("a_3x3", block="a", kind="spatial", role=None, kernel=(3, 3), params=60, macs=600, weight_bytes=240),
        row("odd[red]|x", kind="other", role=None, kernel=None, type="Mine", macs=None, params=0, trainable_params=0),
        row("b_1x1", block="b", role="head", params=30, trainable_params=0, macs=300, weight_bytes=120),
    ]
    found = Finding("collapse", tuple(f"layer{n}" for n in range(7)), "They are one.", {"params": 5, "bytes": 2048})
    return audit(rows, [found])
