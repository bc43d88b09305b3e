"""An audit in the form of `keras.Model.summary()`: the same arguments, plus MACs and the roles of 1x1 layers."""

import io
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin.audit.records import AuditRow
from keras_nin.audit.tables import format_shape, pointwise_line
from keras_nin.errors import expected_error
from keras_nin.formatting import escape_unprintable, fit_encoding, format_bytes, format_count

if TYPE_CHECKING:
    from keras_nin.audit.api import Audit

_HEADINGS = ("Layer (type)", "Output Shape", "Param #", "MACs", "1x1")
_RIGHT_ALIGNED = ("Param #", "MACs")
_MAX_LINE = 108
_MARGIN = 4
_MIN_NAME = 10
_Entry = tuple[str, list[tuple[str, ...]]]  # a name and its lines
_FRAME = 1  # characters of a column that its frame takes, besides a space on each side


def print_summary(
    self: "Audit",
    line_length: int | None = None,
    positions: Sequence[float] | None = None,
    print_fn: Callable[[str], object] | None = None,
    expand_nested: bool = False,
    show_trainable: bool = False,
    layer_range: Sequence[str] | None = None,
) -> None:
    """Print the audit as `keras.Model.summary()` prints a model; the arguments are that method's, in its order.

    A nested model is one line with its sums unless `expand_nested`. The totals are of the network's weights, never of
    an optimizer's. `1x1` is the role of a 1x1 layer; a separable convolution is two lines.

    Args:
        line_length: characters in a line; None takes 108, or the terminal's width if that is less.
        positions: where each column ends: shares of 1 or characters, rising; None fits the columns to their content.
        print_fn: called with each line; None prints them.
        expand_nested: show the layers of nested models below them.
        show_trainable: add a column with Y, N, or - if there are no weights.
        layer_range: two regular expressions: the names of the first and the last layer to show.

    Raises:
        InputError: an invalid argument, or a line that is too short for the numbers.
    """
    if line_length is not None and (type(line_length) is not int or line_length <= 0):
        raise expected_error("line_length", "to be a positive whole number or None", line_length)
    if print_fn is not None and not callable(print_fn):
        raise expected_error("print_fn", "to be a function of one line", print_fn)
    headings = (*_HEADINGS, "Trainable") if show_trainable else _HEADINGS
    entries = _select_range(_summary_entries(self.rows, "", show_trainable), layer_range)
    shown = (line for _, lines in entries for line in (lines if expand_nested else lines[:1]))
    rows = [[escape_unprintable(cell) for cell in cells] for cells in shown]
    default = shutil.get_terminal_size().columns - _MARGIN if print_fn is None and sys.stdout.isatty() else _MAX_LINE
    length = line_length or min(_MAX_LINE, default)
    widths = _column_widths(headings, rows, length, positions, is_fixed=line_length is not None)
    name, total = escape_unprintable(self.model), self.total
    unknown = f", without {format_count(len(self.unknown), 'layer')} with unknown MACs" if self.unknown else ""
    totals = (
        f" Total params: {total.params:,} ({format_bytes(total.weight_bytes)})",
        f" Trainable params: {total.trainable_params:,}",
        f" Non-trainable params: {total.non_trainable_params:,}",
        f" Total MACs: {total.macs:,}{unknown}",
        f" {pointwise_line(total)}",
    )
    text = "\n".join([f'Model: "{name}"', _draw_table(headings, rows, widths), *totals])
    if print_fn is None:
        print_fn, text = print, fit_encoding(text, getattr(sys.stdout, "encoding", None) or "utf-8")
    for line in text.splitlines():
        print_fn(line)


def _summary_entries(rows: Sequence[AuditRow], scope: str, show_trainable: bool, level: int = 0) -> list[_Entry]:
    """Return the names directly in `scope`, each with its line, and below it those of a nested model's layers."""
    groups: dict[tuple[str, bool], list[AuditRow]] = {}
    for row in rows:
        nested = f"{row.scope}/".removeprefix(scope) if row.scope else ""
        name = (nested.split("/")[0], True) if nested else (row.name.removeprefix(scope), False)
        groups.setdefault(name, []).append(row)
    entries = []
    for (name, is_nested), members in groups.items():
        last, macs = members[-1], [row.macs for row in members]
        params, trainable = sum(row.params for row in members), sum(row.trainable_params for row in members)
        line = (
            f"{'   ' * level}{'└ ' if level else ''}{name} "
            f"({f'nested, {len(members):,} layers' if is_nested else last.type})",
            format_shape(last.output_shape) if last.output_shape else "?",
            f"{params:,}",
            "unknown" if None in macs else f"{sum(filter(None, macs)):,}",
            "" if is_nested else last.role or "",
            *(["Y" if trainable else "N" if params else "-"] if show_trainable else []),
        )
        inner = _summary_entries(members, f"{scope}{name}/", show_trainable, level + 1) if is_nested else []
        entries.append((name, [line, *(below for _, lines in inner for below in lines)]))
    return entries


def _select_range(entries: list[_Entry], layer_range: Any) -> list[_Entry]:
    if layer_range is None:
        return entries
    is_sequence = isinstance(layer_range, (list, tuple)) and len(layer_range) == 2
    if not is_sequence or not all(isinstance(name, str) for name in layer_range):
        raise expected_error("layer_range", "to be two names of layers", layer_range)
    try:
        ends = [[at for at, (name, _) in enumerate(entries) if re.match(end, name)] for end in layer_range]
    except re.error:
        raise expected_error("layer_range", "to hold two regular expressions", layer_range) from None
    if not all(ends):
        raise expected_error("layer_range", "to name layers of the network", layer_range)
    first, last = ends if min(ends[0]) <= max(ends[1]) else reversed(ends)  # as in Keras, whichever end comes first
    return entries[min(first) : max(last) + 1]


def _column_widths(
    headings: Sequence[str], rows: Sequence[Sequence[str]], length: int, positions: Any, is_fixed: bool
) -> list[int]:
    """Return the characters that each column has for its text."""
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
        if spare < 0 and not is_fixed:
            return widths
        widths[0] += max(spare, 0)
    short = [heading for heading, width, need in zip(headings, widths, least, strict=True) if width < need]
    if short or sum(widths) + frames > length:
        room = f"{sum(least) + frames} characters at least, in {', '.join(short or headings)}"
        raise expected_error("line_length", f"and `positions` to leave room for every number, {room}", length)
    return widths


def _widths_from_positions(headings: Sequence[str], positions: Any, length: int) -> list[int]:
    are_numbers = isinstance(positions, (list, tuple)) and all(
        isinstance(end, (int, float)) and not isinstance(end, bool) for end in positions
    )
    is_rising = are_numbers and all(0 <= low < high for low, high in zip((0, *positions), positions, strict=False))
    if not is_rising or len(positions) != len(headings):
        expected = f"to be {len(headings)} rising numbers, the ends of {', '.join(headings)}"
        raise expected_error("positions", expected, positions)
    ends = [int(end * length) if positions[-1] <= 1 else int(end) for end in positions]
    # A column holds a space on each side and its share of the frame; the last one closes the table.
    widths = [end - start - 3 for start, end in zip((0, *ends), ends, strict=False)]
    return [*widths[:-1], widths[-1] - _FRAME]


def _draw_table(headings: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
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
