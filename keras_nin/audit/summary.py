"""An audit in the manner of `keras.Model.summary()`: the same arguments, and what the layers cost besides."""

import io
import re
import shutil
import sys
from dataclasses import dataclass

from keras_nin.audit.records import AuditRow
from keras_nin.audit.tables import format_share, format_size, list_columns
from keras_nin.errors import InputError
from keras_nin.formatting import escape_unprintable, fit_encoding

_HEADINGS = ("Layer (type)", "Output Shape", "Param #", "MACs", "1x1")
_RIGHT_ALIGNED = ("Param #", "MACs")
_MAX_LINE = 108
_MARGIN = 4
_MIN_NAME = 10
_FRAME = 1  # characters of a column that its frame takes, beside a space on each side


@dataclass(frozen=True)
class _SummaryLine:
    name: str
    cells: tuple[str, ...]
    rows: tuple
    inner: tuple = ()


def print_summary(
    audit,
    line_length=None,
    positions=None,
    print_fn=None,
    expand_nested=False,
    show_trainable=False,
    layer_range=None,
):
    """Print `audit` as `keras.Model.summary()` prints a model; the arguments are that method's, in its order.

    A nested model is one line with its sums unless `expand_nested`. The totals are of the network's weights, never of
    an optimizer's. `1x1` names the role of a 1x1 layer; a separable convolution is two lines.

    Args:
        line_length: characters in a line; None takes 108, or what the terminal has where that is less.
        positions: where each column ends: parts of 1 or characters, rising; None fits the columns to their content.
        print_fn: called with each line; None prints them.
        expand_nested: show the layers of nested models below them.
        show_trainable: add a column with Y, N, or - where there are no weights.
        layer_range: two regular expressions: the names of the first and the last layer to show.

    Raises:
        InputError: an argument that is none of these, or a line that is too short for the numbers.
    """
    _check_arguments(line_length, print_fn)
    headings = (*_HEADINGS, "Trainable") if show_trainable else _HEADINGS
    chosen = _select_range(_summary_lines(audit.rows, "", show_trainable), layer_range)
    rows = [[escape_unprintable(cell) for cell in cells] for cells in _flatten_lines(chosen, expand_nested)]
    length = line_length or _default_length(print_fn)
    widths = _column_widths(headings, rows, length, positions, fixed=line_length is not None)
    text = "\n".join(
        [f'Model: "{escape_unprintable(audit.model)}"', _draw_table(headings, rows, widths), *_total_lines(audit)]
    )
    if print_fn is None:
        print_fn, text = print, fit_encoding(text, getattr(sys.stdout, "encoding", None) or "utf-8")
    for line in text.splitlines():
        print_fn(line)


def _check_arguments(line_length, print_fn):
    whole = isinstance(line_length, int) and not isinstance(line_length, bool) and line_length > 0
    if line_length is not None and not whole:
        raise InputError(f"Expected `line_length` to be a positive whole number or None. Received: {line_length!r}")
    if print_fn is not None and not callable(print_fn):
        raise InputError(f"Expected `print_fn` to be a function of one line. Received: {print_fn!r}")


def _default_length(print_fn):
    on_terminal = print_fn is None and sys.stdout.isatty()
    return min(_MAX_LINE, shutil.get_terminal_size().columns - _MARGIN) if on_terminal else _MAX_LINE


def _summary_lines(rows, scope, show_trainable):
    """The lines of the layers directly in `scope`, those of nested models with the lines inside them."""
    groups = {}
    for row in rows:
        groups.setdefault(_name_in_scope(row, scope), []).append(row)
    lines = []
    for (name, nested), members in groups.items():
        inner = _summary_lines(members, f"{scope}{name}/", show_trainable) if nested else ()
        lines.append(
            _SummaryLine(name, _line_cells(name, nested, members, show_trainable), tuple(members), tuple(inner))
        )
    return lines


def _name_in_scope(row, scope):
    """The name of `row` directly in `scope`, and whether it is a nested model there."""
    inside = f"{row.scope}/".removeprefix(scope) if row.scope else ""
    return (inside.split("/")[0], True) if inside else (row.name.removeprefix(scope), False)


def _line_cells(name, nested, rows, show_trainable):
    columns = list_columns(AuditRow)
    last = rows[-1]
    macs = [row.macs for row in rows]
    trainable, params = sum(row.trainable_params for row in rows), sum(row.params for row in rows)
    cells = (
        f"{name} ({f'nested, {len(rows):,} layers' if nested else last.type})",
        columns["output_shape"].text(last, None) or "?",
        f"{params:,}",
        "unknown" if None in macs else f"{sum(macs):,}",
        "" if nested else last.role or "",
    )
    return (*cells, "Y" if trainable else "N" if params else "-") if show_trainable else cells


def _flatten_lines(lines, expand, level=0):
    for line in lines:
        first, *rest = line.cells
        yield [f"{'   ' * level}└ {first}" if level else first, *rest]
        if expand:
            yield from _flatten_lines(line.inner, expand, level + 1)


def _select_range(lines, layer_range):
    if layer_range is None:
        return lines
    if (
        not isinstance(layer_range, (list, tuple))
        or len(layer_range) != 2
        or not all(isinstance(name, str) for name in layer_range)
    ):
        raise InputError(f"Expected `layer_range` to be two names of layers. Received: {layer_range!r}")
    try:
        places = [[at for at, line in enumerate(lines) if re.match(name, line.name)] for name in layer_range]
    except re.error as error:
        raise InputError(
            f"Expected regular expressions in `layer_range`. Received: {layer_range!r} ({error})"
        ) from None
    if not all(places):
        raise InputError(f"Expected `layer_range` to name layers of the network. Received: {layer_range!r}")
    first, last = min(places[0]), max(places[1])
    if first > last:  # as Keras does: the range is the same whichever end comes first
        first, last = min(places[1]), max(places[0])
    return lines[first : last + 1]


def _column_widths(headings, rows, length, positions, fixed):
    """The characters that each column has for its text."""
    from rich.cells import cell_len

    columns = list(zip(headings, *rows, strict=True))
    wanted = [max(map(cell_len, texts)) for texts in columns]
    # A number stays in one piece, and so does a word or a shape; a name may fold.
    least = [max(cell_len(word) for text in texts for word in text.split()) for texts in columns]
    least[0] = min(_MIN_NAME, wanted[0])
    frames = 3 * len(headings) + _FRAME
    if positions is not None:
        widths = _widths_from_positions(headings, positions, length)
    else:
        spare, widths = length - frames - sum(least), list(least)
        for at in (*range(1, len(wanted)), 0):  # the names take what the others leave
            widths[at] += min(max(spare, 0), wanted[at] - least[at])
            spare -= widths[at] - least[at]
        if spare < 0 and not fixed:
            return widths
        widths[0] += max(spare, 0)
    short = [heading for heading, width, need in zip(headings, widths, least, strict=True) if width < need]
    if short or sum(widths) + frames > length:
        raise InputError(
            f"Expected a line long enough for every number, {sum(least) + frames} characters at least, with room for "
            f"{', '.join(short or headings)}. Received: {length}. Pass a larger `line_length`"
            f"{'' if positions is None else ' or other `positions`'}."
        )
    return widths


def _widths_from_positions(headings, positions, length):
    numbers = isinstance(positions, (list, tuple)) and all(
        isinstance(end, (int, float)) and not isinstance(end, bool) for end in positions
    )
    rising = numbers and all(0 <= low < high for low, high in zip((0, *positions), positions, strict=False))
    if not rising or len(positions) != len(headings):
        raise InputError(
            f"Expected `positions` to be {len(headings)} rising numbers, the ends of {', '.join(headings)}. "
            f"Received: {positions!r}"
        )
    ends = [int(end * length) if positions[-1] <= 1 else int(end) for end in positions]
    # A column holds a space on each side and its share of the frame; the last one closes the table.
    widths = [end - start - 3 for start, end in zip((0, *ends), ends, strict=False)]
    return [*widths[:-1], widths[-1] - _FRAME]


def _draw_table(headings, rows, widths):
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    for heading, width in zip(headings, widths, strict=True):
        justify = "right" if heading in _RIGHT_ALIGNED else "left"
        table.add_column(Text(heading), justify=justify, width=width, overflow="fold")
    for cells in rows:
        table.add_row(*map(Text, cells))
    out = io.StringIO()
    Console(file=out, width=sum(widths) + 3 * len(widths) + _FRAME, color_system=None).print(table)
    return out.getvalue().rstrip("\n")


def _total_lines(audit):
    total = audit.total
    macs = f" Total MACs: {total.macs:,}"
    return [
        f" Total params: {total.params:,} ({format_size(total.weight_bytes)})",
        f" Trainable params: {total.trainable_params:,}",
        f" Non-trainable params: {total.non_trainable_params:,}",
        macs + (f", without those of {len(audit.unknown):,} layers that are not known" if audit.unknown else ""),
        f" In 1x1 layers: {format_share(total.pointwise_params, total.params)} of params, "
        f"{format_share(total.pointwise_macs, total.macs)} of MACs",
    ]
