"""How the kinds of layers look, in plots and pages alike: colour, marker, word.

1x1 layers are blue, from dark to light with their role, and teal and violet at the ends of paths; others are warm or
grey. The colours differ in lightness too, so that they are told apart without colour vision and on paper.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerStyle:
    """A group of layers that look alike.

    Attributes:
        key: short name, good for a CSS class.
        label: what a legend says.
        colour: on white, dark: on a dark ground, both #rrggbb.
        marker: matplotlib's name of it.
    """

    key: str
    label: str
    colour: str
    dark: str
    marker: str


_ROLE_STYLES = {
    "reduce": LayerStyle("reduce", "1x1 reduce", "#08306b", "#7f9fd6", "v"),
    "expand": LayerStyle("expand", "1x1 expand", "#2171b5", "#4292d8", "^"),
    "mix": LayerStyle("mix", "1x1 mix", "#5ba8dd", "#9ccbf0", "D"),
    "projection": LayerStyle("projection", "1x1 projection", "#12897b", "#3fb8a8", "P"),
    "head": LayerStyle("head", "1x1 head", "#6a3d9a", "#b08fd8", "*"),
}
_POINTWISE_STYLE = LayerStyle("pointwise", "1x1", "#2171b5", "#4292d8", "^")
_KIND_STYLES = {
    "spatial": LayerStyle("spatial", "spatial", "#e08214", "#f0a030", "o"),
    "depthwise": LayerStyle("depthwise", "depthwise", "#8c510a", "#c98a45", "s"),
    "dense": LayerStyle("dense", "dense", "#b2182b", "#e8707c", "X"),
    "pool": LayerStyle("pool", "pool", "#595959", "#8e8e8e", "."),
    "merge": LayerStyle("merge", "merge", "#808080", "#b0b0b0", "."),
}
_OTHER_STYLE = LayerStyle("other", "other", "#a6a6a6", "#d0d0d0", ".")
OVERHEAD_STYLE = LayerStyle("overhead", "runtime overhead", "#c9c9c9", "#5c5c5c", ".")

LAYER_STYLES = (*_ROLE_STYLES.values(), _POINTWISE_STYLE, *_KIND_STYLES.values(), _OTHER_STYLE, OVERHEAD_STYLE)


def layer_style(kind, role=None):
    """Return the `Look` of a layer by its kind and role, as the audit has them; "other" for kinds without their own."""
    if kind == "pointwise":
        return _ROLE_STYLES.get(role, _POINTWISE_STYLE)
    return _KIND_STYLES.get(kind, _OTHER_STYLE)


def group_style(label):
    """Return the `Look` of a `keras_nin.benchmark.layer_times.LatencySubtotal` by its name."""
    return next(
        (each for each in LAYER_STYLES if each.label == label),
        _POINTWISE_STYLE if label.startswith("1x1") else _OTHER_STYLE,
    )


def used_styles(layers):
    """Return the `Look`s that occur among `layers` (anything with `kind` and `role`), in a fixed order."""
    used = {layer_style(layer.kind, layer.role) for layer in layers}
    return [each for each in LAYER_STYLES if each in used]
