"""What a report's HTML page is built from: sections of tables, bars, pictures, lists and paragraphs. No markup."""

import base64
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from keras_nin import figures
from keras_nin.plots import LayerStyle

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class HtmlTable:
    """A table.

    Attributes:
        label: caption, also for screen readers.
        columns: headings.
        numeric: for each column, whether it holds numbers.
        rows: cells as text.
        folded: text of the line that unfolds the table; None shows it at once.
    """

    label: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: str | None = None

    part: ClassVar = "table"


@dataclass(frozen=True)
class Bar:
    """A bar: its name, the label and key of its style, its length from 0 to 1, its value, and a detail."""

    name: str
    label: str
    key: str
    length: float
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Bars:
    """Bars with their legend."""

    label: str
    bars: tuple[Bar, ...]
    legend: tuple[LayerStyle, ...]
    folded: str | None = None

    part: ClassVar = "bars"


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, with its alternative text; a `wide` one scrolls where there is no room for it."""

    uri: str
    alt: str
    wide: bool = False

    part: ClassVar = "picture"


@dataclass(frozen=True)
class ItemList:
    """A list of (heading, text)."""

    items: tuple[tuple[str, str], ...]

    part: ClassVar = "items"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `tone` is "note" (small), "plain", "good" or "bad"."""

    text: str
    tone: str = "note"

    part: ClassVar = "line"


Part: TypeAlias = HtmlTable | Bars | Picture | ItemList | Paragraph


@dataclass(frozen=True)
class Section:
    """A section: an id for links, a title, its parts, inner sections, and labels that a reader must not miss."""

    id: str
    title: str
    parts: tuple[Part, ...] = ()
    sections: "tuple[Section, ...]" = ()
    labels: tuple[str, ...] = ()


def make_table(
    label: str,
    columns: Sequence[str],
    rows: Iterable[Iterable[str]],
    *,
    right: Collection[str] = (),
    folded: str | None = None,
) -> HtmlTable:
    """Return a table; `right` has the headings of its columns of numbers."""
    numeric = tuple(column in right for column in columns)
    return HtmlTable(label, tuple(columns), numeric, tuple(map(tuple, rows)), folded)


def svg_picture(figure: "Figure", alt: str) -> Picture:
    """Return a figure as a picture that scales to its column."""
    return Picture(_data_uri("svg+xml", figures.render_svg(figure)), alt)


def png_picture(figure: "Figure", alt: str) -> Picture:
    """Return a figure that is wider than a phone as a picture."""
    return Picture(_data_uri("png", figures.render_png(figure)), alt, wide=True)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
