"""Sets of operations by their Keras names, read from ``operations.toml``."""

import pathlib
import tomllib

_TABLES = tomllib.loads(pathlib.Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_GROUPS = {name: frozenset(operations) for name, operations in _TABLES["groups"].items()}
KINDS = {op: kind for kind, operations in _TABLES["kinds"].items() for op in operations}

CONVOLUTIONS, DEPTHWISE, TRANSPOSED = (_GROUPS[name] for name in ("convolutions", "depthwise", "transposed"))
# Operations that multiply by weights, and so can absorb an affine map of their output channels.
LINEAR = CONVOLUTIONS | DEPTHWISE | TRANSPOSED | {"Dense"}
GLOBAL_POOLS, WINDOW_POOLS = _GROUPS["global_pools"], _GROUPS["window_pools"]
AVERAGE_POOLS = frozenset(pool for pool in GLOBAL_POOLS | WINDOW_POOLS if "Average" in pool)
UPSAMPLING, PADDING, SCALED_ADDITIONS = (_GROUPS[name] for name in ("upsampling", "padding", "scaled_additions"))
VOLUMETRIC = _GROUPS["volumetric"]
FOLDABLE_NORMS, CHANNEL_NORMS = _GROUPS["foldable_norms"], _GROUPS["channel_norms"]
PASS_THROUGH = _GROUPS["pass_through"]
WITHOUT_MACS = _GROUPS["without_macs"] | PASS_THROUGH
VIEWS = _GROUPS["views"] | PASS_THROUGH  # a pass-through layer is dropped at conversion
LAYER_CLASSES = frozenset().union(*_GROUPS.values(), KINDS, LINEAR, {"SeparableConv1D", "SeparableConv2D"})
FIELD_PRESERVING = _GROUPS["field_preserving"] | PASS_THROUGH | PADDING
