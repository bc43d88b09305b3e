"""Figures of results, and how the kinds of layers look in them and in the HTML report: color, marker, word.

1x1 layers are blue, from dark to light by role, and teal and violet at the ends of branches; others are warm colors or
gray. The colors also differ in lightness, so that they can be told apart on paper and without color vision.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class KindAndRole(Protocol):
    """A layer with the `kind` and 1x1 `role` of the audit."""

    @property
    def kind(self) -> str: ...
    @property
    def role(self) -> str | None: ...


@dataclass(frozen=True)
class LayerStyle:
    """How a group of layers looks: a CSS class, the text in legends, #rrggbb on white and on dark, the marker."""

    key: str
    label: str
    color: str
    dark_color: str
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


def layer_style(kind: str, role: str | None = None) -> LayerStyle:
    """Return the style of a layer by the audit's kind and role; "other" for kinds without a style of their own."""
    if kind == "pointwise":
        return _ROLE_STYLES.get(role or "", _POINTWISE_STYLE)
    return _KIND_STYLES.get(kind, _OTHER_STYLE)


def group_style(label: str) -> LayerStyle:
    """Return the style of a group of layers by its name, such as ``"1x1 reduce"`` or ``"spatial"``."""
    fallback = _POINTWISE_STYLE if label.startswith("1x1") else _OTHER_STYLE
    return next((style for style in LAYER_STYLES if style.label == label), fallback)


def used_styles(layers: Iterable[KindAndRole]) -> list[LayerStyle]:
    """Return the styles that occur among `layers`, in a fixed order."""
    used = {layer_style(layer.kind, layer.role) for layer in layers}
    return [style for style in LAYER_STYLES if style in used]
