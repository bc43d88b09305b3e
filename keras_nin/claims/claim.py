"""What a claim of an article is, and what its reproduction gave."""

import collections
import dataclasses
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from keras_nin import schemas
from keras_nin.formatting import format_count
from keras_nin.results import Result

if TYPE_CHECKING:
    from keras_nin.claims.networks import ClaimTraining

VERDICTS = ("holds", "partly holds", "does not hold", "not measured")
_SAME_AS_ARTICLE: Any = object()


@dataclasses.dataclass(frozen=True)
class AtMost:
    """A figure that may be at most `limit`."""

    limit: float

    def __str__(self) -> str:
        return f"at most {self.limit:g}"


@dataclasses.dataclass(frozen=True)
class Above:
    """A figure that must be larger than `limit`."""

    limit: float

    def __str__(self) -> str:
        return f"above {self.limit:g}"


@dataclasses.dataclass(frozen=True)
class Interval:
    """A measured figure: its median, and the ends of its interval. It matches every number between them."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


FigureValue: TypeAlias = int | float | bool | str | tuple[int | None, ...] | Interval | AtMost | Above | None
Figures: TypeAlias = Mapping[str, FigureValue]
_RANGES: "dict[str, type[AtMost | Above]]" = {"at_most": AtMost, "above": Above}


@dataclasses.dataclass(frozen=True)
class MeasuredFigures:
    """Timed figures by name, and the conditions: ``{"host", "threads", "processes", "runs", ...}``."""

    figures: Figures
    conditions: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class DeclaredFigure:
    """A figure of a claim: what is counted or measured, the article's figure, and what a reproduction must give.

    `article` is None where it gives none. `ours` is by default the article's figure, and None where nothing is
    promised: the figure is not measured here, or it depends on training.
    """

    name: str
    article: FigureValue = None
    ours: FigureValue = _SAME_AS_ARTICLE

    def __post_init__(self) -> None:
        if self.ours is _SAME_AS_ARTICLE:
            object.__setattr__(self, "ours", self.article)


@dataclasses.dataclass(frozen=True)
class TrainedPart:
    """The part of a claim that requires training: as in `Claim`, but `measure` takes how to train.

    Its `why` applies to every training run, so it names no figure.
    """

    figures: tuple[DeclaredFigure, ...]
    measure: Callable[["ClaimTraining"], Figures]
    why: str


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of an article, and how it is reproduced.

    Attributes:
        source, text: the article, and the claim in one sentence.
        url: address of the article, or of its author's page; None where we know none.
        measure: returns our figures by name, as `MeasuredFigures` where it timed something. A figure that it leaves
            out is not measured.
        why: where the claim holds and where it does not.
        trained: what training adds.
        counted: whether it runs no layer: its figures are counts of what is built.
    """

    id: str
    source: str
    text: str
    figures: tuple[DeclaredFigure, ...]
    measure: Callable[[], Figures | MeasuredFigures]
    why: str
    trained: TrainedPart | None = None
    url: str | None = None
    counted: bool = False


@dataclasses.dataclass(frozen=True)
class ClaimFigure:
    """A figure of a reproduced claim: the article's, the declared one, and ours; None where there is none."""

    name: str
    article: FigureValue
    declared: FigureValue
    ours: FigureValue

    @property
    def matches_article(self) -> bool | None:
        """Whether our figure is the article's; None where either is missing."""
        return None if self.article is None or self.ours is None else _matches(self.article, self.ours)

    @property
    def reproduced(self) -> bool:
        """Whether our figure is the declared one; always, where none is declared."""
        return self.declared is None or (self.ours is not None and _matches(self.declared, self.ours))

    def to_json(self) -> dict[str, Any]:
        """Return the figure as a JSON-ready dictionary; ranges and intervals are objects, tuples are lists."""
        return {
            "name": self.name,
            **{key: _value_to_json(getattr(self, key)) for key in ("article", "declared", "ours")},
            "matches_article": self.matches_article,
            "reproduced": self.reproduced,
        }


@dataclasses.dataclass(frozen=True, repr=False)
class ClaimResult(Result):
    """A reproduced claim: the article's figures and ours; `conditions` are None where nothing was timed."""

    id: str
    source: str
    text: str
    why: str
    figures: tuple[ClaimFigure, ...]
    conditions: Mapping[str, Any] | None = None
    url: str | None = None

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`, from the figures that the article gives.

        holds: ours match all of them; partly holds: ours match some, the others differ or are not measured here;
        does not hold: ours match none of those that are measured; not measured: none is.
        """
        matches = {figure.matches_article for figure in self.figures if figure.article is not None}
        if matches <= {None}:
            return "not measured"
        if True not in matches:
            return "does not hold"
        return "holds" if matches == {True} else "partly holds"

    @property
    def reproduced(self) -> bool:
        """Whether every figure is the declared one, whatever the verdict on the article."""
        return all(figure.reproduced for figure in self.figures)

    def to_json(self) -> dict[str, Any]:
        """Return the claim as a JSON-ready dictionary."""
        return {
            **{"id": self.id, "source": self.source, "url": self.url, "claim": self.text},
            **{"verdict": self.verdict, "reproduced": self.reproduced, "why": self.why},
            "figures": self._rows(),
            **({} if self.conditions is None else {"measured": dict(self.conditions)}),
        }

    def _summary(self) -> str:
        return f"{self.id}: {self.verdict}"

    def _rows(self) -> list[dict[str, Any]]:
        return [figure.to_json() for figure in self.figures]


@dataclasses.dataclass(frozen=True, repr=False)
class ClaimsResult(Result):
    """Several reproduced claims."""

    claims: tuple[ClaimResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every declared figure is reproduced."""
        return all(claim.reproduced for claim in self.claims)

    def to_json(self) -> dict[str, Any]:
        """Return the claims as a JSON-ready dictionary (schema ``keras_nin.claims/1``)."""
        return {"schema": schemas.CLAIMS, "claims": [claim.to_json() for claim in self.claims]}

    def _summary(self) -> str:
        counts = collections.Counter(claim.verdict for claim in self.claims)
        verdicts = ", ".join(f"{verdict}: {counts[verdict]}" for verdict in VERDICTS if counts[verdict])
        missed = [claim.id for claim in self.claims if not claim.reproduced]
        state = f"Not reproduced: {', '.join(missed)}" if missed else "Every declared figure is reproduced"
        return f"{format_count(len(self.claims), 'claim')} ({verdicts}). {state}."

    summary = property(_summary, doc="One line: how many claims have which verdict, and which are not reproduced.")

    def _rows(self) -> Sequence[dict[str, Any]]:
        keys = ("id", "source", "url", "claim", "verdict", "reproduced", "why")
        return [{key: claim.to_json()[key] for key in keys} for claim in self.claims]


def _matches(expected: FigureValue, value: FigureValue) -> bool:
    if isinstance(expected, AtMost):
        return isinstance(value, numbers.Real) and float(value) <= expected.limit  # NaN is not
    if isinstance(expected, Above):
        return isinstance(value, numbers.Real) and float(value) > expected.limit
    if isinstance(value, Interval):
        return isinstance(expected, int | float) and value.low <= expected <= value.high
    # 1 == True in Python; a count does not answer a question.
    return isinstance(expected, bool) == isinstance(value, bool) and expected == value


def _value_to_json(value: FigureValue) -> Any:
    for key, kind in _RANGES.items():
        if isinstance(value, kind):
            return {key: value.limit}
    if isinstance(value, Interval):
        return dataclasses.asdict(value)
    return list(value) if isinstance(value, tuple) else value


def value_from_json(value: Any) -> FigureValue:
    """Return a figure's value from what `ClaimFigure.to_json` made of it; `InputError` where it is no such value."""
    if isinstance(value, dict):
        key = next(iter(value), None)
        if len(value) == 1 and key in _RANGES:
            return _RANGES[key](schemas.typed_value(float, value[key], "the limit of a figure"))
        return schemas.record_from_json(Interval, value)
    if isinstance(value, list):
        return schemas.typed_value(tuple, value, "the shape of a figure")
    if isinstance(value, bool | str | None):
        return value
    return schemas.typed_value(int if isinstance(value, int) else float, value, "a figure")
