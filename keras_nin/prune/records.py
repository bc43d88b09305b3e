"""What a pruning gives: the network, what was removed from it, and what that changes."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from keras_nin import schemas
from keras_nin.formatting import format_percent, format_us
from keras_nin.prune.selection import PruneTarget
from keras_nin.results import Result

if TYPE_CHECKING:
    import keras

    from keras_nin.audit import Audit
    from keras_nin.benchmark import BenchmarkResult
    from keras_nin.benchmark.comparison import LatencyRatio


@dataclasses.dataclass(frozen=True)
class PrunedGroup:
    """Channels that are removed together: the layers that make them, and how many there are before and after."""

    layers: tuple[str, ...]
    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class RoleChange:
    """All 1x1 layers of one role: their filters, parameters and MACs, each before and after."""

    role: str
    layers: int
    filters: tuple[int, int]
    params: tuple[int, int]
    macs: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class PruneScores:
    """Top-1 accuracy before and after, of the Keras model and of its file, on the same images."""

    data: str
    images: int
    model: tuple[float, float]
    file: tuple[float, float]


@dataclasses.dataclass(frozen=True, repr=False)
class PruneResult(Result):
    """A pruned network.

    Attributes:
        name, model: of the network, and the network without the channels.
        target, scheme: what was asked for, and the scheme of the files that were measured.
        groups: what was removed, in the order of the network.
        audits: of the original and of the pruned network.
        latency: of the pruned file over the original, measured in turns; `benchmark` has both.
        scores: None without labeled test images.
        kept: which of its channels each layer keeps, by the layer's name; for those that lost some.
        blocked: why the channels of a layer could not be removed.
        training: the record of the fine-tuning; None without.
        options: what the command was told, for the record.
        path: of the .keras file; None where none was written.
    """

    name: str
    model: keras.Model
    target: PruneTarget
    scheme: str
    groups: tuple[PrunedGroup, ...]
    audits: tuple[Audit, Audit]
    latency: LatencyRatio
    benchmark: BenchmarkResult
    scores: PruneScores | None
    kept: dict[str, list[int]]
    blocked: dict[str, str]
    training: dict[str, Any] | None
    options: dict[str, Any]
    notes: tuple[str, ...] = ()
    path: pathlib.Path | None = None

    @property
    def roles(self) -> tuple[RoleChange, ...]:
        """What was removed from the 1x1 layers, by their role in the original network."""
        after = {row.name: row for row in self.audits[1].rows}
        changes = []
        for role in dict.fromkeys(row.role for row in self.audits[0].rows if row.role):
            pairs = [(row, after[row.name]) for row in self.audits[0].rows if row.role == role and row.name in after]
            totals = [
                tuple(sum(value(pair[side]) for pair in pairs) for side in (0, 1))
                for value in (_filters, lambda row: row.params, lambda row: row.macs or 0)
            ]
            changes.append(RoleChange(role, len(pairs), *totals))  # type: ignore[arg-type]
        return tuple(changes)

    def to_json(self) -> dict[str, Any]:
        """Return the record (schema ``keras_nin.prune/1``)."""
        totals = [dataclasses.asdict(audit.total) for audit in self.audits]
        return {
            "schema": schemas.PRUNE,
            "model": self.name,
            "target": str(self.target),
            "scheme": self.scheme,
            "options": self.options,
            "preprocessing": self.options["preprocessing"],
            "dataset": self.options["dataset"],
            "groups": [dataclasses.asdict(group) for group in self.groups],
            "kept": self.kept,
            "blocked": self.blocked,
            "totals": {"before": totals[0], "after": totals[1]},
            "roles": [dataclasses.asdict(role) for role in self.roles],
            "latency": dataclasses.asdict(self.latency) | {"us": [p.total.median for p in self.benchmark.profiles]},
            "scores": self.scores and dataclasses.asdict(self.scores),
            "training": self.training,
            "host": self.benchmark.host,
            "notes": list(self.notes),
            "path": None if self.path is None else str(self.path),
        }

    def _summary(self) -> str:
        before, after = (profile.total.median for profile in self.benchmark.profiles)
        top1 = "" if self.scores is None else f", top-1 {' -> '.join(map(format_percent, self.scores.file))}"
        return f"{self.name}, {format_us(before)} -> {format_us(after)} in {self.scheme}{top1}"

    def _rows(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(group) for group in self.groups]


def _filters(row: Any) -> int:
    return row.output_shape[-1]
