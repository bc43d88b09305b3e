"""A comparison as text and Markdown: pure functions of its records."""

from keras_nin.audit.render import size
from keras_nin.tables import markdown_table, text_table

_BYTES = ("weight_bytes", "peak_activation_bytes")
_TOTALS = {
    "params": "params",
    "macs": "MACs",
    "weight_bytes": "weights",
    "pointwise_params_share": "params in 1x1",
    "pointwise_macs_share": "MACs in 1x1",
    "peak_activation_bytes": "peak activation",
}


def text(comparison):
    """Return `comparison` as tables for the terminal."""
    return "\n\n".join(
        ["\n".join(lines) if isinstance(lines, list) else text_table(*lines[:2], right=lines[2], title=lines[3])
         for lines in _parts(comparison)]
    )  # fmt: skip


def markdown(comparison):
    """Return `comparison` as Markdown."""
    parts = []
    for lines in _parts(comparison):
        if isinstance(lines, list):
            parts.append("\n".join(f"- {line}" for line in lines))
        else:
            columns, rows, right, title = lines
            parts.append(f"**{title}**\n\n{markdown_table(columns, rows, right=right)}")
    return "\n\n".join(parts) + "\n"


def _parts(comparison):
    """Yield tables as (columns, rows, right, title), and lists of lines."""
    yield from _conversion(comparison) if comparison.kind == "conversion" else _networks(comparison)


def _networks(comparison):
    title = f"{comparison.a} (a) against {comparison.b} (b)"
    yield _totals(comparison, title)
    if comparison.blocks:
        yield _sides(comparison.blocks, "Blocks")
    different = [row for row in comparison.rows if row.status != "same"]
    if different:
        yield _sides(different, "Rows that differ")
    same = len(comparison.rows) - len(different)
    yield [f"{same} of {len(comparison.rows)} rows are the same in both."]


def _totals(comparison, title):
    rows = []
    for key, label in _TOTALS.items():
        a, b = comparison.totals[key]
        ratio = "" if not a or b is None or key.endswith("_share") else f"{b / a:.3g}"
        rows.append([label, _value(key, a), _value(key, b), ratio])
    return ("total", "a", "b", "b / a"), rows, ("a", "b", "b / a"), title


def _value(key, value):
    if value is None:
        return "none"
    if key.endswith("_share"):
        return f"{value:.1%}"
    return size(value) if key in _BYTES else f"{value:,}"


def _sides(rows, title):
    columns = ("name", "params a", "params b", "MACs a", "MACs b", "b / a")
    cells = []
    for row in rows:
        a, b = row.macs
        ratio = f"{b / a:.3g}" if a and b is not None else ""
        cells.append([row.a or row.b[0], *map(_number, (*row.params, *row.macs)), ratio])
    return columns, cells, columns[1:], title


def _conversion(comparison):
    columns = ("layer", "became", "params", "bytes", "MACs")
    cells = [
        [row.a or row.b[0], _became(row), *(_number(pair[1]) for pair in (row.params, row.weight_bytes, row.macs))]
        for row in comparison.rows
    ]
    yield columns, cells, columns[2:], f"{comparison.a} as {comparison.b} (figures of the file)"
    yield _totals(comparison, f"{comparison.a} (a) and its file (b)")
    yield _reasons(comparison)


def _became(row):
    if row.status == "matched":
        return " + ".join(row.operators)
    if row.status == "inserted":
        return f"{row.operators[0]} (inserted)"
    if row.status == "unexplained":
        return " ".join([*row.operators, "NOT EXPLAINED"])
    return f"{row.status} into {row.into}" if row.into else row.status


def _reasons(comparison):
    a, b = comparison.totals["params"]
    lines = [f"Parameters: {b - a:+,} in the file" if a != b else "Parameters: as many in the file as in the model"]
    lines += [f"  {reason.params:+,}: {reason.cause} ({reason.rows} rows)" for reason in comparison.reasons]
    stored = ", ".join(f"{dtype} {size(count)}" for dtype, count in (comparison.stored or {}).items())
    lines.append(f"Weights as stored: {stored or 'none'}")
    lines += [f"{row.a or row.b[0]}: {row.note}" for row in comparison.rows if _is_odd(row)]
    return lines + list(comparison.problems or ["MACs agree exactly, row by row and in total."])


def _is_odd(row):
    """Whether what happened to a row is told in words below the table."""
    return row.status in ("inserted", "unexplained") or len(row.operators) > 1


def _number(value):
    return "" if value is None else f"{value:,}"
