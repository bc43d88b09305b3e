"""What files with a known result show of the Edge TPU compiler, as counts and bounds, with or without some authors."""

import dataclasses
import functools
import json
import pathlib
import tomllib
from collections.abc import Collection, Iterable

from keras_nin.formatting import format_count
from keras_nin.schemas import record_from_json

_FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Observations:
    """What the files of one repository show, or a published report.

    Attributes:
        author: owner of the repository; "reports" or "elsewhere" for what is known without a file at hand.
        mapped: by operator type, the number of files with a mapped one.
        bounds: by rule, the largest value that was accepted and the smallest that was refused; 0 for none.
        confirmed, refuted: by rule, the number of files in which it explains an operator on the CPU, and in which an
            operator that breaks it was mapped.
    """

    author: str
    source: str
    mapped: dict[str, int] = dataclasses.field(default_factory=dict)
    bounds: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    confirmed: dict[str, int] = dataclasses.field(default_factory=dict)
    refuted: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Support:
    """In how many files of how many authors something was seen."""

    files: int = 0
    authors: int = 0

    def __str__(self) -> str:
        return f"{format_count(self.files, 'file')} by {format_count(self.authors, 'author')}"


@dataclasses.dataclass(frozen=True)
class Bound:
    """The largest value known to be accepted and the smallest known to be refused; 0 for none."""

    accepted: int
    refused: int

    def is_known(self, value: int) -> bool:
        """Return whether a value is at most one that was accepted, or at least one that was refused, and not both."""
        return (value <= self.accepted) != bool(self.refused and value >= self.refused)

    def refuses(self, value: int) -> bool:
        """Return the best guess: the limit is the geometric mean of both bounds, or within a factor of two of one."""
        if self.is_known(value):
            return value > self.accepted
        if self.accepted and self.refused:
            return value * value > self.accepted * self.refused
        return value > 2 * self.accepted if self.accepted else bool(self.refused) and 2 * value > self.refused

    def __str__(self) -> str:
        accepted = (
            f"the largest known to be mapped is {self.accepted:,}" if self.accepted else "none is known to be mapped"
        )
        return (
            f"{accepted}, the smallest known not to be {self.refused:,}"
            if self.refused
            else f"{accepted}, no limit is known"
        )


class Evidence:
    """What all observations together show."""

    def __init__(self, observations: Iterable[Observations]):
        entries = tuple(observations)
        self._mapped, self._confirmed, self._refuted = (
            {name: _add_up(entries, counts, name) for entry in entries for name in getattr(entry, counts)}
            for counts in ("mapped", "confirmed", "refuted")
        )
        names = {name for entry in entries for name in entry.bounds}
        self._bounds = {name: _widen_bounds(entry.bounds.get(name, (0, 0)) for entry in entries) for name in names}

    def mapped(self, op: str) -> Support:
        """Return where an operator type is known to be mapped."""
        return self._mapped.get(op, Support())

    def bound(self, rule: str) -> Bound:
        """Return the bounds of a rule."""
        return self._bounds.get(rule, Bound(0, 0))

    def confirmed(self, rule: str) -> Support:
        """Return where a rule explains operators on the CPU."""
        return self._confirmed.get(rule, Support())

    def refuted(self, rule: str) -> Support:
        """Return where operators that break a rule are mapped."""
        return self._refuted.get(rule, Support())


def _widen_bounds(bounds: Iterable[tuple[int, int]]) -> Bound:
    accepted, refused = zip(*bounds, strict=True)
    return Bound(max(accepted), min(filter(None, refused), default=0))


def _add_up(entries: Iterable[Observations], counts: str, name: str) -> Support:
    seen = {entry.source: entry for entry in entries if getattr(entry, counts).get(name)}.values()
    return Support(sum(getattr(entry, counts)[name] for entry in seen), len({entry.author for entry in seen}))


@functools.cache
def read_observations() -> tuple[Observations, ...]:
    """Return what the files show (evidence.json), and what is known without them (rules.toml)."""
    files = json.loads((_FOLDER / "evidence.json").read_text(encoding="utf-8"))
    others = tomllib.loads((_FOLDER / "rules.toml").read_text(encoding="utf-8"))["observations"]
    return tuple(record_from_json(Observations, entry) for entry in (*files, *others))


@functools.cache
def fit_evidence(without: Collection[str] = frozenset()) -> Evidence:
    """Return what is known without some authors or repositories, such as ``frozenset(["google-coral"])``."""
    kept = (entry for entry in read_observations() if entry.author not in without and entry.source not in without)
    return Evidence(kept)
