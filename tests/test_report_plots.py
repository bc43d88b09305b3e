"""The plots of a profile: what is drawn is what was measured."""

import dataclasses
import io
import warnings

import numpy as np
import pytest
import report_profiles
from matplotlib.colors import to_hex
from PIL import Image

from keras_nin import figures
from keras_nin import plots as plots_module
from keras_nin.benchmark import layer_times
from keras_nin.plots import latency

PROFILE = report_profiles.profile(peaks=report_profiles.PEAKS)
ODD = report_profiles.audit(names=("<script>alert(1)</script>", "$\\frac{1}{", "名前", "\x1b[31m\ud800", "n" * 300))


def bars(axes):
    return [(to_hex(bar.get_facecolor()), bar.get_width()) for bar in axes.patches]


def words(figure):
    """All text of a figure, its legends too."""
    from matplotlib.text import Text

    return [each.get_text() for each in figure.findobj(Text)]


def test_each_layer_has_a_bar_of_its_time_in_the_colour_of_its_kind_and_role():
    (axes,) = latency.plot_layer_times(PROFILE).axes
    expected = [(plots_module.layer_style(layer.kind, layer.role).colour, layer.us.typical) for layer in PROFILE.layers]
    assert bars(axes) == [*expected, (plots_module.OVERHEAD_STYLE.colour, PROFILE.overhead_us)]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [*(layer.name for layer in PROFILE.layers), "runtime overhead"]


def test_the_first_layer_is_on_top_and_all_have_room():
    rows = report_profiles.audit().rows * 20
    figure = latency.plot_layer_times(report_profiles.profile(rows=rows))
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert low > high
    picture = Image.open(io.BytesIO(figures.render_png(figure)))
    assert picture.height > 25 * len(rows)  # pixels for each, of letters 8 points high
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(below.y1 <= above.y0 + 0.5 for above, below in zip(boxes, boxes[1:], strict=False))


def test_a_layer_without_a_time_is_named_and_has_no_bar():
    layers = (dataclasses.replace(PROFILE.layers[0], us=None, share=None), *PROFILE.layers[1:])
    figure = latency.plot_layer_times(dataclasses.replace(PROFILE, layers=layers))
    assert bars(figure.axes[0])[0][1] == 0
    assert " no time" in words(figure)


def test_shares_are_those_of_the_subtotals():
    (axes,) = latency.plot_kind_shares(PROFILE).axes
    sums = layer_times.sum_by_role(PROFILE)
    macs = sum(each.macs for each in sums)
    widths = [width for _, width in bars(axes)]
    assert widths[::2] == pytest.approx([100 * each.share for each in sums])
    assert widths[1::2] == pytest.approx([100 * each.macs / macs for each in sums])
    assert sum(widths[::2]) == pytest.approx(100)
    assert [label.get_text() for label in axes.get_yticklabels()] == [each.name for each in sums]


def test_the_roofline_has_its_roof_and_each_layer_below_it():
    (axes,) = latency.plot_roofline(PROFILE).axes
    layers = [layer for layer in PROFILE.layers if layer.macs]
    points = [tuple(mark.get_offsets()[0]) for mark in axes.collections]
    np.testing.assert_allclose(points, [(layer.macs / layer.bytes, layer.gmacs_per_s) for layer in layers])
    (roof,) = [line for line in axes.lines if len(line.get_xdata()) == 3]
    xs, ys = roof.get_data()
    assert max(ys) == 200.0
    assert ys[0] == pytest.approx(12.0 * xs[0])
    assert all(y <= min(200.0, 12.0 * x) for x, y in points)
    assert xs[0] < 200.0 / 12.0 == xs[1] < xs[2]  # the ridge is in view
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert all(low < x < high and bottom < y < top for x, y in points)


def test_marks_tell_the_roles_of_1x1_apart():
    looks = [plots_module.layer_style("pointwise", role) for role in ("reduce", "expand", "mix", "projection", "head")]
    looks.append(plots_module.layer_style("spatial"))
    assert len({look.marker for look in looks}) == len({look.colour for look in looks}) == 6


def test_no_roofline_without_peaks():
    assert latency.plot_roofline(report_profiles.profile()) is None


def test_every_figure_says_host_threads_and_runs():
    for draw in (latency.plot_layer_times, latency.plot_kind_shares, latency.plot_roofline):
        line = " ".join(draw(PROFILE).get_supxlabel().split())
        assert "500 runs on 1 thread, batch 1; Test CPU, 2 cores" in line


@pytest.mark.parametrize("draw", [latency.plot_layer_times, latency.plot_kind_shares, latency.plot_roofline])
def test_names_of_files_are_drawn_as_they_are_and_nothing_is_said_on_the_side(draw):
    profile = report_profiles.profile(file="$x$ <b>.tflite", rows=ODD.rows, peaks=report_profiles.PEAKS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = figures.render_svg(draw(profile))
    assert b"<script" not in content


def test_the_same_profile_gives_the_same_bytes_whatever_the_user_has_configured():
    import matplotlib

    first = figures.render_png(latency.plot_kind_shares(PROFILE)), figures.render_svg(latency.plot_roofline(PROFILE))
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": None}):
        assert (
            figures.render_png(latency.plot_kind_shares(PROFILE)),
            figures.render_svg(latency.plot_roofline(PROFILE)),
        ) == first
        assert matplotlib.rcParams["font.size"] == 20


def test_pyplot_is_not_used():
    import subprocess
    import sys

    code = (
        "import sys; sys.path.insert(0, 'tests'); import report_profiles\n"
        "from keras_nin import figures; from keras_nin.report import plots\n"
        "figures.png(plots.shares(report_profiles.profile()))\n"
        "print({'matplotlib.pyplot', 'keras', 'tensorflow'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "length", "shown"),
    [("short", 5, "short"), ("abcdefghij", 7, "abc…hij"), ("a\tb", 10, "a\\tb"), ("", 5, "")],
)
def test_long_names_lose_their_middle(name, length, shown):
    assert figures.shorten(name, length) == shown
