"""The sections of an audit: its table with the conventions, and its findings."""

from keras_nin.audit.render import DEFAULT_COLUMNS, View, notes, size
from keras_nin.audit.render.view import BLOCKS, LAYERS
from keras_nin.report.html.parts import Items, Line, Section, table


def audit(audit, name):
    """Return the `Section` of an `Audit`: totals, blocks, layers, what the figures mean."""
    figures = tuple(Line(line, "plain") for line in notes.figures(audit))
    tables = [_table(audit, LAYERS, f"All {len(audit.rows)} layers")]
    if any(row.block is not None for row in audit.rows):
        tables.insert(0, _table(audit, BLOCKS, "By block"))
    return Section(f"{name}-audit", "Audit", (*figures, *tables, Line(" ".join(notes.conventions(audit)))))


def findings(audit, name):
    """Return the `Section` of what an `Audit` found worth changing."""
    items = tuple(
        (f"{each.rule}: {notes.names(each.layers)}", " ".join([each.message, *_saves(each.saves)]))
        for each in audit.findings
    )
    parts = (Items(items),) if items else (Line("Nothing was found that is worth changing.", "plain"),)
    return Section(f"{name}-findings", "Findings", parts)


def _table(audit, depth, title):
    view = View(depth)
    columns = view.chosen(DEFAULT_COLUMNS[depth])
    rows = [[column.text(record, audit.total) for column in columns] for record in view.records(audit)]
    right = [column.heading for column in columns if column.numeric]
    folded = title if depth == LAYERS else None
    return table(title, [column.heading for column in columns], rows, right=right, folded=folded)


def _saves(saves):
    saved = [_saved(key, value) for key, value in saves.items() if value]
    return [f"Saves {', '.join(saved)}."] if saved else []


def _saved(key, value):
    return size(value) if key == "bytes" else f"{value:,} {'MACs' if key == 'macs' else key}"
