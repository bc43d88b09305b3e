"""The maps of the soft mask as a picture: what goes in, 32 maps with their weights, and the one map they add up to."""

import numpy as np

from keras_nin import figures
from keras_nin.claims.softconv import SEED

_COLUMNS = 8
_POSITIVE, _NEGATIVE = "#2171b5", "#b35806"
TRAINING = (
    f"The network is not trained: its weights are random (seed {SEED}). What the mask lights up is chance; that one "
    "weighted sum pools 32 maps into one that can be looked at is not."
)


def png(seen):
    """Return the picture of `seen` (`keras_nin.claims.softconv.Maps`) as the bytes of a PNG file."""
    return figures.png(draw(seen))


def draw(seen):
    """Return the picture of `seen` as a matplotlib `Figure`.

    From left to right: the photograph and the network's input; the maps of the 3x3 layer, all on one scale of grey, in
    the order of their weights in the 1x1 layer, which stand above them; the mask on its own scale. Below: what the
    network was trained on.
    """
    order = np.argsort(-seen.weights, kind="stable")
    rows = -(-len(order) // _COLUMNS)
    with figures.styled():
        made = figures.figure(15, 5.6)
        inputs, middle, right = made.subfigures(1, 3, width_ratios=(2.2, 8.4, 4.2))
        _draw_inputs(inputs, seen)
        for axes, index in zip(middle.subplots(rows, _COLUMNS, squeeze=False).flat, order, strict=False):
            _draw_map(axes, seen.maps[..., index], seen.weights[index])
        for axes in middle.axes[len(order) :]:
            axes.set_axis_off()
        middle.suptitle(f"{len(order)} maps of the 3x3 layer (tanh, black -1, white 1) and their 1x1 weights")
        _draw_mask(right, seen)
        made.supxlabel(TRAINING, fontsize=11, color=figures.TEXT)
    return made


def _draw_inputs(part, seen):
    height, width, _ = seen.image.shape
    top, below = part.subplots(2, 1)
    _show(top, seen.photograph, f"photograph:\n{figures.shortened(seen.name, 30)}", 9)
    _show(below, seen.image, f"input, {height}x{width}x3", 9)


def _draw_map(axes, values, weight):
    _show(axes, values, f"{weight:+.3f}", 11, cmap="gray", vmin=-1, vmax=1)
    axes.title.set_color(_POSITIVE if weight > 0 else _NEGATIVE)


def _draw_mask(part, seen):
    axes = part.subplots()
    shown = _show(axes, seen.mask, "", 11, cmap="gray")
    part.colorbar(shown, ax=axes, location="bottom", shrink=0.8, aspect=30, pad=0.02)
    sign = "-" if seen.bias < 0 else "+"
    part.suptitle(f"mask = sigmoid(sum of weight x map {sign} {abs(seen.bias):.3f})")


def _show(axes, pixels, title, size, **options):
    axes.set_axis_off()
    axes.set_title(title, fontsize=size, loc="center", weight="normal", pad=3)
    return axes.imshow(pixels, interpolation="nearest", **options)
