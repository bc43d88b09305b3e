"""Audit a network; compare two networks, or a model with the file that was converted from it."""

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from keras_nin import schemas
from keras_nin.audit import arithmetic, classification
from keras_nin.audit.comparison import ModelComparison, compare_networks
from keras_nin.audit.conversion import reconcile_conversion
from keras_nin.audit.findings import find_findings
from keras_nin.audit.graph import LayerGraph, LayerInfo
from keras_nin.audit.records import AuditBlock, AuditRow, AuditTotal, Finding, group_by_block, sum_rows
from keras_nin.audit.summary import print_summary
from keras_nin.audit.tables import AuditView, format_audit_csv, format_audit_markdown, format_audit_text, format_macs
from keras_nin.audit.tflite_reader import TFLiteNetwork, read_tflite_network
from keras_nin.results import Result
from keras_nin.tflite.records import TFLiteModel

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

    # A built model, what `keras_nin.models.load_model` accepts, the path of a .tflite file, or that file as a record.
    NetworkSource = keras.Model | TFLiteModel | str | os.PathLike[str]


@dataclass(frozen=True, repr=False)
class Audit(Result):
    """The audit of the network called `model`: a row for each call of a layer, in execution order, and what they say.

    MACs are those of one sample; tensors and their bytes those of a run, which takes `batch` samples at once. `notes`
    are what a reader of the figures must know, such as that a file is compiled for a chip.

    ``print(audit)`` shows a table.
    """

    model: str
    rows: tuple[AuditRow, ...]
    total: AuditTotal
    findings: tuple[Finding, ...] = ()
    batch: int = 1
    notes: tuple[str, ...] = ()

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the rows with unknown MACs: the total leaves them out."""
        return tuple(row.name for row in self.rows if row.macs is None)

    @property
    def blocks(self) -> tuple[AuditBlock, ...]:
        """The blocks of the network in the order of their first rows; each row is in exactly one of them."""
        return group_by_block(self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return the audit as a JSON-ready dictionary (schema ``keras_nin.audit/1``)."""
        return {
            **{"schema": schemas.AUDIT, "model": self.model, "batch": self.batch},
            **{"rows": self._rows(), "total": asdict(self.total)},
            "blocks": [asdict(block) for block in self.blocks],
            "findings": [finding.to_json() for finding in self.findings],
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def to_csv(self, **view: Any) -> str:
        """Return the rows as CSV, raw numbers and no total line; `view` are the arguments of `tables.AuditView`."""
        return format_audit_csv(self, AuditView(**view))

    def to_markdown(self, **view: Any) -> str:
        """Return a Markdown table with the totals and the conventions below it; `view` as in `to_csv`."""
        return format_audit_markdown(self, AuditView(**view))

    def to_text(self, **view: Any) -> str:
        """Return what ``print(audit)`` shows, or the part of it that `view` (as in `to_csv`) selects."""
        return format_audit_text(self, AuditView(**view))

    summary = print_summary

    def plot(self) -> "Figure":
        """Return a figure of the share of each kind of layer, 1x1 by role, of the parameters and of the MACs."""
        from keras_nin.plots.latency import plot_cost_shares

        return plot_cost_shares(self)

    def __str__(self) -> str:
        return self.to_text()

    def _summary(self) -> str:
        return f"{self.model}, {len(self.rows)} layers, {self.total.params:,} params, {format_macs(self.total)}"

    def _rows(self) -> list[dict[str, Any]]:
        return [row.to_json() for row in self.rows]


def audit_model(model_or_path: "NetworkSource", *, name: str | None = None) -> Audit:
    """Return the `Audit` of a network: parameters, MACs and activation memory per layer and in total.

    Args:
        model_or_path: a built Functional or Sequential `keras.Model` with a fixed input size (the batch counts as 1),
            what `keras_nin.models.load_model` accepts, or the path of a .tflite file, which is read without Keras as
            `keras_nin.audit.tflite_reader.read_tflite_graph` says.
        name: what to call the network; None takes the model's own name, or the file's.

    Raises:
        InputError: no such model, an open input axis, a layer that keeps channels first, or no valid .tflite file.
    """
    return audit_graph(_read_network(model_or_path, name))


def compare_models(
    a: "NetworkSource", b: "NetworkSource", *, name_a: str | None = None, name_b: str | None = None
) -> ModelComparison:
    """Return the `ModelComparison` of two networks.

    A Keras model and a .tflite file are reconciled: every layer with the operators that compute it, or with the reason
    why there are none, and every operator with its layer, or with the reason why it is there; the model is `a` then,
    whichever comes first. Two models, or two files, are compared by the names of their rows.

    Args:
        a, b, name_a, name_b: the networks and what to call them, as for `audit_model`.

    Raises:
        InputError: as `audit_model` does.
    """
    first, second = _read_network(a, name_a), _read_network(b, name_b)
    if isinstance(first, TFLiteNetwork) and not isinstance(second, TFLiteNetwork):
        first, second = second, first
    audits = audit_graph(first), audit_graph(second)
    if isinstance(second, TFLiteNetwork) and not isinstance(first, TFLiteNetwork):
        return reconcile_conversion(first, second, *audits)
    return compare_networks(*audits)


def _read_network(source: "NetworkSource", name: str | None) -> LayerGraph | TFLiteNetwork:
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    if isinstance(source, TFLiteModel):
        return read_tflite_network(source, name=name)
    if path is not None and path.endswith(".tflite"):
        return read_tflite_network(path, name=name)
    if path is not None:
        from keras_nin import models

        loaded = models.load_model(path)
        source, name = loaded.model, name or loaded.name
    from keras_nin.audit.keras_reader import read_keras_graph

    return read_keras_graph(source, name=name)


def audit_graph(network: LayerGraph | TFLiteNetwork) -> Audit:
    """Return the `Audit` of a `LayerGraph`, whichever reader it came from."""
    graph = network.graph if isinstance(network, TFLiteNetwork) else network
    fields, blocks = arithmetic.compute_receptive_fields(graph), classification.find_blocks(graph)
    rows = tuple(_audit_layer(*parts, graph) for parts in zip(graph.layers, fields, blocks, strict=True))
    sums = sum_rows(rows)
    macs = None if any(row.macs is None for row in rows) else sums["macs"]
    total = AuditTotal(
        **sums,
        non_trainable_params=sums["params"] - sums["trainable_params"],
        activation_evaluations=sum(row.activation_evaluations for row in rows),
        peak_activation_bytes=arithmetic.compute_peak_bytes(graph),
        peak_activation_bytes_int8=arithmetic.compute_peak_bytes(graph, bits=8),
        arithmetic_intensity=arithmetic.compute_intensity(
            None if macs is None else macs * graph.batch, arithmetic.count_moved_bytes(graph)
        ),
    )
    return Audit(graph.name, rows, total, find_findings(graph), graph.batch, graph.notes)


def _audit_layer(
    layer: LayerInfo, receptive_field: tuple[int, int] | None, block: str | None, graph: LayerGraph
) -> AuditRow:
    macs = arithmetic.count_macs(layer)
    shapes = [tuple(tensor.shape for tensor in tensors) for tensors in (layer.inputs, layer.outputs)]
    input_shape, output_shape = (part[0] if len(part) == 1 else part or None for part in shapes)
    copied = ("type", "kind", "kernel", "params", "trainable_params", "weight_bytes", "scope")
    return AuditRow(
        name=layer.path,
        **{field: getattr(layer, field) for field in copied},
        role=classification.pointwise_role(layer, graph),
        input_shape=input_shape,
        output_shape=output_shape,
        macs=macs,
        activation_elements=layer.output_elements,
        activation_bytes=sum(tensor.nbytes for tensor in layer.outputs),
        activation_evaluations=arithmetic.count_activation_evaluations(layer),
        receptive_field=receptive_field,
        block=block,
        arithmetic_intensity=arithmetic.compute_intensity(
            None if macs is None else macs * layer.batch, layer.moved_bytes
        ),
        folds=classification.is_foldable_norm(layer, graph),
    )
