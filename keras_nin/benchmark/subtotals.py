"""What the layers of a profile cost together: 1x1 by role, other convolutions, and by block."""

from dataclasses import dataclass

POINTWISE = "pointwise"
ROLES = ("reduce", "expand", "mix", "projection", "head")
_KINDS = ("spatial", "depthwise", "dense")
OTHER, OVERHEAD, NO_BLOCK = "other", "runtime overhead", "(no block)"


@dataclass(frozen=True)
class Subtotal:
    """Sums over `rows` rows of a profile.

    Attributes:
        name: "1x1 reduce", "spatial", a block's, or `OVERHEAD`, which has no rows.
        rows: how many.
        us: their typical times together, in microseconds.
        share: of the whole median.
        macs: together; rows where they are not known count 0.
        gmacs_per_s: 10^9 MACs a second; None without MACs or time.
    """

    name: str
    rows: int
    us: float
    share: float
    macs: int
    gmacs_per_s: float | None


def subtotals(profile):
    """Return a `Subtotal` for each kind of layer in a `Profile`, the 1x1 layers by role, and last the overhead.

    Together they are the whole median. Kinds and roles without a row are left out; pools, merges, activations and what
    the runtime inserted are "other".
    """
    names = (*(f"1x1 {role}" for role in ROLES), *_KINDS, OTHER)
    return _sums(profile, _kind, names)


def by_block(profile):
    """Return a `Subtotal` for each block of a `Profile` in order of execution, and last the overhead."""
    return _sums(profile, lambda layer: layer.block or NO_BLOCK, ())


def pointwise(profile):
    """Return the `Subtotal` of all 1x1 layers of a `Profile`, named "1x1"."""
    return _subtotal(profile, "1x1", [layer for layer in profile.layers if layer.kind == POINTWISE])


def _kind(layer):
    if layer.kind == POINTWISE:
        return f"1x1 {layer.role}"
    return layer.kind if layer.kind in _KINDS else OTHER


def _sums(profile, key, first):
    groups = {name: [] for name in first}
    for layer in profile.layers:
        groups.setdefault(key(layer), []).append(layer)
    found = [_subtotal(profile, name, layers) for name, layers in groups.items() if layers]
    if profile.overhead_us is not None:
        share = profile.overhead_us / profile.total.median
        found.append(Subtotal(OVERHEAD, 0, profile.overhead_us, share, 0, None))
    return tuple(found)


def _subtotal(profile, name, layers):
    us = sum(layer.us.typical for layer in layers if layer.us)
    macs = sum(layer.macs or 0 for layer in layers)
    rate = macs / us / 1000 if macs and us else None
    return Subtotal(name, len(layers), us, us / profile.total.median, macs, rate)
