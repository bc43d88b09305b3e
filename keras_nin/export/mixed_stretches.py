"""Which stretches of operators to lift from 8 bits to float32, and what that is predicted to change.

A value that one 8-bit operator hands to the next is rounded whatever its neighbors do: a single operator in float
between 8-bit ones removes next to no noise, and casts cost time. So operators are lifted to float in stretches, between
positions through which few tensors pass. The noise of a stretch follows from two curves that are measured: that of the
operators up to each position in int8, and that of those from it on.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_nin.tflite.records import TFLiteSubgraph

# Few enough to measure each on two curves, enough for a network of blocks.
_MIN_CUTS, _MAX_CUTS = 8, 24
# us that a unit of noise, that of the whole network in int8, may cost, as multiples of the network's time.
_LEAST_ADDED = 0.02  # of the network's time, for all of it in float
_WEIGHTS = np.geomspace(1e-3, 1e3, 121)


@dataclasses.dataclass(frozen=True)
class Cut:
    """A position before the operator with this index, and the number of elements that pass through it."""

    position: int
    elements: int


def find_cuts(main: TFLiteSubgraph, end: int) -> tuple[Cut, ...]:
    """Return the positions from the start to `end` through which the fewest tensors pass, at least `_MIN_CUTS` of them.

    In a chain of blocks they are those of a single tensor, between the blocks.
    """
    last_use = {index: operator.index for operator in main.operators for index in operator.inputs}
    last_use |= dict.fromkeys(main.outputs, len(main.operators))
    alive, passing = set(main.inputs), []
    for position in range(end + 1):
        alive = {index for index in alive if last_use.get(index, -1) >= position}
        passing.append([main.tensors[index].elements for index in alive])
        alive |= set(main.operators[position].outputs) if position < len(main.operators) else set()
    fewest = sorted(map(len, passing))[min(_MIN_CUTS, len(passing)) - 1]
    return tuple(
        Cut(position, sum(sizes))
        for position, sizes in enumerate(passing)
        if len(sizes) <= fewest or position in (0, end)
    )


def merge_cuts(cuts: Sequence[Cut], times: Sequence[float]) -> tuple[Cut, ...]:
    """Return at most `_MAX_CUTS` of the cuts, without those around the stretches that take the least time.

    `times` has the us of each operator in int8.
    """
    cuts = list(cuts)
    while len(cuts) > _MAX_CUTS:
        spans = [sum(times[cuts[place - 1].position : cuts[place + 1].position]) for place in range(1, len(cuts) - 1)]
        del cuts[1 + int(np.argmin(spans))]
    return tuple(cuts)


@dataclasses.dataclass(frozen=True)
class Stretches:
    """The stretches of operators between cuts, and what float would change about each.

    Attributes:
        cuts: one more than stretches.
        added_us: time of each stretch in float32 less that in int8.
        cast_us: time of the casts at each cut, where the types before and behind it differ.
        noise: what each stretch adds to the noise where it follows another one in int8.
        entry_noise: what rounding the values at each cut adds, where an int8 stretch follows one in float.
        starts_float, ends_float: whether what comes before the first and behind the last stretch is in float32.
    """

    cuts: tuple[Cut, ...]
    added_us: tuple[float, ...]
    cast_us: tuple[float, ...]
    noise: tuple[float, ...]
    entry_noise: tuple[float, ...]
    starts_float: bool
    ends_float: bool

    @classmethod
    def from_curves(
        cls,
        cuts: tuple[Cut, ...],
        up_to: Sequence[float],
        behind: Sequence[float],
        added_us: Sequence[float],
        cast_us_per_element: float,
        starts_float: bool,
        ends_float: bool,
    ) -> "Stretches":
        """Return the stretches; `up_to` and `behind` are the noise with all before, or behind, each cut in int8."""
        rising = np.maximum.accumulate(up_to)
        total = rising[-1]
        return cls(
            cuts,
            tuple(sum(added_us[first.position : last.position]) for first, last in zip(cuts, cuts[1:], strict=False)),
            tuple(cut.elements * cast_us_per_element for cut in cuts),
            tuple(np.diff(rising).tolist()),
            tuple(max(0.0, float(before + after - total)) for before, after in zip(rising, behind, strict=True)),
            starts_float,
            ends_float,
        )

    def operators(self, in_float: Sequence[bool]) -> frozenset[int]:
        """Return the indexes of the operators of the stretches that are in float."""
        spans = zip(in_float, self.cuts, self.cuts[1:], strict=False)
        return frozenset(index for lifted, a, b in spans if lifted for index in range(a.position, b.position))

    def predict_us(self, in_float: Sequence[bool]) -> float:
        """Return the predicted time relative to that of the file in int8."""
        sides = [self.starts_float, *in_float, self.ends_float]
        casts = sum(us for us, before, after in zip(self.cast_us, sides, sides[1:], strict=False) if before != after)
        return casts + sum(us for us, lifted in zip(self.added_us, in_float, strict=True) if lifted)

    def proposals(self, total_us: float) -> list[tuple[bool, ...]]:
        """Return which stretches to lift, in the order of the operators lifted; each choice once.

        Each has the least predicted time plus noise times a weight, of all choices there are. Float costs size too:
        where it takes no more time, it counts as if it took a little. The fastest choice is there nevertheless.
        """
        total = sum(self.noise) or 1.0
        least_us = _LEAST_ADDED * total_us / len(self.noise)
        costly = dataclasses.replace(self, added_us=tuple(max(us, least_us) for us in self.added_us))
        choices = [costly._cheapest(weight * total_us / total) for weight in _WEIGHTS]
        everything = (True,) * len(self.noise)
        return sorted(dict.fromkeys([*choices, self._cheapest(0), everything]), key=sum)

    def _cheapest(self, weight: float) -> tuple[bool, ...]:
        """Return the choice with the least time plus `weight` times noise: the shortest path through two states."""
        paths = {self.starts_float: (0.0, ())}
        for place, (noise, added_us) in enumerate(zip(self.noise, self.added_us, strict=True)):
            paths = {
                lifted: min(
                    (cost + self._step(place, before, lifted, weight) + (added_us if lifted else weight * noise),
                     (*path, lifted))
                    for before, (cost, path) in paths.items()
                )
                for lifted in (False, True)
            }  # fmt: skip
        ends = ((cost + self._step(-1, last, self.ends_float, 0), path) for last, (cost, path) in paths.items())
        return min(ends)[1]

    def _step(self, place: int, before: bool, after: bool, weight: float) -> float:
        if before == after:
            return 0.0
        return self.cast_us[place] + (0.0 if after else weight * self.entry_noise[place])

    def predict_noise(self, in_float: Sequence[bool]) -> float:
        """Return the predicted noise."""
        before = (self.starts_float, *in_float)
        entered = (noise for noise, a, b in zip(self.entry_noise, before, in_float, strict=False) if a and not b)
        return sum(entered) + sum(noise for noise, lifted in zip(self.noise, in_float, strict=True) if not lifted)

    def smaller_choices(self, in_float: Sequence[bool]) -> list[tuple[bool, ...]]:
        """Return the choices with one stretch fewer in float, the least noisy first."""
        lifted = (place for place, is_lifted in enumerate(in_float) if is_lifted)
        choices = [(*in_float[:place], False, *in_float[place + 1 :]) for place in lifted]
        return sorted(choices, key=self.predict_noise)
