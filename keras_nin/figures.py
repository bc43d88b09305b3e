"""One look for all matplotlib figures, and their bytes: the same for the same figure, without pyplot's global state."""

import contextlib
import io
import warnings

from keras_nin.formatting import shorten as shorten

TEXT = "#1f2328"
MUTED = "#59636e"
GRID = "#d8dee4"

NARROW = 4.4  # inches that fill a phone with letters of a readable size

_RC = {
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
_DPI = 160
_NO_DATE = {"Date": None, "Creator": None, "Format": None, "Type": None}


@contextlib.contextmanager
def figure_style():
    """Let matplotlib draw in the project's look while the block runs, whatever its user has configured."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def new_figure(width, height):
    """Return an empty `Figure` of so many inches, its parts laid out without overlap; call it inside `styled`."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def render_png(made):
    """Return a figure as the bytes of a PNG file."""
    return _render(made, format="png", dpi=_DPI, metadata={"Software": None})


def render_svg(made):
    """Return a figure as the bytes of an SVG file, letters as shapes."""
    return _render(made, format="svg", metadata=_NO_DATE)


def _render(made, **options):
    out = io.BytesIO()
    with figure_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in a script that the font lacks
        made.savefig(out, facecolor="white", **options)
    return out.getvalue()
