"""Times of layers summed: by kind and role of 1x1, and by block."""

from dataclasses import dataclass

from keras_nin.report import palette
from keras_nin.report.palette import Look


@dataclass(frozen=True)
class Group:
    """Some layers of a profile together.

    Attributes:
        name: of the kind and role, or of the block; None for layers in no block.
        look: `Look` of the kind and role; None for a block.
        layers: how many, without the runtime's overhead.
        us: their typical times together.
        share: of the whole median, 0 to 1.
        macs: together; those that are not known are left out.
    """

    name: str | None
    look: Look | None
    layers: int
    us: float
    share: float
    macs: int


def by_look(profile):
    """Return the `Group`s of a profile by kind, 1x1 by role, in the palette's order, `runtime overhead` last."""
    groups = _grouped(profile, lambda layer: palette.look(layer.kind, layer.role))
    found = [_group(each.label, each, groups[each], profile) for each in palette.LOOKS if each in groups]
    if profile.overhead_us is not None:
        share = profile.overhead_us / profile.total.median
        found.append(Group(palette.OVERHEAD.label, palette.OVERHEAD, 0, profile.overhead_us, share, 0))
    return tuple(found)


def by_block(profile):
    """Return the `Group`s of a profile by block, in order of execution; none where no layer is in one."""
    groups = _grouped(profile, lambda layer: layer.block)
    if set(groups) <= {None}:
        return ()
    return tuple(_group(name, None, layers, profile) for name, layers in groups.items())


def _grouped(profile, key):
    groups = {}
    for layer in profile.layers:
        groups.setdefault(key(layer), []).append(layer)
    return groups


def _group(name, look, layers, profile):
    us = sum(layer.us.typical for layer in layers if layer.us is not None)
    macs = sum(layer.macs or 0 for layer in layers)
    return Group(name, look, len(layers), us, us / profile.total.median, macs)
