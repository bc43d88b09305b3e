"""What the tables of an audit can show: a column for every key of its records, and two shares."""

import csv
import dataclasses
import functools
import io
import textwrap
import typing
from dataclasses import dataclass

from keras_nin.audit.records import AuditBlock, AuditRow, group_by_block
from keras_nin.errors import InputError, check_choice, unknown_name_error
from keras_nin.formatting import escape_unprintable, format_markdown_table, format_table

_SHARES = {"share_of_params": "params", "share_of_macs": "macs"}
_SHAPES = frozenset({"input_shape", "output_shape"})
_NO_BLOCK = "(no block)"


@dataclasses.dataclass(frozen=True)
class AuditColumn:
    """A column: the key of the JSON rows or of a share, and whether it holds numbers (which are set to the right)."""

    key: str
    numeric: bool

    @property
    def heading(self):
        """The key as words: ``"share of MACs"``."""
        return " ".join("MACs" if word == "macs" else word for word in self.key.split("_"))

    @property
    def is_share(self):
        """Whether this is a share of the whole network, a fraction of 1."""
        return self.key in _SHARES

    def value(self, record, total):
        """Return the value of `record`; None where it is not known, or a share of nothing."""
        if not self.is_share:
            return getattr(record, self.key)
        part, whole = getattr(record, _SHARES[self.key]), getattr(total, _SHARES[self.key])
        return part / whole if part is not None and whole else None

    def text(self, record, total):
        """Return the value for a reader: ``"1,792"``, ``"3x3"``, ``"5.1%"``, a shape without the batch."""
        value = self.value(record, total)
        if value is None:
            return {"macs": "unknown", "name": _NO_BLOCK}.get(self.key, "")
        if self.is_share:
            return f"{value:.1%}"
        if self.key in _SHAPES:
            return _format_shape(value)
        return _format_value(value)

    def raw(self, record, total):
        """Return the value for a machine: numbers as they are, shares to six places, pairs and shapes as in `text`."""
        value = self.value(record, total)
        if isinstance(value, tuple):
            return self.text(record, total)
        return round(value, 6) if self.is_share and value is not None else value


@functools.cache
def list_columns(record_class):
    """Return the columns of a record's class (`Row` or `Block`) by key, in the order of its fields, shares last."""
    fields = [AuditColumn(field.name, _is_number(field.type)) for field in dataclasses.fields(record_class)]
    return {column.key: column for column in (*fields, *(AuditColumn(key, True) for key in _SHARES))}


def _is_number(annotation):
    return (
        bool({int, float} & {annotation, *typing.get_args(annotation)}) and typing.get_origin(annotation) is not tuple
    )


def _format_value(value):
    if isinstance(value, tuple):
        return ("x" if all(isinstance(item, int) for item in value) else ", ").join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}" if isinstance(value, float) else str(value)


def _format_shape(shape):
    """A shape without the batch; several with ", " between them."""
    if shape and isinstance(shape[0], tuple):
        return ", ".join(map(_format_shape, shape))
    return "x".join(map(str, shape[1:]))


# MERGED Which part of an audit to show: how deep, which layers, which columns, in which order.

KINDS = ("pointwise", "spatial", "depthwise", "dense", "pool", "norm", "activation", "merge", "reshape", "other")
ROLES = ("head", "projection", "reduce", "expand", "mix")
TOTALS, BLOCKS, LAYERS = 0, 1, 2


@dataclass(frozen=True)
class AuditView:
    """What to show of an audit.

    `depth` is 0 (totals), 1 (a line for each block) or 2 (for each layer). `columns` are keys of the JSON rows, or
    share_of_params and share_of_macs; None takes what suits the format. `sort` is such a key: numbers fall, words
    rise, what is not known comes last. `only` are kinds and roles: a layer of any of them is shown, and a block is
    summed over such layers alone. `columns` and `only` may be one string with commas.

    Raises:
        InputError: an unknown depth, column, kind or role; a column twice; columns or an order without a table.
    """

    depth: int = LAYERS
    columns: tuple[str, ...] | None = None
    sort: str | None = None
    only: tuple[str, ...] = ()

    def __post_init__(self):
        check_choice("depth", self.depth, (TOTALS, BLOCKS, LAYERS))
        if self.columns is not None:
            object.__setattr__(self, "columns", _split_words("columns", self.columns))
        object.__setattr__(self, "only", _split_words("only", self.only))
        if self.depth == TOTALS and (self.columns is not None or self.sort is not None):
            raise InputError(
                "Expected no `columns` and no `sort` with depth 0, which shows totals alone. Use depth 1 or 2"
            )
        for key in self.columns or ():
            self._check("columns", key, self.known)
        if self.columns is not None and len(set(self.columns)) < max(len(self.columns), 1):
            raise InputError(f"Expected `columns` to name each column once. Received: {', '.join(self.columns)!r}")
        if self.sort is not None:
            self._check("sort", self.sort, self.known)
        for word in self.only:
            self._check("only", word, (*KINDS, *ROLES))

    @staticmethod
    def _check(what, word, known):
        if word not in known:
            raise unknown_name_error(what, word, known)

    @property
    def known(self):
        """The columns that there are at this depth, by key."""
        return list_columns(AuditBlock if self.depth == BLOCKS else AuditRow)

    def chosen(self, default):
        """Return the `Column`s to show; the keys `default` where the user chose none."""
        return [self.known[key] for key in (default if self.columns is None else self.columns)]

    def rows(self, audit):
        """Return the rows of `audit` whose kind or role is asked for: all where none is."""
        return [row for row in audit.rows if not self.only or {row.kind, row.role} & {*self.only}]

    def records(self, audit):
        """Return what the table lists, in its order: rows, blocks, or nothing at depth 0."""
        if self.depth == TOTALS:
            return []
        rows = self.rows(audit)
        records = group_by_block(rows) if self.depth == BLOCKS else rows
        return records if self.sort is None else _sort_records(records, self.known[self.sort], audit.total)


def _split_words(what, given):
    given = (given,) if isinstance(given, str) else given
    if not all(isinstance(words, str) for words in given):
        raise InputError(f"Expected `{what}` to be names. Received: {given!r}")
    return tuple(word.strip() for words in given for word in words.split(","))


def _sort_records(records, column, total):
    value = functools.partial(column.value, total=total)
    known = [record for record in records if value(record) is not None]
    unknown = [record for record in records if value(record) is None]
    falling = any(not isinstance(value(record), str) for record in known)
    return sorted(known, key=lambda record: _sort_key(value(record)), reverse=falling) + unknown


def _sort_key(value):
    """A value to compare by: shapes of one tensor and of several side by side."""
    if not isinstance(value, tuple):
        return value
    return tuple(number for item in value for number in (item if isinstance(item, tuple) else (item,)))


# MERGED What stands below an audit's table: totals, what is shown of them, what is not known, findings, conventions.

_NAMES_SHOWN = 5
_FLOAT32_BYTES = 4

COUNTING_RULES = (
    "1 MAC = one multiply + one add; batch 1. Bias, activation, pooling, resizing, merges, normalisations and scaling "
    "element by element count 0; a transposed convolution counts input positions x k x k x Cin x Cout.",
    "1x1 layers: convolutions with a 1x1 kernel in one group, and Dense on a map.",
)
_PEAK_RULE = (
    "Peak activation memory: the largest sum of live tensors in execution order. Activations and BatchNormalization "
    "are fused into what they follow, Flatten and Reshape share their input's memory, Concatenate and ZeroPadding do "
    "not."
)


def list_totals(audit, rows=None):
    """Return the totals of `audit` as lines, before them the sums over `rows` where a part of it is shown."""
    total = audit.total
    return [
        *([] if rows is None else [_shown_line(audit, rows)]),
        f"Total: {total.params:,} params ({total.trainable_params:,} trainable, {total.non_trainable_params:,} not), "
        f"{total.macs:,} MACs",
        f"In 1x1 layers: {format_share(total.pointwise_params, total.params)} of params, "
        f"{format_share(total.pointwise_macs, total.macs)} of MACs",
        _peak_line(audit),
        *([f"MACs not known, so not in the total: {format_names(audit.unknown)}"] if audit.unknown else []),
    ]


def _peak_line(audit):
    peak = audit.total.peak_activation_bytes
    if not is_float32(audit):
        return f"Peak activation memory: {format_size(peak)} at the file's own types"
    return f"Peak activation memory: {format_size(peak)} float32, {format_size(audit.total.peak_activation_bytes_int8)} int8"


def _shown_line(audit, rows):
    params, macs = sum(row.params for row in rows), sum(row.macs or 0 for row in rows)
    total = audit.total
    return (
        f"Shown: {len(rows):,} of {len(audit.rows):,} layers, {params:,} params ({format_share(params, total.params)}), "
        f"{macs:,} MACs ({format_share(macs, total.macs)})"
    )


def list_findings(audit):
    """Return the findings of `audit` as lines: the rule, the layers, one sentence, what it saves."""
    return [_finding_line(finding) for finding in audit.findings]


def _finding_line(finding):
    saved = [_format_saving(key, value) for key, value in finding.saves.items() if value]
    return f"{finding.rule}: {format_names(finding.layers)}: {finding.message}" + (
        f" Saves {', '.join(saved)}." if saved else ""
    )


def _format_saving(key, value):
    return format_size(value) if key == "bytes" else f"{value:,} {'MACs' if key == 'macs' else key}"


def list_conventions(audit):
    """Return what the figures of `audit` mean, as paragraphs."""
    if is_float32(audit):
        types = "Bytes of activations are at float32, bytes of weights at the weights' own types."
    else:
        types = "Bytes are those of the file's own types."
    return [*COUNTING_RULES, _PEAK_RULE, types]


def is_float32(audit):
    """Whether the bytes of activations are at float32: of every Keras model, and of files that hold float32 alone."""
    return all(row.activation_bytes == _FLOAT32_BYTES * row.activation_elements for row in audit.rows)


def format_names(layers):
    """Return the first few of `layers` as text, and how many more there are."""
    more = len(layers) - _NAMES_SHOWN
    return ", ".join(layers[:_NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def format_size(count):
    """Return `count` bytes in KiB, or in MiB from one MiB on: ``"959.1 KiB"``."""
    return f"{count / 2**20:,.2f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def format_share(part, whole):
    """Return a share as ``"40.5%"``, or "none" where there is no whole."""
    return f"{part / whole:.1%}" if whole else "none"


def wrap_line(line, width, indent="  "):
    """Return `line` as printable lines of at most `width` characters, all but the first indented."""
    return textwrap.wrap(escape_unprintable(line), width, subsequent_indent=indent, break_on_hyphens=False)


# MERGED An audit as text, Markdown and CSV: pure functions of its records, the same bytes wherever they run.

__all__ = [
    "AuditView",
    "group_by_block",
    "list_conventions",
    "format_audit_csv",
    "format_audit_markdown",
    "format_size",
    "format_audit_text",
]

DEFAULT_COLUMNS = {
    TOTALS: (),
    BLOCKS: ("name", "layers", "params", "share_of_params", "macs", "share_of_macs"),
    LAYERS: ("name", "type", "kind", "role", "kernel", "output_shape", "params", "macs", "share_of_macs"),
}
_FOOT_WIDTH = 110


def format_audit_text(audit, view=None):
    """Return `audit` as a plain table with what is known below it; wide enough for every name and number."""
    view = view or AuditView()
    parts = [
        _audit_table(format_table, audit, view, title=audit.model),
        "\n".join(map(escape_unprintable, _view_totals(audit, view))),
    ]
    if audit.findings:
        parts.append("\n".join(["Findings:", *_wrap_lines(list_findings(audit))]))
    return "\n\n".join([*parts, "\n".join(_wrap_lines(list_conventions(audit), indent=""))])


def format_audit_markdown(audit, view=None):
    """Return `audit` as a Markdown table, with totals, findings and conventions below it."""
    view = view or AuditView()
    items = "\n".join(f"- {_markdown_line(line)}" for line in _view_totals(audit, view))
    found = "\n".join(f"- {_markdown_line(line)}" for line in list_findings(audit))
    parts = [
        _audit_table(format_markdown_table, audit, view),
        items,
        found and f"Findings:\n\n{found}",
        " ".join(list_conventions(audit)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def format_audit_csv(audit, view=None):
    """Return the rows of `audit` as CSV: raw numbers, shares as fractions, empty where a number is not known.

    Without a choice of columns these are all keys of the JSON rows and both shares. Pairs read ``3x3``, shapes
    ``55x55x64`` (no batch), several shapes have ", " between them.

    Raises:
        InputError: depth 0, which has no rows.
    """
    view = view or AuditView()
    if view.depth == TOTALS:
        raise InputError("Expected a depth of 1 or 2 for CSV, which holds rows. Received: 0. Totals are in JSON")
    columns = view.chosen(view.known)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(column.key for column in columns)
    writer.writerows([column.raw(record, audit.total) for column in columns] for record in view.records(audit))
    return out.getvalue()


def _audit_table(build, audit, view, **options):
    """The table, or the title alone where there is none."""
    columns = view.chosen(DEFAULT_COLUMNS[view.depth])
    if not columns:
        return escape_unprintable(options.get("title", ""))
    rows = [[column.text(record, audit.total) for column in columns] for record in view.records(audit)]
    right = [column.heading for column in columns if column.numeric]
    return build([column.heading for column in columns], rows, right=right, **options)


def _view_totals(audit, view):
    return list_totals(audit, view.rows(audit) if view.only else None)


def _markdown_line(line):
    return escape_unprintable(line).replace("|", "\\|")


def _wrap_lines(lines, indent="  "):
    return [part for line in lines for part in wrap_line(line, _FOOT_WIDTH, indent)]
