"""Figures of results, and how the kinds of layers look in them and in the HTML report: color, marker, word.

1x1 layers are blue, from dark to light by role, and teal and violet at the ends of branches; others are warm colors or
gray. The colors also differ in lightness, so that they can be told apart on paper and without color vision.
"""

import pathlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_nin.audit.records import AuditRow
    from keras_nin.benchmark.records import LayerTime


@dataclass(frozen=True)
class LayerStyle:
    """How a group of layers looks: a CSS class, the text in legends, #rrggbb on white and on dark, the marker."""

    key: str
    label: str
    color: str
    dark_color: str
    marker: str


_STYLES = {
    group: {key: LayerStyle(key, *style) for key, style in styles.items()}
    for group, styles in tomllib.loads(pathlib.Path(__file__).with_name("styles.toml").read_text("utf-8")).items()
}
_ROLE_STYLES, _KIND_STYLES = _STYLES["roles"], _STYLES["kinds"]
_POINTWISE_STYLE, _OTHER_STYLE, OVERHEAD_STYLE = _STYLES["others"].values()
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


def used_styles(layers: "Iterable[AuditRow | LayerTime]") -> list[LayerStyle]:
    """Return the styles that occur among `layers`, in a fixed order."""
    used = {layer_style(layer.kind, layer.role) for layer in layers}
    return [style for style in LAYER_STYLES if style in used]
