"""Which channels to remove for a target: step by step those with the least saliency for what they save.

A step makes one group narrower, to a multiple of what the runtime prefers. What it saves is counted (MACs,
parameters) or read from a table of times, measured operator by operator at several widths.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from keras_nin.errors import InputError, expected_error
from keras_nin.formatting import format_value
from keras_nin.keras_graph import GraphCall, TensorSlot
from keras_nin.limits import LimitItem, Unit, parse_limits
from keras_nin.prune.channels import WEIGHT_AXES, ChannelGraph, Channels
from keras_nin.prune.importance import RankedGroup

if TYPE_CHECKING:
    from keras_nin.audit import Audit

Counts = npt.NDArray[np.int64]  # channels that stay of each group
TARGETS = {"latency": Unit.TIME, "macs": Unit.COUNT, "params": Unit.COUNT}
_RELATIVE = re.compile(r"-([0-9]{1,3}(?:\.[0-9]{1,9})?)%")
_WIDTHS_TRIED = 4  # next narrower widths of a group in one step


@dataclasses.dataclass(frozen=True)
class PruneTarget:
    """What the pruned network may cost: a `share` of what the original costs, or `most`, in us or a count."""

    item: str
    share: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        if self.share is not None:
            return f"{self.item}=-{100 * (1 - self.share):.12g}%"
        return f"{self.item}={self.most:.12g}{'us' if self.item == 'latency' else ''}"

    def limit(self, original: float) -> float:
        """Return the largest cost that meets the target, where the original costs `original`."""
        return self.share * original if self.share is not None else float(self.most or 0)


def parse_target(text: str | PruneTarget) -> PruneTarget:
    """Return the target of a text such as ``"latency=-30%"``, ``"macs=50M"`` or ``"latency=2.5ms"``.

    Raises:
        InputError: an unknown item, a share that is not above 0% and below 100%, or a number without its unit.
    """
    if isinstance(text, PruneTarget):
        return text
    if not isinstance(text, str):
        raise expected_error("target", "to be text such as latency=-30%", text)
    item, _, value = text.strip().partition("=")
    match = _RELATIVE.fullmatch(value)
    if item in TARGETS and value.strip().endswith("%"):
        percent = float(match[1]) if match else 0.0
        if not 0 < percent < 100:
            raise expected_error("target", f"to be {item}=-1% to {item}=-99%, what to save", text)
        return PruneTarget(item, share=1 - percent / 100)
    (limit,) = parse_limits(text, [LimitItem(*entry) for entry in TARGETS.items()], argument="target")[:1]
    if limit.high is None or limit.low is not None or "," in text or limit.high <= 0:
        raise expected_error("target", f"to be one {limit.name} at most, such as latency=-30% or macs=50M", text)
    return PruneTarget(limit.name, most=float(limit.high))


class Cost(Protocol):
    """What a network costs with so many channels in each group."""

    def __call__(self, kept: Counts) -> float:
        """Return the cost."""
        ...


class Widths:
    """How wide the tensors of a network are with so many channels in each of its groups."""

    def __init__(self, graph: ChannelGraph, groups: Sequence[RankedGroup]) -> None:
        self.graph = graph
        self.sizes: Counts = np.array([len(entry.order) for entry in groups], np.int64)
        count = 1 + max([-1, *(int(channels.max(initial=-1)) for channels, _ in graph.shapes.values())])
        self._group = np.full(count, -1)
        for number, entry in enumerate(groups):
            self._group[entry.order] = number

    def of(self, channels: Channels, positions: int = 1) -> tuple[npt.NDArray[np.float64], int]:
        """Return how many `channels` a channel of each group is, and how many belong to none."""
        groups = self._group[channels]
        counts = np.bincount(groups[groups >= 0], minlength=len(self.sizes)) * positions
        return counts / self.sizes, int((groups < 0).sum()) * positions

    def of_slot(self, slot: TensorSlot) -> tuple[npt.NDArray[np.float64], int] | None:
        """Return the same for a tensor; None where its channels are not known."""
        shape = self.graph.shapes.get(slot)
        return None if shape is None else self.of(*shape)


class CountedCost:
    """Parameters, or MACs, of a network with so many channels in each group; exact, as `audit` counts them."""

    def __init__(self, widths: Widths, audit: Audit, item: str) -> None:
        self.constant, terms = float(getattr(audit.total, item)), []
        for entry in widths.graph.layers.values():
            inputs = widths.of(entry.inputs)
            outputs = inputs if entry.outputs is None else widths.of(entry.outputs)
            if item == "params":
                parts = [
                    (float(np.size(variable)), *WEIGHT_AXES[entry.kind].get(variable.name, (None, None)))
                    for variable in entry.layer.weights
                ]
            else:
                names = (entry.name, f"{entry.name} (", f"{entry.name}/")
                rows = [row for row in audit.rows if row.name == names[0] or row.name.startswith(names[1:])]
                parts = [(float(row.macs or 0), 0, None if row.kind == "depthwise" else 0) for row in rows]
            for amount, input_axis, output_axis in parts:
                if amount and (input_axis, output_axis) != (None, None):
                    self.constant -= amount
                    terms.append((amount, inputs, outputs, input_axis is not None, output_axis is not None))
        one = np.zeros(len(widths.sizes)), 1
        self.amounts = np.array([term[0] for term in terms])
        sides = [[term[1] if term[3] else one for term in terms], [term[2] if term[4] else one for term in terms]]
        self.sides = [_stack(side, len(widths.sizes)) for side in sides]
        self.full = [slopes @ widths.sizes + base for slopes, base in self.sides]

    def __call__(self, kept: Counts) -> float:
        """Return the count."""
        shares = [(slopes @ kept + base) / full for (slopes, base), full in zip(self.sides, self.full, strict=True)]
        return self.constant + float(self.amounts @ (shares[0] * shares[1])) if len(self.amounts) else self.constant


def _stack(
    entries: Sequence[tuple[npt.NDArray[np.float64], int]], groups: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    slopes = np.array([slope for slope, _ in entries]).reshape(len(entries), groups)
    return slopes, np.array([base for _, base in entries], np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class TimedOperator:
    """An operator of a file: the call that it computes, its time, and times at several widths.

    Attributes:
        us: of the whole operator.
        times: us by (input channels, output channels), on a grid; empty where only the whole was measured, which then
            counts in proportion to its output.
    """

    call: GraphCall | None
    us: float
    times: Mapping[tuple[int, int], float] = dataclasses.field(default_factory=dict)


class LatencyCost:
    """Time in us of the operators of a file with so many channels in each group, interpolated between measurements."""

    def __init__(self, widths: Widths, operators: Sequence[TimedOperator]) -> None:
        self.constant, self.parts = 0.0, []
        for operator in operators:
            sides = None
            if operator.call is not None and operator.call.inputs and operator.call.outputs:
                sides = [widths.of_slot(slots[0]) for slots in (operator.call.inputs, operator.call.outputs)]
            if sides is None or sides[1] is None or sides[0] is None:
                self.constant += operator.us
            elif operator.times:
                self.parts.append((sides, _Grid(operator.times)))
            else:
                slope, base = sides[1]
                full = float(slope @ widths.sizes + base)
                self.parts.append((sides, _Grid({(0, 0): 0.0, (0, round(full)): operator.us})))

    def __call__(self, kept: Counts) -> float:
        """Return the time in us."""
        return self.constant + sum(
            grid(*(float(slope @ kept + base) for slope, base in sides)) for sides, grid in self.parts
        )


class _Grid:
    """Bilinear interpolation of times over (input channels, output channels)."""

    def __init__(self, times: Mapping[tuple[int, int], float]) -> None:
        self.inputs, self.outputs = (sorted({pair[side] for pair in times}) for side in (0, 1))
        values = [[times[row, column] for column in self.outputs] for row in self.inputs]
        # Fewer channels do not take more time: what says so is noise, which only adds.
        least = np.minimum.accumulate(np.minimum.accumulate(np.array(values)[::-1, ::-1], 0), 1)
        self.values = least[::-1, ::-1].tolist()

    def __call__(self, inputs: float, outputs: float) -> float:
        (top, bottom, down), (left, right, along) = _place(self.inputs, inputs), _place(self.outputs, outputs)
        upper, lower = ((1 - along) * row[left] + along * row[right] for row in (self.values[top], self.values[bottom]))
        return (1 - down) * upper + down * lower


def _place(points: Sequence[int], value: float) -> tuple[int, int, float]:
    """Return the indices of the points on both sides of a value, and its place between them from 0 to 1."""
    after = bisect.bisect_left(points, value)
    if after in (0, len(points)):
        end = min(after, len(points) - 1)
        return end, end, 0.0
    low, high = points[after - 1], points[after]
    return after - 1, after, (value - low) / (high - low)


def measured_widths(size: int, multiple: int, smallest: int = 1) -> list[int]:
    """Return the numbers of channels at which an operator is measured: about a quarter, and each eighth from 1/2 on.

    The time of an operator may jump between two widths, which was measured where weights come near the size of a cache.
    """
    shares = (round(size * eighths / 8 / multiple) * multiple for eighths in (2, 4, 5, 6, 7))
    return sorted({size, *(share for share in shares if smallest <= share < size and share > 0)})


def narrower_widths(size: int, multiple: int) -> list[int]:
    """Return the numbers of channels that a group of `size` may have, from `size` down to one `multiple`."""
    return [size, *range((size - 1) // multiple * multiple, 0, -multiple)]


class Selection:
    """Removes channels step by step until a network costs no more than a limit; a lower limit continues from there.

    Args:
        groups: the channels in the order in which they are removed.
        cost, multiple: what the network costs; channels of a group stay a multiple of that many.
    """

    def __init__(self, groups: Sequence[RankedGroup], cost: Cost, multiple: int) -> None:
        self.groups, self.cost = list(groups), cost
        self.kept: Counts = np.array([len(entry.order) for entry in groups], np.int64)
        self.widths = [narrower_widths(len(entry.order), multiple) for entry in groups]

    @property
    def removed(self) -> Channels:
        """Numbers of the channels that are removed."""
        parts = [entry.order[: len(entry.order) - kept] for entry, kept in zip(self.groups, self.kept, strict=True)]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def keep_only(self, graph: ChannelGraph, kept: Mapping[str, Sequence[int]]) -> None:
        """Remove all channels but those in `kept`, by the layer; layers that it does not name keep theirs.

        Raises:
            InputError: a layer or channels that the network does not have, or that cannot be removed.
        """
        made = {entry.name: entry.outputs for entry in graph.layers.values() if entry.outputs is not None}
        removed = []
        for layer, places in kept.items():
            channels = made.get(layer, np.empty(0, np.int64))
            if not places or not set(places) <= set(range(len(channels))):
                raise InputError(f"Expected `kept` to name channels of {layer!r}. Received: {format_value(places)}")
            removed.append(np.delete(channels, list(places)))
        gone = np.unique(np.concatenate([np.empty(0, np.int64), *removed]))
        for number, entry in enumerate(self.groups):
            is_gone = np.isin(entry.order, gone)
            order = np.concatenate([entry.order[is_gone], entry.order[~is_gone]])
            self.groups[number] = dataclasses.replace(entry, order=order)
            self.kept[number] = int((~is_gone).sum())
        if set(gone.tolist()) != set(self.removed.tolist()) or 0 in self.kept:
            raise InputError("Expected `kept` to leave out channels that can be removed, and not all of a layer.")

    def reach(self, limit: float) -> bool:
        """Remove channels until the cost is at most `limit`; False where nothing is left to remove before.

        Where the last step saves more than is needed, channels that were removed before come back.
        """
        current = self.cost(self.kept)
        while current > limit * (1 + 1e-9):
            step = self._cheapest_step(current)
            if step is None:
                return False
            number, width, current = step
            self.kept[number] = width
        while (wider := self._dearest_return(current, limit)) is not None:
            number, width, current = wider
            self.kept[number] = width
        return True

    def _dearest_return(self, current: float, limit: float) -> tuple[int, int, float] | None:
        """Return the group, its width and the cost after the return within `limit` with the most saliency for it."""
        best, best_price = None, -np.inf
        for number, (entry, widths) in enumerate(zip(self.groups, self.widths, strict=True)):
            kept, size = int(self.kept[number]), len(entry.order)
            for width in [width for width in widths if width > kept][-_WIDTHS_TRIED:]:
                counts = self.kept.copy()
                counts[number] = width
                cost = self.cost(counts)
                regained = entry.saliency[size - kept] - entry.saliency[size - width]
                price = regained / max(cost - current, 1e-9)
                if cost <= limit and price > best_price:
                    best, best_price = (number, width, cost), price
        return best

    def _cheapest_step(self, current: float) -> tuple[int, int, float] | None:
        """Return the group, its width and the cost after the step with the least saliency for what it saves."""
        best, best_price = None, (np.inf, 0.0)
        for number, (entry, widths) in enumerate(zip(self.groups, self.widths, strict=True)):
            kept, size = int(self.kept[number]), len(entry.order)
            for width in [width for width in widths if width < kept][:_WIDTHS_TRIED]:
                counts = self.kept.copy()
                counts[number] = width
                cost = self.cost(counts)
                saved, lost = current - cost, entry.saliency[size - width] - entry.saliency[size - kept]
                price = (lost / saved, -saved) if saved > 0 else (np.inf, 0.0)
                if price < best_price:
                    best, best_price = (number, width, cost), price
        return best


def check_prunable(graph: ChannelGraph, multiple: int) -> None:
    """Raise `InputError` where a network has nothing to remove; the message names what stands against it."""
    if any(len(group.channels) > multiple for group in graph.groups):
        return
    name = graph.trace.model.name
    if graph.groups:
        widest = max(len(group.channels) for group in graph.groups)
        received = f"{name!r}, whose widest group has {widest}. Pass a smaller `multiple`"
        raise InputError(f"Expected a network with more than {multiple} channels to remove from. Received: {received}")
    reasons = [f"{layer!r} ({reason})" for layer, reason in graph.blocked.items()]
    received = f"{name!r}: {', '.join(reasons[:3])}" if reasons else f"{name!r}, which has no convolution and no Dense"
    raise InputError(f"Expected a network with channels that can be removed. Received: {received}", argument="model")
