"""Which columns of a table fit a terminal, and how wide each may be."""

from dataclasses import dataclass

from keras_nin.audit.render.columns import Column

GAP = 1
_NAME_PART = 3 / 8  # of the width: a name is folded below that only when no other column is left to give way
_SHORTEST_NAME = 8
_LONGEST_BAR, _SHORTEST_BAR = 16, 4
BARS = "bars"  # in the order of what is left out


@dataclass(frozen=True)
class Layout:
    """The columns that fit, their widths in characters, the length of the bars (0: none), and what found no room."""

    columns: tuple[Column, ...]
    widths: tuple[int, ...]
    bar: int
    dropped: tuple[Column, ...]

    @property
    def width(self):
        """Characters in a line."""
        return sum(self.widths) + GAP * (len(self.widths) - 1)


def fit(columns, cells, width, order):
    """Return the `Layout` of a table in `width` characters; wider where not even the numbers fit.

    Args:
        columns: the `Column`s wanted.
        cells: a list of texts for each line.
        width: of the terminal.
        order: keys of the columns that may be left out, the first to go first; `BARS` among them for the bars.
    """
    texts = {column.key: [line[index] for line in cells] for index, column in enumerate(columns)}
    wanted = {column.key: _longest(column, texts[column.key]) for column in columns}
    least = {column.key: _least(column, texts[column.key], wanted[column.key], width) for column in columns}
    shown, bar = _that_fit(columns, least, width, order)
    spare = width - _needed(shown, least, bar)
    if spare < 0 and "name" in least:
        least["name"] = max(min(least["name"], _SHORTEST_NAME), least["name"] + spare)
    widths, spare = _widened(shown, least, wanted, max(spare, 0))
    if bar:
        bar = min(_LONGEST_BAR, bar + spare // sum(column.is_share for column in shown))
        widths = [size + (bar + GAP) * column.is_share for column, size in zip(shown, widths, strict=True)]
    dropped = tuple(column for column in columns if column not in shown)
    return Layout(tuple(shown), tuple(widths), bar, dropped)


def _longest(column, texts):
    from rich.cells import cell_len

    return max(_heading_width(column.heading.split()), max(map(cell_len, texts), default=0))


def _heading_width(words):
    """The least width at which a heading takes no more than two lines."""
    return min(max(len(" ".join(words[:at])), len(" ".join(words[at:]))) for at in range(1, len(words) + 1))


def _least(column, texts, wanted, width):
    """The least width: a number stays in one piece, and so does each word and each shape of other text."""
    if column.key == "name":
        return min(wanted, max(_SHORTEST_NAME, int(width * _NAME_PART)))
    return wanted if column.numeric else _longest(column, [word for text in texts for word in text.split()])


def _needed(columns, widths, bar):
    bars = (bar + GAP) * sum(column.is_share for column in columns) if bar else 0
    return sum(widths[column.key] for column in columns) + GAP * (len(columns) - 1) + bars


def _that_fit(columns, least, width, order):
    shown = list(columns)
    bar = _SHORTEST_BAR if any(column.is_share for column in columns) else 0
    for key in order:
        if _needed(shown, least, bar) <= width:
            break
        shown = [column for column in shown if column.key != key]
        bar = 0 if key == BARS or not any(column.is_share for column in shown) else bar
    return shown, bar


def _widened(columns, least, wanted, spare):
    """The widths with `spare` characters given to what wants more, from the left, and what is left of them."""
    widths = []
    for column in columns:
        more = min(spare, wanted[column.key] - least[column.key])
        widths.append(least[column.key] + more)
        spare -= more
    return widths, spare
