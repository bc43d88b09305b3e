"""Two networks row by row, or a model and the file that was converted from it: the records and how they print."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_nin import schemas
from keras_nin.audit.records import AuditBlock, AuditRow, group_by_block
from keras_nin.formatting import (
    escape_markdown,
    format_bytes,
    format_count,
    format_markdown_table,
    format_percent,
    format_table,
)
from keras_nin.results import Result

if TYPE_CHECKING:
    from keras_nin.audit.api import Audit

_TYPES_SHOWN = 4  # before equal ones are counted
_Pair = tuple[int | None, int | None]
_TOTALS: dict[str, tuple[str, Callable[[float], str]]] = {
    "params": ("params", "{:,}".format),
    "macs": ("MACs", "{:,}".format),
    "weight_bytes": ("weights", format_bytes),
    "pointwise_params_share": ("params in 1x1", format_percent),
    "pointwise_macs_share": ("MACs in 1x1", format_percent),
    "peak_activation_bytes": ("peak activation", format_bytes),
}


@dataclass(frozen=True)
class ComparedRow:
    """A row on each side; (a, b) pairs hold None where that side has no such row, or where MACs are unknown.

    Attributes:
        a: name of the row of the first network.
        b, operators: names, and types, of the rows of the second network that correspond to it.
        status: of two networks: same, changed, only in a, only in b. Of a model and its file: matched, unexplained;
            folded, fused, removed or absorbed: a layer without an operator; inserted: an operator without a layer.
        into: the operator that took over the work of the layer.
    """

    a: str | None
    b: tuple[str, ...]
    status: str
    note: str
    params: _Pair
    weight_bytes: _Pair
    macs: _Pair
    block: str | None = None
    operators: tuple[str, ...] = ()
    into: str | None = None

    @property
    def name(self) -> str:
        """Name on the side that has the row."""
        return self.a or self.b[0]

    def to_json(self) -> dict[str, Any]:
        """Return the row as a JSON-ready dictionary."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class ParameterChange:
    """Why numbers of parameters differ: the cause, in how many rows, and how many more parameters b has."""

    cause: str
    rows: int
    params: int


@dataclass(frozen=True)
class OutputDifference:
    """How one output of two files differs on the same images.

    Attributes:
        output: its name; None where the files have only one.
        task: what it means, as `keras_nin.heads.Head` has it.
        match: share of images, labels or pixels on which both decide the same; None of a regression.
        max_abs_diff, rms_diff: largest and root mean square difference, in the units of the output.
        snr_db: energy of a's output over that of the difference, in dB; None where nothing differs.
        scores: of a and of b by name; None without labels.
        no_information: what the outputs of a or b lack, so that they say nothing; None where they have it.
    """

    output: str | None
    task: str
    images: int
    match: float | None
    max_abs_diff: float
    rms_diff: float
    snr_db: float | None
    scores: dict[str, dict[str, float | None]] | None = None
    no_information: str | None = None


@dataclass(frozen=True, repr=False)
class ModelComparison(Result):
    """Two audits side by side. ``print(comparison)`` shows a table.

    Attributes:
        kind: "networks"; "conversion" if `b` is a file that is reconciled with the Keras model `a`.
        a, b: names of the networks.
        blocks: sums by block, if both sides have blocks.
        totals: (a, b) pairs by name; the shares of 1x1 layers are fractions.
        parameter_changes, stored, problems: of a conversion: why the parameters differ, the bytes of the file's weights
            by data type, and where the MACs differ.
        outputs: of two files that ran on the same images, how each output differs.
        batch: samples in a run of `a` and of `b`; MACs are those of one, activations those of all.
    """

    kind: str
    a: str
    b: str
    rows: tuple[ComparedRow, ...]
    blocks: tuple[ComparedRow, ...]
    totals: dict[str, tuple[Any, Any]]
    parameter_changes: tuple[ParameterChange, ...] = ()
    stored: dict[str, int] | None = None
    problems: tuple[str, ...] = ()
    outputs: tuple[OutputDifference, ...] = ()
    batch: tuple[int, int] = (1, 1)

    @property
    def passed(self) -> bool:
        """Whether the MACs of a model and its file are equal in every row and in total; True for two networks."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as a JSON-ready dictionary (schema ``keras_nin.compare/1``)."""
        return {
            **{"schema": schemas.COMPARE, "kind": self.kind, "a": self.a, "b": self.b, "rows": self._rows()},
            "blocks": [row.to_json() for row in self.blocks],
            "totals": {name: list(pair) for name, pair in self.totals.items()},
            "parameter_changes": [asdict(change) for change in self.parameter_changes],
            **{"stored": self.stored, "passed": self.passed, "problems": list(self.problems)},
            **({"outputs": [asdict(output) for output in self.outputs]} if self.outputs else {}),
            "batch": list(self.batch),
        }

    def to_markdown(self) -> str:
        """Return the comparison as Markdown."""
        parts = []
        for part in _comparison_parts(self):
            if isinstance(part, list):
                parts.append("\n".join(f"- {escape_markdown(line)}" for line in part))
            else:
                parts += [
                    f"**{escape_markdown(part.title)}**",
                    format_markdown_table(part.columns, part.rows, right=part.numeric),
                ]
        return "\n\n".join(parts) + "\n"

    def __str__(self) -> str:
        parts = (
            "\n".join(part)
            if isinstance(part, list)
            else format_table(part.columns, part.rows, right=part.numeric, title=part.title)
            for part in _comparison_parts(self)
        )
        return "\n\n".join(parts)

    def _summary(self) -> str:
        different = sum(row.status != "same" for row in self.rows)
        verdict = "MACs are equal" if self.passed else format_count(len(self.problems), "problem")
        return f"{self.a}, {self.b}, {verdict if self.kind == 'conversion' else f'{different} rows differ'}"

    def _rows(self) -> list[dict[str, Any]]:
        return [row.to_json() for row in self.rows]


def pair_totals(a: "Audit", b: "Audit") -> dict[str, tuple[Any, Any]]:
    """Return the totals of two audits as (a, b) pairs by name."""
    totals = asdict(a.total), asdict(b.total)
    for total in totals:
        for name in ("params", "macs"):
            total[f"pointwise_{name}_share"] = total[f"pointwise_{name}"] / total[name] if total[name] else None
    names = (
        "params",
        "macs",
        "macs_unknown",
        "pointwise_params",
        "pointwise_macs",
        "peak_activation_bytes",
        "weight_bytes",
    )
    names += ("pointwise_params_share", "pointwise_macs_share")
    return {name: (totals[0][name], totals[1][name]) for name in names}


def compare_networks(a: "Audit", b: "Audit") -> ModelComparison:
    """Return the `ModelComparison` of two models, or of two files, by the names of their rows."""
    left, right = ({row.name: row for row in audit.rows} for audit in (a, b))
    rows = tuple(_compare_rows(name, left.get(name), right.get(name)) for name in _merge_names(left, right))
    left, right = (_sum_blocks(audit.rows) for audit in (a, b))
    names = _merge_names(left, right) if left and right else ()
    blocks = tuple(_compare_rows(name, left.get(name), right.get(name)) for name in names)
    batch = (a.batch, b.batch)
    return ModelComparison("networks", a.model, b.model, rows, blocks, pair_totals(a, b), batch=batch)


def _sum_blocks(rows: Sequence[AuditRow]) -> dict[str, AuditBlock]:
    """Return the sums by block, with MACs None if those of a row are unknown."""
    blocks = {block.name: block for block in group_by_block(rows) if block.name}
    return {name: replace(block, macs=None) if block.macs_unknown else block for name, block in blocks.items()}


def sum_known(values: Iterable[int | None]) -> int | None:
    """Return the sum of `values`; None if there are none, or if one is unknown."""
    known = list(values)
    return None if not known or None in known else sum(filter(None, known))


def _merge_names(first: Iterable[str], second: Iterable[str]) -> list[str]:
    """Return the names of both, each once: a name that only `second` has follows the name that precedes it there."""
    merged = list(first)
    position, known = 0, set(merged)
    for name in second:
        if name in known:
            position = merged.index(name) + 1
        else:
            merged.insert(position, name)
            position += 1
    return merged


def _compare_rows(name: str, left: AuditRow | AuditBlock | None, right: AuditRow | AuditBlock | None) -> ComparedRow:
    pairs = {
        field: (getattr(left, field, None), getattr(right, field, None))
        for field in ("params", "weight_bytes", "macs", "kernel", "output_shape", "type", "block")
    }
    block_a, block_b = pairs.pop("block")
    changed = [field for field, (before, after) in pairs.items() if before != after]
    status = "only in b" if left is None else "only in a" if right is None else "changed" if changed else "same"
    note = ", ".join(changed).replace("_", " ") if status == "changed" and isinstance(left, AuditRow) else ""
    costs = pairs["params"], pairs["weight_bytes"], pairs["macs"]
    block = name if isinstance(left or right, AuditBlock) else block_a or block_b
    return ComparedRow(name if left else None, (name,) if right else (), status, note, *costs, block)


class _Table(NamedTuple):
    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    numeric: tuple[str, ...]


def _comparison_parts(comparison: ModelComparison) -> Iterator[_Table | list[str]]:
    """Yield tables and lists of lines."""
    if comparison.kind == "conversion":
        columns = ("layer", "maps to", "params", "bytes", "MACs")
        cells = [
            [row.name, _format_target(row), *_format_numbers(row.params[1], row.weight_bytes[1], row.macs[1])]
            for row in comparison.rows
        ]
        batch = comparison.batch[1]
        figures = f"figures of the file, batch {batch}: MACs per sample" if batch > 1 else "figures of the file"
        yield _Table(f"{comparison.a} as {comparison.b} ({figures})", columns, cells, numeric=columns[2:])
        yield _totals_table(comparison, f"{comparison.a} (a) and its file (b)")
        yield _conversion_lines(comparison)
        return
    yield _totals_table(comparison, f"{comparison.a} (a), {comparison.b} (b)")
    different = [row for row in comparison.rows if row.status != "same"]
    for title, rows in (("Blocks", comparison.blocks), ("Rows that differ", different)):
        if rows:
            columns = ("name", "params a", "params b", "MACs a", "MACs b", "b / a")
            cells = [[row.name, *_format_numbers(*row.params, *row.macs), _format_ratio(*row.macs)] for row in rows]
            yield _Table(title, columns, cells, numeric=columns[1:])
    yield [f"{len(comparison.rows) - len(different)} of {len(comparison.rows)} rows are the same in both."]


def _totals_table(comparison: ModelComparison, title: str) -> _Table:
    rows = []
    for key, (label, form) in _TOTALS.items():
        pair, unknown = comparison.totals[key], comparison.totals["macs_unknown"] if "macs" in key else (0, 0)
        bound = "<= " if form is format_percent else ">= "
        cells = [
            "none" if value is None else f"{bound if rows_unknown and value else ''}{form(value)}"
            for value, rows_unknown in zip(pair, unknown, strict=True)
        ]
        ratio = "" if form is format_percent or any(unknown) else _format_ratio(*pair)
        rows.append([label, *cells, ratio])
    return _Table(title, ("total", "a", "b", "b / a"), rows, numeric=("a", "b", "b / a"))


def _format_ratio(a: float | None, b: float | None) -> str:
    return "" if not a or b is None else f"{b / a:.3g}"


def _format_numbers(*values: int | None) -> list[str]:
    return ["" if value is None else f"{value:,}" for value in values]


def join_types(types: Sequence[str], separator: str) -> str:
    """Return types of operators as text; of more than a few, each once with its number."""
    if len(types) > _TYPES_SHOWN:
        types = [f"{count} x {op}" if count > 1 else op for op, count in Counter(types).items()]
    return separator.join(types)


def _format_target(row: ComparedRow) -> str:
    if row.status == "matched":
        return join_types(row.operators, " + ")
    if row.status == "inserted":
        return f"{row.operators[0]} (inserted)"
    if row.status == "unexplained":
        return " ".join([*row.operators, "UNEXPLAINED"])
    return f"{row.status} into {row.into}" if row.into else row.status


def _conversion_lines(comparison: ModelComparison) -> list[str]:
    a, b = comparison.totals["params"]
    difference = f"{b - a:+,} in the file" if a != b else "as many in the file as in the model"
    changes = (
        f"  {change.params:+,}: {change.cause} ({format_count(change.rows, 'row')})"
        for change in comparison.parameter_changes
    )
    stored = ", ".join(f"{dtype} {format_bytes(size)}" for dtype, size in (comparison.stored or {}).items())
    notes = (
        f"{row.name}: {row.note}"
        for row in comparison.rows
        if row.status in ("inserted", "unexplained") or len(row.operators) > 1
    )
    verdict = comparison.problems or ["MACs are equal, row by row and in total."]
    return [f"Parameters: {difference}", *changes, f"Weights as stored: {stored or 'none'}", *notes, *verdict]
