"""One style for all matplotlib figures, and their files: byte-stable, and without pyplot's global state."""

import contextlib
import io
import pathlib
import tomllib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE: Any = tomllib.loads(pathlib.Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
TEXT, MUTED, GRID = _STYLE["text.color"], _STYLE["xtick.color"], _STYLE["grid.color"]


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """Let matplotlib draw in the project's style while the block runs, whatever its user has configured."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


@contextlib.contextmanager
def new_figure(width: float, height: float) -> "Iterator[Figure]":
    """Yield an empty figure of that size in inches, with constrained layout, to be drawn while the block runs."""
    from matplotlib.figure import Figure

    with figure_style():
        yield Figure((width, height), layout="constrained")


def render_png(figure: "Figure") -> bytes:
    """Return a figure as a PNG file."""
    return _render(figure, format="png", dpi=160, facecolor="white", metadata={"Software": None})


def render_svg(figure: "Figure") -> str:
    """Return a figure as an SVG file without background, text as text."""
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    return _render(figure, format="svg", facecolor="none", metadata=metadata).decode()


def _render(figure: "Figure", **options: Any) -> bytes:
    out = io.BytesIO()
    with figure_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in a script that the font lacks
        figure.savefig(out, **options)
    return out.getvalue()
