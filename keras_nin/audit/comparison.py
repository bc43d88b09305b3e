"""The result of a comparison: two networks row by row, or a model and the file that was made of it."""

from dataclasses import asdict, dataclass

from keras_nin.audit.tables import format_size
from keras_nin.formatting import format_markdown_table, format_table

COMPARE_SCHEMA = "keras_nin.compare/1"


@dataclass(frozen=True)
class ComparedRow:
    """A row on each side; (a, b) pairs hold None where that side has no such row, or MACs that are not known.

    `a` is a row of the first network, `b` the rows of the second that go with it. `status` of two networks: same,
    changed, only in a, only in b. Of a model and its file: matched; folded, fused, removed or absorbed, where the
    layer has no operator of its own; inserted, where the operator has no layer; unexplained. `note` says what changed
    and why, `operators` are the types of those of `b`, `into` is the operator that took a layer over.
    """

    a: str | None
    b: tuple[str, ...]
    status: str
    note: str
    params: tuple[int | None, int | None]
    weight_bytes: tuple[int | None, int | None]
    macs: tuple[int | None, int | None]
    block: str | None = None
    operators: tuple[str, ...] = ()
    into: str | None = None


@dataclass(frozen=True)
class ParameterChange:
    """Why the numbers of parameters differ: a cause, in how many rows, and how many values more or less b has."""

    cause: str
    rows: int
    params: int


@dataclass(frozen=True)
class ModelComparison:
    """Two audits side by side. ``print(comparison)`` shows a table.

    `kind` is "networks", or "conversion" where `b` is a file that is reconciled with the Keras model `a`. `blocks` has
    the sums by block where both sides have blocks. `totals` are (a, b) pairs by name; the shares of 1x1 layers are
    fractions.
    `problems` says where a conversion does not add up; `stored` is the bytes of the file's weights by data type.
    """

    kind: str
    a: str
    b: str
    rows: tuple[ComparedRow, ...]
    blocks: tuple[ComparedRow, ...]
    totals: dict
    reasons: tuple[ParameterChange, ...] = ()
    stored: dict | None = None
    problems: tuple[str, ...] = ()

    @property
    def passed(self):
        """Whether a model and its file agree in the MACs of every row and in total; True for two networks."""
        return not self.problems

    def to_json(self):
        """Return the comparison as a JSON-ready dict (schema ``keras_nin.compare/1``)."""
        return {
            "schema": COMPARE_SCHEMA,
            "kind": self.kind,
            "a": self.a,
            "b": self.b,
            "rows": [_row_json(row) for row in self.rows],
            "blocks": [_row_json(row) for row in self.blocks],
            "totals": {name: list(pair) for name, pair in self.totals.items()},
            "reasons": [asdict(reason) for reason in self.reasons],
            "stored": self.stored,
            "passed": self.passed,
            "problems": list(self.problems),
        }

    def to_markdown(self):
        """Return the comparison as Markdown."""
        return format_comparison_markdown(self)

    def __str__(self):
        return format_comparison_text(self)


def _row_json(row):
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(row).items()}


def pair_totals(a, b):
    """Return the totals of two `Audit`s as (a, b) pairs by name."""
    pairs = {
        name: (getattr(a.total, name), getattr(b.total, name))
        for name in ("params", "macs", "pointwise_params", "pointwise_macs", "peak_activation_bytes", "weight_bytes")
    }
    for what in ("params", "macs"):
        pairs[f"pointwise_{what}_share"] = tuple(
            part / whole if whole else None for part, whole in zip(pairs[f"pointwise_{what}"], pairs[what], strict=True)
        )
    return pairs


# MERGED A comparison as text and Markdown: pure functions of its records.

_BYTE_TOTALS = ("weight_bytes", "peak_activation_bytes")
_TOTAL_LABELS = {
    "params": "params",
    "macs": "MACs",
    "weight_bytes": "weights",
    "pointwise_params_share": "params in 1x1",
    "pointwise_macs_share": "MACs in 1x1",
    "peak_activation_bytes": "peak activation",
}


def format_comparison_text(comparison):
    """Return `comparison` as tables for the terminal."""
    return "\n\n".join(
        ["\n".join(lines) if isinstance(lines, list) else format_table(*lines[:2], right=lines[2], title=lines[3])
         for lines in _comparison_parts(comparison)]
    )  # fmt: skip


def format_comparison_markdown(comparison):
    """Return `comparison` as Markdown."""
    parts = []
    for lines in _comparison_parts(comparison):
        if isinstance(lines, list):
            parts.append("\n".join(f"- {line}" for line in lines))
        else:
            columns, rows, right, title = lines
            parts.append(f"**{title}**\n\n{format_markdown_table(columns, rows, right=right)}")
    return "\n\n".join(parts) + "\n"


def _comparison_parts(comparison):
    """Yield tables as (columns, rows, right, title), and lists of lines."""
    yield from _conversion_parts(comparison) if comparison.kind == "conversion" else _network_parts(comparison)


def _network_parts(comparison):
    title = f"{comparison.a} (a) against {comparison.b} (b)"
    yield _totals_table(comparison, title)
    if comparison.blocks:
        yield _sides_table(comparison.blocks, "Blocks")
    different = [row for row in comparison.rows if row.status != "same"]
    if different:
        yield _sides_table(different, "Rows that differ")
    same = len(comparison.rows) - len(different)
    yield [f"{same} of {len(comparison.rows)} rows are the same in both."]


def _totals_table(comparison, title):
    rows = []
    for key, label in _TOTAL_LABELS.items():
        a, b = comparison.totals[key]
        ratio = "" if not a or b is None or key.endswith("_share") else f"{b / a:.3g}"
        rows.append([label, _format_total(key, a), _format_total(key, b), ratio])
    return ("total", "a", "b", "b / a"), rows, ("a", "b", "b / a"), title


def _format_total(key, value):
    if value is None:
        return "none"
    if key.endswith("_share"):
        return f"{value:.1%}"
    return format_size(value) if key in _BYTE_TOTALS else f"{value:,}"


def _sides_table(rows, title):
    columns = ("name", "params a", "params b", "MACs a", "MACs b", "b / a")
    cells = []
    for row in rows:
        a, b = row.macs
        ratio = f"{b / a:.3g}" if a and b is not None else ""
        cells.append([row.a or row.b[0], *map(_format_count, (*row.params, *row.macs)), ratio])
    return columns, cells, columns[1:], title


def _conversion_parts(comparison):
    columns = ("layer", "became", "params", "bytes", "MACs")
    cells = [
        [
            row.a or row.b[0],
            _operators_text(row),
            *(_format_count(pair[1]) for pair in (row.params, row.weight_bytes, row.macs)),
        ]
        for row in comparison.rows
    ]
    yield columns, cells, columns[2:], f"{comparison.a} as {comparison.b} (figures of the file)"
    yield _totals_table(comparison, f"{comparison.a} (a) and its file (b)")
    yield _parameter_lines(comparison)


def _operators_text(row):
    if row.status == "matched":
        return " + ".join(row.operators)
    if row.status == "inserted":
        return f"{row.operators[0]} (inserted)"
    if row.status == "unexplained":
        return " ".join([*row.operators, "NOT EXPLAINED"])
    return f"{row.status} into {row.into}" if row.into else row.status


def _parameter_lines(comparison):
    a, b = comparison.totals["params"]
    lines = [f"Parameters: {b - a:+,} in the file" if a != b else "Parameters: as many in the file as in the model"]
    lines += [f"  {reason.params:+,}: {reason.cause} ({reason.rows} rows)" for reason in comparison.reasons]
    stored = ", ".join(f"{dtype} {format_size(count)}" for dtype, count in (comparison.stored or {}).items())
    lines.append(f"Weights as stored: {stored or 'none'}")
    lines += [f"{row.a or row.b[0]}: {row.note}" for row in comparison.rows if _needs_note(row)]
    return lines + list(comparison.problems or ["MACs agree exactly, row by row and in total."])


def _needs_note(row):
    """Whether what happened to a row is told in words below the table."""
    return row.status in ("inserted", "unexplained") or len(row.operators) > 1


def _format_count(value):
    return "" if value is None else f"{value:,}"
