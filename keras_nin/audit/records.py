"""The result of an audit: one row per layer, and the totals."""

from dataclasses import asdict, dataclass

AUDIT_SCHEMA = "keras_nin.audit/1"


@dataclass(frozen=True)
class AuditRow:
    """What one use of one layer costs, for one input (batch 1, channels last, shapes with the batch).

    `macs` is None where it is not known. `activation_bytes` is at float32 (4 bytes an element) for a Keras model and at
    the tensors' own types for a file; `weight_bytes` at the weights' own types. `arithmetic_intensity` is MACs per byte
    moved: inputs, outputs and weights once each; None where the MACs are. `folds` says of a BatchNormalization whether
    it becomes part of the weights that feed it; None for every other layer. `scope` is the path of the nested models
    that the layer lies in, with which `name` begins. `input_shape` and `output_shape` are a tuple of shapes where there
    are several tensors, and None for weights outside the graph. `kernel` and `receptive_field` are (height, width).
    """

    name: str
    type: str
    kind: str
    role: str | None
    kernel: tuple[int, int] | None
    input_shape: tuple | None
    output_shape: tuple | None
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


@dataclass(frozen=True)
class AuditBlock:
    """Sums over the rows of one block, `layers` of them; `name` is None for the rows that are in no block."""

    name: str | None
    layers: int
    params: int
    trainable_params: int
    macs: int
    pointwise_params: int
    pointwise_macs: int
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class AuditTotal:
    """Sums over the rows; `macs` leaves out the rows where they are not known.

    `peak_activation_bytes` is at float32 for a Keras model and at the tensors' own types for a file,
    `peak_activation_bytes_int8` at 1 byte an element. `arithmetic_intensity` is MACs per byte moved on the fused graph;
    None where a row's MACs are not known.
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


@dataclass(frozen=True)
class Finding:
    """Something worth changing: the rule, the layers, one sentence, and what it would save (params, macs, bytes)."""

    rule: str
    layers: tuple[str, ...]
    message: str
    saves: dict

    def to_json(self):
        """Return the finding as a JSON-ready dict; `layer` is the first of its `layers`."""
        return {
            "rule": self.rule,
            "layer": self.layers[0],
            "layers": list(self.layers),
            "message": self.message,
            "saves": self.saves,
        }


@dataclass(frozen=True)
class Audit:
    """An audited network: rows in execution order, totals, findings, sums by block. ``print(audit)`` shows a table."""

    model: str
    rows: tuple[AuditRow, ...]
    total: AuditTotal
    findings: tuple[Finding, ...] = ()

    @property
    def unknown(self):
        """Names of the rows whose MACs are not known: the total leaves them out."""
        return tuple(row.name for row in self.rows if row.macs is None)

    @property
    def blocks(self):
        """The `Block`s of the network in order of first appearance; together they have every row once."""
        return group_by_block(self.rows)

    def to_json(self):
        """Return the audit as a JSON-ready dict (schema ``keras_nin.audit/1``)."""
        return {
            "schema": AUDIT_SCHEMA,
            "model": self.model,
            "rows": [_tuples_as_lists(asdict(row)) for row in self.rows],
            "total": asdict(self.total),
            "blocks": [asdict(block) for block in self.blocks],
            "findings": [finding.to_json() for finding in self.findings],
        }

    def to_csv(self, **view):
        """Return the rows as CSV text: raw numbers, an empty field where a number is not known, no total line.

        `view` are arguments of `keras_nin.audit.tables.AuditView`: depth, columns, sort, only.
        """
        from keras_nin.audit import tables

        return tables.format_audit_csv(self, tables.AuditView(**view))

    def to_markdown(self, **view):
        """Return the audit as a Markdown table with the totals and the conventions below it; `view` as in `to_csv`."""
        from keras_nin.audit import tables

        return tables.format_audit_markdown(self, tables.AuditView(**view))

    def to_text(self, **view):
        """Return what ``print(audit)`` shows, or the part of it that `view` (as in `to_csv`) asks for."""
        from keras_nin.audit import tables

        return tables.format_audit_text(self, tables.AuditView(**view))

    def summary(
        self,
        line_length=None,
        positions=None,
        print_fn=None,
        expand_nested=False,
        show_trainable=False,
        layer_range=None,
    ):
        """Print the audit as `keras.Model.summary()` prints a model; arguments as in `keras_nin.audit.summary.print_summary`."""
        from keras_nin.audit import summary

        summary.print_summary(self, line_length, positions, print_fn, expand_nested, show_trainable, layer_range)

    def __str__(self):
        return self.to_text()


def group_by_block(rows):
    """Return the `Block`s of `rows` (`Row`), in the order of their first rows; rows in no block are one, named None."""
    grouped = {}
    for row in rows:
        grouped.setdefault(row.block, []).append(row)
    return tuple(AuditBlock(name, len(members), **sum_rows(members)) for name, members in grouped.items())


def sum_rows(rows):
    """Return the sums over `rows` (`Row`) that a block and a network have in common, by field name."""
    pointwise = [row for row in rows if row.kind == "pointwise"]
    return {
        "params": sum(row.params for row in rows),
        "trainable_params": sum(row.trainable_params for row in rows),
        "macs": sum(row.macs or 0 for row in rows),
        "pointwise_params": sum(row.params for row in pointwise),
        "pointwise_macs": sum(row.macs or 0 for row in pointwise),
        "weight_bytes": sum(row.weight_bytes for row in rows),
        "activation_bytes": sum(row.activation_bytes for row in rows),
    }


def _tuples_as_lists(value):
    if isinstance(value, dict):
        return {key: _tuples_as_lists(item) for key, item in value.items()}
    return [_tuples_as_lists(item) for item in value] if isinstance(value, tuple) else value
