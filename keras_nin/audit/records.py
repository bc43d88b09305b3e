"""What an audit consists of: rows for layers, sums for blocks and for the network, and findings."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class AuditRow:
    """The cost of one call of one layer, channels last; shapes include the batch, MACs are those of one sample.

    Attributes:
        name: name of the layer, after the path of the nested models around it, which is `scope`.
        type: class of the layer, or type of the operator.
        kind: pointwise, spatial, depthwise, dense, pool, norm, activation, merge, reshape or other.
        role: of a pointwise layer: head, projection, reduce, expand or mix.
        kernel: (height, width), of a volume (depth, height, width); None if there is none.
        receptive_field: (height, width) in input pixels; None if unknown.
        input_shape, output_shape: a shape; a tuple of shapes for several tensors; None for weights outside the graph.
        params, trainable_params, weight_bytes: of the weights, at their own types; each counts where it is first used.
        macs, arithmetic_intensity: multiply-accumulates of one sample, and how many per byte of inputs, outputs and
            weights; None if unknown.
        activation_elements, activation_bytes: of the outputs of a run, all samples of the batch; float32 (4 bytes per
            element) for a Keras model, the tensors' own types for a file.
        activation_evaluations: how often a nonlinearity is applied to one sample.
        block: name of the block that the layer belongs to.
        folds: whether a BatchNormalization folds into the layer before it; None for every other layer.
    """

    name: str
    type: str
    kind: str
    role: str | None
    kernel: tuple[int, ...] | None
    input_shape: Shape | tuple[Shape, ...] | None
    output_shape: Shape | tuple[Shape, ...] | None
    params: int
    trainable_params: int
    macs: int | None
    weight_bytes: int
    activation_elements: int
    activation_bytes: int
    activation_evaluations: int
    receptive_field: tuple[int, int] | None
    block: str | None
    arithmetic_intensity: float | None = None
    folds: bool | None = None
    scope: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the row as a JSON-ready dictionary."""
        return {key: _tuples_as_lists(value) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class AuditBlock:
    """Sums over the `layers` rows of one block; `name` is None for the rows that are in no block.

    `macs` leaves out `macs_unknown` rows.
    """

    name: str | None
    layers: int
    params: int
    trainable_params: int
    macs: int
    pointwise_params: int
    pointwise_macs: int
    weight_bytes: int
    activation_bytes: int
    macs_unknown: int = 0


@dataclass(frozen=True)
class AuditTotal:
    """Sums over all rows; `macs` is partial if the MACs of `macs_unknown` rows are unknown, and shares are at most.

    Attributes:
        peak_activation_bytes, peak_activation_bytes_int8: float32 for a Keras model, the tensors' own types for a file;
            and at 1 byte per element.
        arithmetic_intensity: MACs per byte moved on the fused graph; None if the MACs of a row are unknown.
    """

    params: int
    trainable_params: int
    non_trainable_params: int
    macs: int
    pointwise_params: int
    pointwise_macs: int
    activation_bytes: int
    peak_activation_bytes: int
    weight_bytes: int = 0
    activation_evaluations: int = 0
    peak_activation_bytes_int8: int = 0
    arithmetic_intensity: float | None = None
    macs_unknown: int = 0


@dataclass(frozen=True)
class Finding:
    """A suggestion: the rule, the layers, one sentence, and the savings by ``"params"``, ``"macs"`` and ``"bytes"``."""

    rule: str
    layers: tuple[str, ...]
    message: str
    saves: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return the finding as a JSON-ready dictionary; ``"layer"`` is the first of its layers."""
        layers = {"layer": self.layers[0], "layers": list(self.layers)}
        return {"rule": self.rule, **layers, "message": self.message, "saves": self.saves}


def group_by_block(rows: Iterable[AuditRow]) -> tuple[AuditBlock, ...]:
    """Return the blocks of `rows` in the order of their first rows; rows in no block form one named None."""
    rows_by_block = defaultdict(list)
    for row in rows:
        rows_by_block[row.block].append(row)
    return tuple(AuditBlock(name, len(members), **sum_rows(members)) for name, members in rows_by_block.items())


def sum_rows(rows: Iterable[AuditRow]) -> dict[str, int]:
    """Return the sums over `rows` that a block and a network have in common, by field name."""
    rows = list(rows)
    pointwise = [row for row in rows if row.kind == "pointwise"]
    sums = {
        field: sum(getattr(row, field) or 0 for row in rows)
        for field in ("params", "trainable_params", "macs", "weight_bytes", "activation_bytes")
    }
    sums["macs_unknown"] = sum(row.macs is None for row in rows)
    return sums | {
        f"pointwise_{field}": sum(getattr(row, field) or 0 for row in pointwise) for field in ("params", "macs")
    }


def _tuples_as_lists(value: Any) -> Any:
    return [_tuples_as_lists(item) for item in value] if isinstance(value, tuple) else value
