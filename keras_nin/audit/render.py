"""An audit as text, Markdown and CSV: pure functions of its records."""

import csv
import io
import textwrap

from keras_nin.tables import markdown_table, text_table

_COLUMNS = ("name", "type", "kind", "role", "kernel", "output shape", "params", "MACs", "share of MACs")
_NUMBERS = _COLUMNS[-3:]
_UNKNOWN_SHOWN = 5
_FOOT_WIDTH = 110

CONVENTIONS = (
    "1 MAC = one multiply + one add; batch 1. Bias, activation, pooling, resizing, merges, BatchNormalization and "
    "local response normalisation count 0; a transposed convolution counts input positions x k x k x Cin x Cout.",
    "1x1 layers: convolutions with a 1x1 kernel in one group, and Dense on a map.",
    "Peak activation memory: the largest sum of live tensors in execution order. Activations and BatchNormalization "
    "are fused into what they follow, Flatten and Reshape share their input's memory, Concatenate and ZeroPadding do "
    "not.",
)


def text(audit):
    """Return `audit` as a table for the terminal, with totals and conventions below it; never cut to a width."""
    rows = [_cells(row, audit.total) for row in audit.rows]
    table = text_table(_COLUMNS, rows, right=_NUMBERS, title=audit.model)
    foot = [line for convention in CONVENTIONS for line in textwrap.wrap(convention, _FOOT_WIDTH)]
    return "\n".join([table, "", *summary(audit), "", *foot])


def markdown(audit):
    """Return `audit` as a Markdown table, with totals and conventions below it."""
    rows = [_cells(row, audit.total) for row in audit.rows]
    items = [f"- {line}" for line in summary(audit)]
    table = markdown_table(_COLUMNS, rows, right=_NUMBERS)
    return "\n".join([table, "", *items, "", " ".join(CONVENTIONS)]) + "\n"


def csv_text(audit):
    """Return the rows of `audit` as CSV: raw numbers, shares as fractions, empty where a number is not known."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(column.replace(" ", "_").lower() for column in _COLUMNS)
    for row in audit.rows:
        share = _share(row, audit.total)
        writer.writerow([*_words(row), row.params, row.macs, share if share is None else round(share, 6)])
    return out.getvalue()


def summary(audit):
    """Return the totals of `audit` as a list of lines."""
    total = audit.total
    peak = total.peak_activation_bytes
    lines = [
        f"Total: {total.params:,} params ({total.trainable_params:,} trainable, {total.non_trainable_params:,} not), "
        f"{total.macs:,} MACs",
        f"In 1x1 layers: {_percent(total.pointwise_params, total.params)} of params, "
        f"{_percent(total.pointwise_macs, total.macs)} of MACs",
        f"Peak activation memory: {size(peak)} float32, {size(peak // 4)} int8",
    ]
    if audit.unknown:
        names = ", ".join(audit.unknown[:_UNKNOWN_SHOWN])
        more = len(audit.unknown) - _UNKNOWN_SHOWN
        lines.append(f"MACs not known, so not in the total: {names}{f' and {more} more' if more > 0 else ''}")
    return lines


def size(count):
    """Return `count` bytes in KiB, or in MiB from one MiB on: ``"959.1 KiB"``."""
    return f"{count / 2**20:,.2f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def _cells(row, total):
    share = _share(row, total)
    macs = "unknown" if row.macs is None else f"{row.macs:,}"
    return [*_words(row), f"{row.params:,}", macs, "" if share is None else f"{share:.1%}"]


def _words(row):
    kernel = "x".join(map(str, row.kernel)) if row.kernel else ""
    return [row.name, row.type, row.kind, row.role or "", kernel, _shape(row.output_shape)]


def _shape(shape):
    """The shape without the batch, ``"55x55x64"``; several shapes with ", " between them."""
    if not shape:
        return ""
    if isinstance(shape[0], tuple):
        return ", ".join(map(_shape, shape))
    return "x".join(map(str, shape[1:]))


def _share(row, total):
    return row.macs / total.macs if row.macs is not None and total.macs else None


def _percent(part, whole):
    return f"{part / whole:.1%}" if whole else "none"
