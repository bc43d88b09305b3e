"""An audit as text, Markdown and CSV: views, columns, and what is written below a table."""

import pathlib
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from keras_nin.audit.records import AuditBlock, AuditRow, AuditTotal, Finding, group_by_block
from keras_nin.errors import check_choice, expected_error, unknown_name_error
from keras_nin.formatting import (
    escape_markdown,
    escape_unprintable,
    format_bytes,
    format_csv,
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
_CONVENTIONS = tomllib.loads(pathlib.Path(__file__).with_name("conventions.toml").read_text(encoding="utf-8"))
_SHARES = {"share_of_params": "params", "share_of_macs": "macs"}
_SHAPES = frozenset({"input_shape", "output_shape"})
_NOT_NUMERIC = _SHAPES | {"name", "type", "kind", "role", "kernel", "receptive_field", "block", "folds", "scope"}
_FOOT_WIDTH = 110


@dataclass(frozen=True)
class AuditColumn:
    """A column, by its key in the JSON rows, or that of a share."""

    key: str

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers, which are right-aligned."""
        return self.key not in _NOT_NUMERIC

    @property
    def heading(self) -> str:
        """The key as words: ``"share of MACs"``."""
        return self.key.replace("_", " ").replace("macs", "MACs")

    @property
    def is_share(self) -> bool:
        """Whether this is a share of the whole network, a fraction of 1."""
        return self.key in _SHARES

    def value(self, record: AuditRecord, total: AuditTotal) -> Any:
        """Return the value of `record`; None if it is unknown, or a share of nothing."""
        if not self.is_share:
            return getattr(record, self.key)
        if self._is_bound(total) and getattr(record, "macs_unknown", 0):
            return None  # neither the part nor the whole is known
        part, whole = getattr(record, _SHARES[self.key]), getattr(total, _SHARES[self.key])
        return part / whole if part is not None and whole else None

    def text(self, record: AuditRecord, total: AuditTotal) -> str:
        """Return the value for a reader: ``"1,792"``, ``"3x3"``, ``"5.1%"``, a shape without the batch."""
        value = self.value(record, total)
        if value is None:
            return {"macs": "unknown", "name": "(no block)"}.get(self.key, "")
        if self.is_share:
            return ("<= " if self._is_bound(total) and value else "") + format_percent(value)
        if self.key == "macs" and isinstance(record, AuditBlock) and record.macs_unknown:
            return f">= {value:,}" if value else "unknown"
        if isinstance(value, tuple):
            return "x".join(map(str, value)) if self.key not in _SHAPES else format_shape(value)
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}" if isinstance(value, float) else value

    def raw(self, record: AuditRecord, total: AuditTotal) -> Any:
        """Return the value for a program: numbers as they are, shares to six places, pairs and shapes as in `text`.

        None for a share of a total that leaves out layers.
        """
        value = self.value(record, total)
        if isinstance(value, tuple):
            return self.text(record, total)
        if self.is_share and value is not None:
            return None if self._is_bound(total) else round(value, 6)
        return value

    def _is_bound(self, total: AuditTotal) -> bool:
        """Whether a share is an upper bound: the MACs of some layers are unknown."""
        return _SHARES[self.key] == "macs" and total.macs_unknown > 0


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
        words = [("columns", key) for key in columns or ()] + [("sort", self.sort)] * (self.sort is not None)
        for argument, word in [*words, *(("only", word) for word in self.only)]:
            known = (*KINDS, *ROLES) if argument == "only" else self.known_columns
            if word not in known:
                raise unknown_name_error(argument, word, known)
        if columns is not None and len(set(columns)) < max(len(columns), 1):
            raise expected_error("columns", "to name each column once", ", ".join(columns))

    @property
    def known_columns(self) -> list[str]:
        """The keys of the columns at this depth: the fields of its records, and the shares."""
        record_class = AuditBlock if self.depth == BLOCKS else AuditRow
        return [*(field.name for field in fields(record_class)), *_SHARES]

    def select_columns(self, default: Iterable[str]) -> list[AuditColumn]:
        """Return the columns to show; those of the keys `default` if the user chose none."""
        return [AuditColumn(key) for key in (default if self.columns is None else self.columns)]

    def select_rows(self, audit: "Audit") -> list[AuditRow]:
        """Return the rows of `audit` with a kind or role in `only`; all rows if that is empty."""
        return [row for row in audit.rows if not self.only or {row.kind, row.role} & {*self.only}]

    def select_records(self, audit: "Audit") -> Sequence[AuditRecord]:
        """Return what the table lists, in its order: rows, blocks, or nothing at depth 0."""
        if self.depth == TOTALS:
            return []
        rows = self.select_rows(audit)
        records = group_by_block(rows) if self.depth == BLOCKS else rows
        if self.sort is None:
            return records
        keyed = [(_sort_key(AuditColumn(self.sort).value(record, audit.total)), record) for record in records]
        known = [pair for pair in keyed if pair[0] is not None]
        known.sort(key=lambda pair: pair[0], reverse=any(not isinstance(key, str) for key, _ in known))
        return [record for _, record in known] + [record for key, record in keyed if key is None]


def _split_words(argument: str, received: Any) -> tuple[str, ...]:
    texts = (received,) if isinstance(received, str) else tuple(received)
    if not all(isinstance(text, str) for text in texts):
        raise expected_error(argument, "to be names", received)
    return tuple(word.strip() for text in texts for word in text.split(","))


def _sort_key(value: Any) -> Any:
    """Return a value to compare by: shapes of one tensor and of several side by side."""
    if not isinstance(value, tuple):
        return value
    return tuple(number for item in value for number in (item if isinstance(item, tuple) else (item,)))


EVERYTHING = AuditView()


# Formats


def format_audit_text(audit: "Audit", view: AuditView = EVERYTHING) -> str:
    """Return `audit` as a plain table with totals, findings and conventions, wide enough for every name and number."""
    table = _format_records(format_table, audit, view, title=audit.model) or escape_unprintable(audit.model)
    findings = [part for line in list_findings(audit.findings) for part in wrap(line, _FOOT_WIDTH)]
    conventions = [part for line in list_conventions(audit) for part in wrap(line, _FOOT_WIDTH, indent="")]
    totals = map(escape_unprintable, list_totals(audit, view))
    parts = (totals, ["Findings:", *findings] if findings else [], conventions)
    return "\n\n".join([table, *filter(None, map("\n".join, parts))])


def format_audit_markdown(audit: "Audit", view: AuditView = EVERYTHING) -> str:
    """Return `audit` as a Markdown table, with totals, findings and conventions below it."""
    totals, findings = (
        "\n".join(f"- {escape_markdown(line)}" for line in lines)
        for lines in (list_totals(audit, view), list_findings(audit.findings))
    )
    table = _format_records(format_markdown_table, audit, view)
    parts = [table, totals, findings and f"Findings:\n\n{findings}", " ".join(list_conventions(audit))]
    return "\n\n".join(filter(None, parts)) + "\n"


def format_audit_csv(audit: "Audit", view: AuditView = EVERYTHING) -> str:
    """Return the rows of `audit` as CSV: raw numbers, shares as fractions, empty where a number is unknown.

    Without a choice of columns these are all keys of the JSON rows and both shares. Pairs read ``3x3``, shapes
    ``55x55x64`` (no batch); several shapes are separated by ", ".
    """
    if view.depth == TOTALS:
        raise expected_error("depth", "to be 1 or 2 for CSV, which holds rows; totals are in the JSON document", 0)
    columns = view.select_columns(view.known_columns)
    rows = ([column.raw(record, audit.total) for column in columns] for record in view.select_records(audit))
    return format_csv([column.key for column in columns], rows)


def _format_records(build: Callable[..., str], audit: "Audit", view: AuditView, **options: Any) -> str:
    """Return the table of a view; an empty string if it has none."""
    columns = view.select_columns(DEFAULT_COLUMNS[view.depth])
    if not columns:
        return ""
    rows = [[column.text(record, audit.total) for column in columns] for record in view.select_records(audit)]
    right = [column.heading for column in columns if column.numeric]
    return build([column.heading for column in columns], rows, right=right, **options)


# Below the table


def list_totals(audit: "Audit", view: AuditView = EVERYTHING) -> list[str]:
    """Return the totals of `audit` as lines, after the sums over the rows that `view` shows if these are not all."""
    total = audit.total
    peak = f"{format_bytes(total.peak_activation_bytes)} at the file's own types"
    if _is_float32(audit):
        float32, int8 = map(format_bytes, (total.peak_activation_bytes, total.peak_activation_bytes_int8))
        peak = f"{float32} float32, {int8} int8"
    per_sample = f" per sample (batch {audit.batch})" if audit.batch > 1 else ""
    lines = [
        f"Total: {total.params:,} params ({total.trainable_params:,} trainable, {total.non_trainable_params:,} not), "
        f"{format_macs(total)}{per_sample}",
        pointwise_line(total),
        f"Peak activation memory: {peak}",
    ]
    if view.only:
        rows = view.select_rows(audit)
        params, macs = sum(row.params for row in rows), sum(row.macs or 0 for row in rows)
        shown = (
            f"Shown: {len(rows):,} of {len(audit.rows):,} layers, "
            f"{params:,} params ({format_ratio_percent(params, total.params)}), "
            f"{macs:,} MACs ({format_macs_share(macs, total)})"
        )
        lines.insert(0, shown)
    if audit.unknown:
        lines.append(f"MACs unknown, so not in the total: {format_names(audit.unknown)}")
    return [*lines, *(f"Note: {note}" for note in audit.notes)]


def pointwise_line(total: AuditTotal) -> str:
    """Return the share of the 1x1 layers as a line."""
    params = format_ratio_percent(total.pointwise_params, total.params)
    return f"In 1x1 layers: {params} of params, {format_macs_share(total.pointwise_macs, total)} of MACs"


def format_macs(total: AuditTotal) -> str:
    """Return the MACs of a network: ``"1,792 MACs"``, ``"at least 1,792 MACs"`` if those of a layer are unknown."""
    return f"{'at least ' if total.macs_unknown else ''}{total.macs:,} MACs"


def format_macs_share(macs: int, total: AuditTotal) -> str:
    """Return a share of the MACs of a network, which is at most that of those that are known."""
    return ("at most " if total.macs_unknown and macs else "") + format_ratio_percent(macs, total.macs)


def list_findings(findings: Iterable[Finding]) -> list[str]:
    """Return findings as lines: the rule, the layers, one sentence, the savings."""
    lines = []
    for finding in findings:
        line = f"{finding.rule}: {format_names(finding.layers)}: {finding.message}"
        forms = {"params": "{:,} params".format, "macs": "{:,} MACs".format, "bytes": format_bytes}
        savings = [form(finding.saves[key]) for key, form in forms.items() if finding.saves.get(key)]
        lines.append(f"{line} Saves {', '.join(savings)}." if savings else line)
    return lines


def list_conventions(audit: "Audit") -> list[str]:
    """Return what the figures of `audit` mean, as paragraphs."""
    names = ["counting", "pointwise", "peak", "float32" if _is_float32(audit) else "file"]
    texts = [_CONVENTIONS[name] for name in [*names, *["batch"] * (audit.batch > 1)]]
    return [text.format(batch=audit.batch) for text in texts]


def _is_float32(audit: "Audit") -> bool:
    """Return whether bytes of activations are at float32: for Keras models, and for files that are all float32."""
    return all(row.activation_bytes == 4 * row.activation_elements for row in audit.rows)
