"""How the kinds of layers look, in plots and pages alike: colour, marker, word.

1x1 layers are blue, from dark to light with their role, and teal and violet at the ends of paths; others are warm or
grey. The colours differ in lightness too, so that they are told apart without colour vision and on paper.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
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


_ROLES = {
    "reduce": Look("reduce", "1x1 reduce", "#08306b", "#7f9fd6", "v"),
    "expand": Look("expand", "1x1 expand", "#2171b5", "#4292d8", "^"),
    "mix": Look("mix", "1x1 mix", "#5ba8dd", "#9ccbf0", "D"),
    "projection": Look("projection", "1x1 projection", "#12897b", "#3fb8a8", "P"),
    "head": Look("head", "1x1 head", "#6a3d9a", "#b08fd8", "*"),
}
_POINTWISE = Look("pointwise", "1x1", "#2171b5", "#4292d8", "^")
_KINDS = {
    "spatial": Look("spatial", "spatial", "#e08214", "#f0a030", "o"),
    "depthwise": Look("depthwise", "depthwise", "#8c510a", "#c98a45", "s"),
    "dense": Look("dense", "dense", "#b2182b", "#e8707c", "X"),
    "pool": Look("pool", "pool", "#595959", "#8e8e8e", "."),
    "merge": Look("merge", "merge", "#808080", "#b0b0b0", "."),
}
_OTHER = Look("other", "other", "#a6a6a6", "#d0d0d0", ".")
OVERHEAD = Look("overhead", "runtime overhead", "#c9c9c9", "#5c5c5c", ".")

LOOKS = (*_ROLES.values(), _POINTWISE, *_KINDS.values(), _OTHER, OVERHEAD)


def look(kind, role=None):
    """Return the `Look` of a layer by its kind and role, as the audit has them; "other" for kinds without their own."""
    if kind == "pointwise":
        return _ROLES.get(role, _POINTWISE)
    return _KINDS.get(kind, _OTHER)


def named(label):
    """Return the `Look` of a `keras_nin.benchmark.subtotals.Subtotal` by its name."""
    return next((each for each in LOOKS if each.label == label), _POINTWISE if label.startswith("1x1") else _OTHER)


def legend(layers):
    """Return the `Look`s that occur among `layers` (anything with `kind` and `role`), in a fixed order."""
    used = {look(layer.kind, layer.role) for layer in layers}
    return [each for each in LOOKS if each in used]
