"""Figures show what was measured."""

import dataclasses
import subprocess
import sys
import warnings

import numpy as np
import pytest
import report_profiles
import target_documents
from matplotlib.colors import to_hex
from matplotlib.text import Text

from keras_nin import claims, figures, plots
from keras_nin.benchmark.layer_times import sum_by_role
from keras_nin.benchmark.roofline import compute_efficiency
from keras_nin.benchmark.sweep_results import AlignmentCost, ConvLayer, KernelRatio, SweepPoint
from keras_nin.plots import latency, sweeps

PROFILE = report_profiles.profile(peaks=report_profiles.PEAKS)
SUBTOTALS, EFFICIENCIES = sum_by_role(PROFILE), compute_efficiency(PROFILE)
ODD_NAMES = ("<script>alert(1)</script>", "$\\frac{1}{", "名前", "\x1b[31m\ud800", "n" * 300)


def draw_all(profile):
    """The three figures of a profile."""
    return (
        latency.plot_layer_times(profile),
        latency.plot_kind_shares(profile, sum_by_role(profile)),
        latency.plot_roofline(profile, compute_efficiency(profile)),
    )


def bars(axes):
    return [(to_hex(bar.get_facecolor()), bar.get_width()) for bar in axes.patches]


def test_each_layer_has_a_bar_of_its_time_in_the_color_of_its_kind_and_role():
    (axes,) = latency.plot_layer_times(PROFILE).axes
    expected = [(plots.layer_style(layer.kind, layer.role).color, layer.us.typical) for layer in PROFILE.layers]
    assert bars(axes) == [*expected, (plots.OVERHEAD_STYLE.color, PROFILE.overhead_us)]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [*(layer.name for layer in PROFILE.layers), "runtime overhead"]


def test_the_first_of_many_layers_is_on_top_and_labels_do_not_overlap():
    figure = latency.plot_layer_times(report_profiles.profile(rows=report_profiles.audit().rows * 5))
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert low > high
    assert figure.get_figheight() > 0.16 * 30
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(below.y1 <= above.y0 + 0.5 for above, below in zip(boxes, boxes[1:], strict=False))


def test_a_layer_without_a_time_is_named_and_has_no_bar():
    layers = (dataclasses.replace(PROFILE.layers[0], us=None, share=None), *PROFILE.layers[1:])
    figure = latency.plot_layer_times(dataclasses.replace(PROFILE, layers=layers))
    assert bars(figure.axes[0])[0][1] == 0
    assert " not measured" in [text.get_text() for text in figure.findobj(Text)]


def test_shares_are_those_of_the_subtotals():
    (axes,) = latency.plot_kind_shares(PROFILE, SUBTOTALS).axes
    macs = sum(subtotal.macs for subtotal in SUBTOTALS)
    widths = [width for _, width in bars(axes)]
    assert widths[::2] == pytest.approx([100 * subtotal.share for subtotal in SUBTOTALS])
    assert widths[1::2] == pytest.approx([100 * subtotal.macs / macs for subtotal in SUBTOTALS])
    assert sum(widths[::2]) == pytest.approx(100)
    assert [label.get_text() for label in axes.get_yticklabels()] == [subtotal.name for subtotal in SUBTOTALS]


def test_the_roofline_has_its_roof_and_each_layer_below_it():
    (axes,) = latency.plot_roofline(PROFILE, EFFICIENCIES).axes
    layers = [layer for layer in PROFILE.layers if layer.macs]
    points = [tuple(marker.get_offsets()[0]) for marker in axes.collections]
    np.testing.assert_allclose(points, [(layer.macs / layer.bytes, layer.gmacs_per_s) for layer in layers])
    (roof,) = [line for line in axes.lines if len(line.get_xdata()) == 3]
    xs, ys = roof.get_data()
    assert max(ys) == 200.0
    assert ys[0] == pytest.approx(12.0 * xs[0])
    assert all(y <= min(200.0, 12.0 * x) for x, y in points)
    assert xs[0] < 200.0 / 12.0 == xs[1] < xs[2]  # the ridge is in view
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert all(low < x < high and bottom < y < top for x, y in points)


def test_markers_and_colors_tell_the_roles_of_1x1_layers_apart():
    styles = [plots.layer_style("pointwise", role) for role in ("reduce", "expand", "mix", "projection", "head")]
    styles.append(plots.layer_style("spatial"))
    assert len({style.marker for style in styles}) == len({style.color for style in styles}) == 6
    assert plots.group_style("1x1 reduce") == styles[0]
    assert plots.layer_style("reshape") == plots.group_style("anything") == plots.layer_style("other")


def test_every_figure_has_its_conditions_and_takes_names_as_they_are():
    rows = report_profiles.audit(names=ODD_NAMES).rows
    profile = report_profiles.profile(file="$x$ <b>.tflite", rows=rows, peaks=report_profiles.PEAKS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in draw_all(profile):
            assert "<script" not in figures.render_svg(figure)
            line = " ".join(figure.get_supxlabel().split())
            assert "500 runs on 1 thread, batch 1; Test CPU, 2 cores" in line


def test_the_same_profile_gives_the_same_bytes_whatever_the_user_has_configured():
    import matplotlib

    def render():
        figure = latency.plot_kind_shares(PROFILE, SUBTOTALS)
        return figures.render_png(figure), figures.render_svg(figure)

    first = render()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": None}):
        assert render() == first
        assert matplotlib.rcParams["font.size"] == 20


@pytest.mark.slow
def test_pyplot_is_not_used():
    code = (
        "import sys; sys.path.insert(0, 'tests'); import report_profiles\n"
        "from keras_nin import figures; from keras_nin.plots import latency\n"
        "figures.render_png(latency.plot_layer_times(report_profiles.profile()))\n"
        "print({'matplotlib.pyplot', 'keras', 'tensorflow'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def point(cout=64, kernel=1, threads=1):
    return SweepPoint(ConvLayer(14, 64, cout, kernel), "int8", threads)


def test_a_sweep_shows_every_ratio():
    host = {"cpu": "a processor", "cores": 2}
    ratios = [KernelRatio(point(kernel=3), 9, 8.0, 7.5), KernelRatio(point(kernel=5, threads=2), 25, None, 24.0)]
    costs = [AlignmentCost(point(cout=63), "cout", 63, 64, 1.1)]
    figure = sweeps.plot_layer_sweep(ratios, costs, host)
    shown = [line.get_ydata()[0] for axes in figure.axes for line in axes.lines if line.get_linestyle() == "None"]
    assert shown == [8.0, 24.0, 1.1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "int8, 1 thread",
        "int8, 2 threads",
    ]
    assert figure.get_suptitle() == "a processor, 2 cores"
    empty = sweeps.plot_layer_sweep([], [], host)
    assert [len(axes.lines) for axes in empty.axes] == [0, 0]
    assert not empty.legends


@pytest.mark.slow
def test_a_legend_covers_neither_points_nor_text():
    ratios = [KernelRatio(point(kernel=kernel), kernel**2, time, time) for kernel, time in ((3, 8.0), (5, 24.0))]
    sweep = sweeps.plot_layer_sweep(
        ratios, [AlignmentCost(point(cout=63), "cout", 63, 64, 1.1)], {"cpu": "a processor"}
    )
    rows = report_profiles.audit(names=("n" * 60, "m" * 60)).rows
    profile = report_profiles.profile(rows=rows, peaks=report_profiles.PEAKS)
    for figure in (sweep, *draw_all(profile), sweeps.plot_accelerators(target_documents.sweep())):
        figure.draw_without_rendering()
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
        for legend in legends:
            box, inside = legend.get_window_extent(), legend.findobj(Text)
            texts = [text for text in figure.findobj(Text) if text.get_text() and text not in inside]
            shown = [text for text in texts if text.get_visible() and text.get_window_extent().width]
            overlapping = [text.get_text() for text in shown if box.overlaps(text.get_window_extent())]
            assert overlapping == []
            assert figure.bbox.x0 <= box.x0
            assert box.x1 <= figure.bbox.x1 + 1


def test_each_accelerator_has_a_bar_split_by_group():
    result = target_documents.sweep()
    figure = sweeps.plot_accelerators(result)
    (axes,) = figure.axes
    widths = [width for _, width in bars(axes)]
    assert sum(widths) == pytest.approx(sum(estimate.us for estimate in result.estimates) / 1000)
    assert {color for color, _ in bars(axes)} == {plots.group_style("1x1 expand").color}
    assert [label.get_text().split("\n")[0] for label in axes.get_yticklabels()] == ["ethos-u55-128", "ethos-u55-256"]
    assert " 0.00, 50% utilization, 1 on the CPU" in [text.get_text() for text in axes.texts]


@pytest.fixture(scope="module")
def soft_mask():
    return claims.compute_soft_mask()


def images(part):
    """The pixels of each image in a part of a figure, with its title."""
    return [(axes.get_title(), np.asarray(axes.images[0].get_array())) for axes in part.axes if axes.images]


def test_the_soft_mask_is_shown_from_photograph_to_mask(soft_mask):
    figure = soft_mask.plot()
    inputs, maps, mask = map(images, figure.subfigs)
    (title, photograph), (_, image) = inputs
    assert "scikit-learn's china.jpg" in title
    np.testing.assert_array_equal(image, soft_mask.image)
    # The same photograph, only finer: 8x8 pixels for each of the input.
    coarse = photograph.reshape(36, 8, 36, 8, 3).mean((1, 3))
    assert np.corrcoef(coarse.ravel(), image.ravel())[0, 1] > 0.98
    assert [title for title, _ in maps] == [f"{weight:+.3f}" for weight in sorted(soft_mask.weights, reverse=True)]
    for (_, shown), index in zip(maps, np.argsort(-soft_mask.weights, kind="stable"), strict=True):
        np.testing.assert_array_equal(shown, soft_mask.maps[..., index])
    assert {axes.images[0].get_clim() for axes in figure.subfigs[1].axes} == {(-1, 1)}
    shown = next(values for _, values in mask if values.shape == (36, 36))
    weighted_sum = soft_mask.maps @ soft_mask.weights + soft_mask.bias
    np.testing.assert_allclose(shown, 1 / (1 + np.exp(-weighted_sum)), rtol=1e-5)
    assert "not trained: its weights are random (seed 0)" in " ".join(figure.get_supxlabel().split())


@pytest.mark.slow
@pytest.mark.wide
def test_a_mask_that_is_trained_by_a_pulse_finds_the_skin():
    trained = claims.compute_soft_mask(train=True)
    assert trained.skin_auc > 0.9
    note = " ".join(trained.plot().get_supxlabel().split())
    assert note.startswith(f"Trained here, for {trained.steps} steps (seed 0), to find a pulse in synthetic frames")
