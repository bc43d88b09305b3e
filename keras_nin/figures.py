"""One style for all matplotlib figures, and their files: byte-stable, and without pyplot's global state."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT = "#1f2328"
MUTED = "#59636e"
GRID = "#d8dee4"
NARROW = 4.4  # inches: readable on the width of a phone

_STYLE: Any = {
    "text.parse_math": False,  # names come from files: "$" is a character like any other
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": TEXT,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": TEXT,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",  # the same on a machine without the font
    "svg.hashsalt": "keras-nin",
}


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """Let matplotlib draw in the project's style while the block runs, whatever its user has configured."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of that size in inches, with constrained layout; call it inside `figure_style`."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def render_png(figure: "Figure") -> bytes:
    """Return a figure as a PNG file."""
    return _render(figure, format="png", dpi=160, metadata={"Software": None})


def render_svg(figure: "Figure") -> bytes:
    """Return a figure as an SVG file, text as paths."""
    return _render(figure, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))


def _render(figure: "Figure", **options: Any) -> bytes:
    out = io.BytesIO()
    with figure_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in a script that the font lacks
        figure.savefig(out, facecolor="white", **options)
    return out.getvalue()
