"""An audit as text, Markdown and CSV: pure functions of its records, the same bytes wherever they run."""

import csv
import io

from keras_nin.audit.render import notes
from keras_nin.audit.render.notes import conventions, size
from keras_nin.audit.render.view import BLOCKS, LAYERS, TOTALS, View, by_block
from keras_nin.errors import InputError
from keras_nin.tables import markdown_table, printable, text_table

__all__ = ["View", "by_block", "conventions", "csv_text", "markdown", "size", "text"]

DEFAULT_COLUMNS = {
    TOTALS: (),
    BLOCKS: ("name", "layers", "params", "share_of_params", "macs", "share_of_macs"),
    LAYERS: ("name", "type", "kind", "role", "kernel", "output_shape", "params", "macs", "share_of_macs"),
}
_FOOT_WIDTH = 110


def text(audit, view=None):
    """Return `audit` as a plain table with what is known below it; wide enough for every name and number."""
    view = view or View()
    parts = [_table(text_table, audit, view, title=audit.model), "\n".join(map(printable, _figures(audit, view)))]
    if audit.findings:
        parts.append("\n".join(["Findings:", *_wrapped(notes.findings(audit))]))
    return "\n\n".join([*parts, "\n".join(_wrapped(conventions(audit), indent=""))])


def markdown(audit, view=None):
    """Return `audit` as a Markdown table, with totals, findings and conventions below it."""
    view = view or View()
    items = "\n".join(f"- {_inline(line)}" for line in _figures(audit, view))
    found = "\n".join(f"- {_inline(line)}" for line in notes.findings(audit))
    parts = [
        _table(markdown_table, audit, view),
        items,
        found and f"Findings:\n\n{found}",
        " ".join(conventions(audit)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def csv_text(audit, view=None):
    """Return the rows of `audit` as CSV: raw numbers, shares as fractions, empty where a number is not known.

    Without a choice of columns these are all keys of the JSON rows and both shares. Pairs read ``3x3``, shapes
    ``55x55x64`` (no batch), several shapes have ", " between them.

    Raises:
        InputError: depth 0, which has no rows.
    """
    view = view or View()
    if view.depth == TOTALS:
        raise InputError("Expected a depth of 1 or 2 for CSV, which holds rows. Received: 0. Totals are in JSON")
    columns = view.chosen(view.known)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(column.key for column in columns)
    writer.writerows([column.raw(record, audit.total) for column in columns] for record in view.records(audit))
    return out.getvalue()


def _table(build, audit, view, **options):
    """The table, or the title alone where there is none."""
    columns = view.chosen(DEFAULT_COLUMNS[view.depth])
    if not columns:
        return printable(options.get("title", ""))
    rows = [[column.text(record, audit.total) for column in columns] for record in view.records(audit)]
    right = [column.heading for column in columns if column.numeric]
    return build([column.heading for column in columns], rows, right=right, **options)


def _figures(audit, view):
    return notes.figures(audit, view.rows(audit) if view.only else None)


def _inline(line):
    return printable(line).replace("|", "\\|")


def _wrapped(lines, indent="  "):
    return [part for line in lines for part in notes.wrap(line, _FOOT_WIDTH, indent)]
