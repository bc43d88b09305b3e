"""An audit as text, Markdown and CSV: views, columns, and what is written below a table.

Pure functions of the records: the same bytes wherever they run.
"""

import csv
import dataclasses
import functools
import io
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_nin.audit.records import AuditBlock, AuditRow, AuditTotal, Finding, group_by_block
from keras_nin.errors import check_choice, expected_error, unknown_name_error
from keras_nin.formatting import (
    escape_unprintable,
    format_bytes,
    format_markdown_table,
    format_names,
    format_percent,
    format_ratio_percent,
    format_table,
    wrap,
)

if TYPE_CHECKING:
    from keras_nin.audit.api import Audit

AuditRecord = AuditRow | AuditBlock

KINDS = ("pointwise", "spatial", "depthwise", "dense", "pool", "norm", "activation", "merge", "reshape", "other")
ROLES = ("head", "projection", "reduce", "expand", "mix")
TOTALS, BLOCKS, LAYERS = 0, 1, 2
DEFAULT_COLUMNS = {
    TOTALS: (),
    BLOCKS: ("name", "layers", "params", "share_of_params", "macs", "share_of_macs"),
    LAYERS: ("name", "type", "kind", "role", "kernel", "output_shape", "params", "macs", "share_of_macs"),
}
COUNTING_RULES = (
    "1 MAC = one multiply + one add; batch 1. Bias, activation, pooling, resizing, merges, normalization and "
    "elementwise scaling count 0; a transposed convolution counts input positions x k x k x Cin x Cout.",
    "1x1 layers: convolutions with a 1x1 kernel in one group, and Dense on a map.",
)
_PEAK_RULE = (
    "Peak activation memory: the largest sum of live tensors in execution order. Activations and BatchNormalization "
    "are fused into the layer before them, Flatten and Reshape share their input's memory, Concatenate and ZeroPadding "
    "do not."
)
_SHARES = {"share_of_params": "params", "share_of_macs": "macs"}
_SHAPES = frozenset({"input_shape", "output_shape"})
_NO_BLOCK = "(no block)"
_FOOT_WIDTH = 110
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class AuditColumn:
    """A column: the key of the JSON rows or of a share, and whether it holds numbers, which are right-aligned."""

    key: str
    numeric: bool

    @property
    def heading(self) -> str:
        """The key as words: ``"share of MACs"``."""
        return " ".join("MACs" if word == "macs" else word for word in self.key.split("_"))

    @property
    def is_share(self) -> bool:
        """Whether this is a share of the whole network, a fraction of 1."""
        return self.key in _SHARES

    def value(self, record: AuditRecord, total: AuditTotal) -> Any:
        """Return the value of `record`; None if it is unknown, or a share of nothing."""
        if not self.is_share:
            return getattr(record, self.key)
        part, whole = getattr(record, _SHARES[self.key]), getattr(total, _SHARES[self.key])
        return part / whole if part is not None and whole else None

    def text(self, record: AuditRecord, total: AuditTotal) -> str:
        """Return the value for a reader: ``"1,792"``, ``"3x3"``, ``"5.1%"``, a shape without the batch."""
        value = self.value(record, total)
        if value is None:
            return {"macs": "unknown", "name": _NO_BLOCK}.get(self.key, "")
        if self.is_share:
            return format_percent(value)
        return format_shape(value) if self.key in _SHAPES else _format_value(value)

    def raw(self, record: AuditRecord, total: AuditTotal) -> Any:
        """Return the value for a program: numbers as they are, shares to six places, pairs and shapes as in `text`."""
        value = self.value(record, total)
        if isinstance(value, tuple):
            return self.text(record, total)
        return round(value, 6) if self.is_share and value is not None else value


@functools.cache
def list_columns(record_class: type[AuditRecord]) -> dict[str, AuditColumn]:
    """Return the columns of a class of records by key, in the order of its fields, shares last."""
    fields = [AuditColumn(field.name, _is_number(field.type)) for field in dataclasses.fields(record_class)]
    return {column.key: column for column in (*fields, *(AuditColumn(key, True) for key in _SHARES))}


def _is_number(annotation: Any) -> bool:
    types = {annotation, *typing.get_args(annotation)}
    return bool({int, float} & types) and typing.get_origin(annotation) is not tuple


def _format_value(value: Any) -> str:
    if isinstance(value, tuple):
        return ("x" if all(isinstance(item, int) for item in value) else ", ").join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}" if isinstance(value, float) else str(value)


def format_shape(shape: Any) -> str:
    """Return a shape without the batch: ``"55x55x64"``; several shapes are separated by ", "."""
    if shape and isinstance(shape[0], tuple):
        return ", ".join(map(format_shape, shape))
    return "x".join(map(str, shape[1:]))


@dataclass(frozen=True)
class AuditView:
    """The part of an audit to show. `columns` and `only` may be one string with commas.

    Args:
        depth: 0 (totals), 1 (a line for each block) or 2 (a line for each layer).
        columns: keys of the JSON rows, or share_of_params and share_of_macs; None takes what suits the format.
        sort: such a key: numbers fall, words rise, unknown values come last.
        only: kinds and roles: a layer of any of them is shown, and a block is summed over such layers alone.
    """

    depth: int = LAYERS
    columns: Sequence[str] | None = None
    sort: str | None = None
    only: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_choice("depth", self.depth, (TOTALS, BLOCKS, LAYERS))
        columns = None if self.columns is None else _split_words("columns", self.columns)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "only", _split_words("only", self.only))
        if self.depth == TOTALS and (columns is not None or self.sort is not None):
            raise expected_error("depth", "to be 1 or 2 with `columns` or `sort`; 0 shows totals alone", self.depth)
        words = [("columns", key, self.known_columns) for key in columns or ()]
        words += [("sort", self.sort, self.known_columns)] if self.sort is not None else []
        words += [("only", word, (*KINDS, *ROLES)) for word in self.only]
        for argument, word, known in words:
            if word not in known:
                raise unknown_name_error(argument, word, known)
        if columns is not None and len(set(columns)) < max(len(columns), 1):
            raise expected_error("columns", "to name each column once", ", ".join(columns))

    @property
    def known_columns(self) -> dict[str, AuditColumn]:
        """The columns at this depth, by key."""
        return list_columns(AuditBlock if self.depth == BLOCKS else AuditRow)

    def select_columns(self, default: Sequence[str]) -> list[AuditColumn]:
        """Return the columns to show; those of the keys `default` if the user chose none."""
        return [self.known_columns[key] for key in (default if self.columns is None else self.columns)]

    def select_rows(self, audit: "Audit") -> list[AuditRow]:
        """Return the rows of `audit` with a kind or role in `only`; all rows if that is empty."""
        return [row for row in audit.rows if not self.only or {row.kind, row.role} & {*self.only}]

    def select_records(self, audit: "Audit") -> Sequence[AuditRecord]:
        """Return what the table lists, in its order: rows, blocks, or nothing at depth 0."""
        if self.depth == TOTALS:
            return []
        rows = self.select_rows(audit)
        records = group_by_block(rows) if self.depth == BLOCKS else rows
        return records if self.sort is None else _sort_records(records, self.known_columns[self.sort], audit.total)


def _split_words(argument: str, received: Any) -> tuple[str, ...]:
    texts = (received,) if isinstance(received, str) else tuple(received)
    if not all(isinstance(text, str) for text in texts):
        raise expected_error(argument, "to be names", received)
    return tuple(word.strip() for text in texts for word in text.split(","))


def _sort_records(records: Sequence[AuditRecord], column: AuditColumn, total: AuditTotal) -> list[AuditRecord]:
    values = {id(record): column.value(record, total) for record in records}
    known = [record for record in records if values[id(record)] is not None]
    unknown = [record for record in records if values[id(record)] is None]
    falls = any(not isinstance(values[id(record)], str) for record in known)
    return sorted(known, key=lambda record: _sort_key(values[id(record)]), reverse=falls) + unknown


def _sort_key(value: Any) -> Any:
    """Return a value to compare by: shapes of one tensor and of several side by side."""
    if not isinstance(value, tuple):
        return value
    return tuple(number for item in value for number in (item if isinstance(item, tuple) else (item,)))


# Formats


def format_audit_text(audit: "Audit", view: AuditView | None = None) -> str:
    """Return `audit` as a plain table with totals, findings and conventions, wide enough for every name and number."""
    view = view or AuditView()
    table = _format_records(format_table, audit, view, title=audit.model) or escape_unprintable(audit.model)
    parts = [table, "\n".join(map(escape_unprintable, _list_view_totals(audit, view)))]
    if audit.findings:
        parts.append("\n".join(["Findings:", *_wrap_lines(list_findings(audit.findings))]))
    return "\n\n".join([*parts, "\n".join(_wrap_lines(list_conventions(audit), indent=""))])


def format_audit_markdown(audit: "Audit", view: AuditView | None = None) -> str:
    """Return `audit` as a Markdown table, with totals, findings and conventions below it."""
    view = view or AuditView()
    totals, findings = (
        "\n".join("- " + escape_unprintable(line).replace("|", "\\|") for line in lines)
        for lines in (_list_view_totals(audit, view), list_findings(audit.findings))
    )
    table = _format_records(format_markdown_table, audit, view)
    parts = [table, totals, findings and f"Findings:\n\n{findings}", " ".join(list_conventions(audit))]
    return "\n\n".join(filter(None, parts)) + "\n"


def format_audit_csv(audit: "Audit", view: AuditView | None = None) -> str:
    """Return the rows of `audit` as CSV: raw numbers, shares as fractions, empty where a number is unknown.

    Without a choice of columns these are all keys of the JSON rows and both shares. Pairs read ``3x3``, shapes
    ``55x55x64`` (no batch); several shapes are separated by ", ".
    """
    view = view or AuditView()
    if view.depth == TOTALS:
        raise expected_error("depth", "to be 1 or 2 for CSV, which holds rows; totals are in the JSON document", 0)
    columns = view.select_columns(list(view.known_columns))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(column.key for column in columns)
    writer.writerows([column.raw(record, audit.total) for column in columns] for record in view.select_records(audit))
    return out.getvalue()


def _format_records(build: Callable[..., str], audit: "Audit", view: AuditView, **options: Any) -> str:
    """Return the table of a view; an empty string if it has none."""
    columns = view.select_columns(DEFAULT_COLUMNS[view.depth])
    if not columns:
        return ""
    rows = [[column.text(record, audit.total) for column in columns] for record in view.select_records(audit)]
    right = [column.heading for column in columns if column.numeric]
    return build([column.heading for column in columns], rows, right=right, **options)


def _list_view_totals(audit: "Audit", view: AuditView) -> list[str]:
    return list_totals(audit, view.select_rows(audit) if view.only else None)


def _wrap_lines(lines: Iterable[str], indent: str = "  ") -> list[str]:
    return [part for line in lines for part in wrap(line, _FOOT_WIDTH, indent)]


# Below the table


def list_totals(audit: "Audit", rows: Sequence[AuditRow] | None = None) -> list[str]:
    """Return the totals of `audit` as lines, after the sums over `rows` if only these are shown."""
    total = audit.total
    if not is_float32(audit):
        peak = f"{format_bytes(total.peak_activation_bytes)} at the file's own types"
    else:
        float32, int8 = map(format_bytes, (total.peak_activation_bytes, total.peak_activation_bytes_int8))
        peak = f"{float32} float32, {int8} int8"
    lines = [
        f"Total: {total.params:,} params ({total.trainable_params:,} trainable, {total.non_trainable_params:,} not), "
        f"{total.macs:,} MACs",
        pointwise_line(total),
        f"Peak activation memory: {peak}",
    ]
    if rows is not None:
        params, macs = sum(row.params for row in rows), sum(row.macs or 0 for row in rows)
        lines.insert(
            0,
            f"Shown: {len(rows):,} of {len(audit.rows):,} layers, "
            f"{params:,} params ({format_ratio_percent(params, total.params)}), "
            f"{macs:,} MACs ({format_ratio_percent(macs, total.macs)})",
        )
    if audit.unknown:
        lines.append(f"MACs unknown, so not in the total: {format_names(audit.unknown)}")
    return lines


def pointwise_line(total: AuditTotal) -> str:
    """Return the share of the 1x1 layers as a line."""
    params = format_ratio_percent(total.pointwise_params, total.params)
    return f"In 1x1 layers: {params} of params, {format_ratio_percent(total.pointwise_macs, total.macs)} of MACs"


def list_findings(findings: Iterable[Finding]) -> list[str]:
    """Return findings as lines: the rule, the layers, one sentence, the savings."""
    return [_format_finding(finding) for finding in findings]


def _format_finding(finding: Finding) -> str:
    saves = finding.saves
    savings = (
        f"{saves['params']:,} params" if saves.get("params") else "",
        f"{saves['macs']:,} MACs" if saves.get("macs") else "",
        format_bytes(saves["bytes"]) if saves.get("bytes") else "",
    )
    saved = ", ".join(filter(None, savings))
    line = f"{finding.rule}: {format_names(finding.layers)}: {finding.message}"
    return f"{line} Saves {saved}." if saved else line


def list_conventions(audit: "Audit") -> list[str]:
    """Return what the figures of `audit` mean, as paragraphs."""
    if is_float32(audit):
        types = "Bytes of activations are at float32, bytes of weights at the weights' own types."
    else:
        types = "Bytes are those of the file's own types."
    return [*COUNTING_RULES, _PEAK_RULE, types]


def is_float32(audit: "Audit") -> bool:
    """Return whether bytes of activations are at float32: for Keras models, and for files that are all float32."""
    return all(row.activation_bytes == _FLOAT32_BYTES * row.activation_elements for row in audit.rows)
