"""The points of a sweep: single convolutions, and which of them are measured together."""

import dataclasses
import itertools
import random

from keras_nin.errors import InputError

SCHEMES = ("float32", "int8")
STEP = 8  # channels that the runtime's kernels take at once, or a divisor of that
LARGEST_SIDE, LARGEST_COUNT = 1024, 8192


@dataclasses.dataclass(frozen=True, order=True)
class Layer:
    """A convolution with padding "same" and stride 1 on a map `size` x `size` x `cin`, with `cout` filters."""

    size: int
    cin: int
    cout: int
    kernel: int

    @property
    def macs(self):
        """Multiply-accumulates, counted at every position of the output; those on padding are among them."""
        return self.size**2 * self.kernel**2 * self.cin * self.cout


@dataclasses.dataclass(frozen=True, order=True)
class Point:
    """A layer in one scheme on one number of threads."""

    layer: Layer
    scheme: str
    threads: int


@dataclasses.dataclass(frozen=True)
class Grid:
    """All combinations of what is listed.

    Raises:
        InputError: an empty list, an unknown scheme, an even kernel, or a number out of range.
    """

    size: tuple[int, ...]
    cin: tuple[int, ...]
    cout: tuple[int, ...]
    kernel: tuple[int, ...] = (1, 3)
    scheme: tuple[str, ...] = SCHEMES
    threads: tuple[int, ...] = (1,)

    def __post_init__(self):
        limits = {"size": LARGEST_SIDE, "cin": LARGEST_COUNT, "cout": LARGEST_COUNT, "kernel": 15, "threads": 256}
        for field in dataclasses.fields(self):
            values = tuple(dict.fromkeys(getattr(self, field.name)))
            object.__setattr__(self, field.name, values)
            if not values:
                raise InputError(f"Expected at least one `{field.name}`. Received: none")
            for value in values if field.name in limits else ():
                if not isinstance(value, int) or not 1 <= value <= limits[field.name]:
                    raise InputError(f"Expected `{field.name}` from 1 to {limits[field.name]}. Received: {value!r}")
        for kernel in self.kernel:
            if kernel % 2 == 0:
                raise InputError(f"Expected odd kernels, which have a middle. Received: {kernel}")
        for scheme in self.scheme:
            if scheme not in SCHEMES:
                raise InputError(f"Expected `scheme` to be one of {', '.join(SCHEMES)}. Received: {scheme!r}")

    def points(self):
        """Return the points, sorted."""
        layers = itertools.starmap(Layer, itertools.product(self.size, self.cin, self.cout, self.kernel))
        return sorted(itertools.starmap(Point, itertools.product(layers, self.scheme, self.threads)))


def aligned(channels):
    """Return the multiple of `STEP` that a number of channels is compared with: the nearest one, the upper of two."""
    return max(STEP, (channels + STEP // 2) // STEP * STEP)


def sites(points, seed=0):
    """Return the points as they are measured: a shuffled list of sites, each a shuffled list of groups.

    A group is a tuple of points that take turns while they are measured, since they are compared with one another:
    layers on one map in one scheme on one number of threads, that differ in their kernel, or in channel counts around
    one multiple of `STEP`. The groups of a site are measured one after the other, from the same exported models.

    Args:
        points: `Point`s.
        seed: of the order, so that what drifts on the machine does not follow one of the axes.
    """
    shuffled = random.Random(seed)
    found = {}
    for point in sorted(points):
        site, group = _site(point.layer), (point.scheme, point.threads)
        found.setdefault(site, {}).setdefault(group, []).append(point)
    ordered = [[tuple(group) for group in groups.values()] for groups in found.values()]
    for groups in ordered:
        shuffled.shuffle(groups)
    shuffled.shuffle(ordered)
    return ordered


def _site(layer):
    return layer.size, aligned(layer.cin), aligned(layer.cout)
