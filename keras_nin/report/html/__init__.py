"""What a page is built from: sections of tables, bars, pictures, lists and lines. Plain records, no markup."""

import base64
from dataclasses import dataclass

from keras_nin import figures


@dataclass(frozen=True)
class HtmlTable:
    """A table: headings, whether each holds numbers, rows of text, and a word for those who do not see it.

    `folded` is the line under which it is folded away at first; None leaves it open.
    """

    label: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: str | None = None

    part = "table"


@dataclass(frozen=True)
class Bar:
    """A bar: its name, the word and the key of its `Look`, its length from 0 to 1, its value, and more on it."""

    name: str
    word: str
    key: str
    length: float
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Bars:
    """Bars with their legend (`Look`s)."""

    label: str
    bars: tuple[Bar, ...]
    legend: tuple
    folded: str | None = None

    part = "bars"


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, with the words that stand for it; a `wide` one scrolls where it has no room."""

    uri: str
    alt: str
    wide: bool = False

    part = "picture"


@dataclass(frozen=True)
class ItemList:
    """A list: (heading, text) of each item."""

    items: tuple[tuple[str, str], ...]

    part = "items"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `tone` is "note" (small), "good" or "bad"."""

    text: str
    tone: str = "note"

    part = "line"


@dataclass(frozen=True)
class Section:
    """A section: a name for links, a title, labels that must be seen, parts, and sections inside it."""

    id: str
    title: str
    parts: tuple = ()
    sections: tuple = ()
    labels: tuple[str, ...] = ()


def figure_picture(made, alt):
    """Return a matplotlib figure as a `Picture`."""
    return Picture(_data_uri("svg+xml", figures.render_svg(made)), alt)


def png_picture(content, alt):
    """Return the bytes of a PNG file, wider than a phone, as a `Picture`."""
    return Picture(_data_uri("png", content), alt, wide=True)


def _data_uri(kind, content):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def make_table(label, columns, rows, *, right=(), folded=None):
    """Return a `Table`; `right` names the columns of numbers."""
    numeric = tuple(column in right for column in columns)
    return HtmlTable(label, tuple(columns), numeric, tuple(map(tuple, rows)), folded)
