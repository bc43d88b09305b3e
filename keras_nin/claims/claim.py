"""The articles that the claims are from."""

import dataclasses
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from keras_nin.models.articles import CONVNET as PAPERSPACE  # noqa: F401 - one name for the article everywhere

DEMYSTIFIED = '"1x1 convolution, demystified"'
ROBAITA = '"1x1 convolutions explained"'
LECUN = "Y. LeCun's remark on fully connected layers"
TRANSWIKIA = "question on a 1x1 layer after a 28x28x1 input"
NIN = "Network in Network, arXiv:1312.4400"
SQUEEZENET = "SqueezeNet, arXiv:1602.07360"


# MERGED A claim as it is declared, and what reproducing it gave.

VERDICTS = ("holds", "holds in part", "does not hold", "not measured")
_SAME_AS_ARTICLE = object()


@dataclasses.dataclass(frozen=True)
class AtMost:
    """A figure that may not be larger than `limit`."""

    limit: float

    def fits(self, value):
        """Whether `value` keeps to the limit; NaN does not."""
        return value <= self.limit

    def __str__(self):
        return f"at most {self.limit:g}"


@dataclasses.dataclass(frozen=True)
class Above:
    """A figure that must be larger than `limit`."""

    limit: float

    def fits(self, value):
        """Whether `value` is above the limit; NaN is not."""
        return value > self.limit

    def __str__(self):
        return f"above {self.limit:g}"


@dataclasses.dataclass(frozen=True)
class Interval:
    """A measured figure: its median, and from where to where it lies. A number agrees with it that lies between."""

    median: float
    low: float
    high: float

    def __str__(self):
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"

    def to_json(self):
        """Return the interval as a dictionary."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class MeasuredFigures:
    """Figures that were timed, by their names, and how: ``{"host", "threads", "processes", "runs", ...}``."""

    figures: Mapping[str, Any]
    conditions: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class DeclaredFigure:
    """A figure of a claim: what the article says it is, and what a reproduction must give.

    Values are numbers, words, booleans, tuples (shapes), or a range such as `AtMost`.

    Attributes:
        name: what is counted or measured, with its unit.
        article: what the article says; None where it gives no such figure.
        ours: what our reproduction must give, by default the article's value. None where nothing is promised: the
            figure is not measured here, or it depends on a training.
    """

    name: str
    article: Any = None
    ours: Any = _SAME_AS_ARTICLE

    def __post_init__(self):
        if self.ours is _SAME_AS_ARTICLE:
            object.__setattr__(self, "ours", self.article)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of an article, and how it is reproduced.

    Attributes:
        id: short name.
        source: the article.
        text: the claim, in one sentence.
        figures: the figures that take part, each `Declared`.
        measure: function without arguments that returns our value of each figure by its name, as `Measured` where it
            timed something; a figure that it leaves out is not measured.
        why: where the claim holds and where it does not.
        trained: what a training adds; None where there is nothing to train.
    """

    id: str
    source: str
    text: str
    figures: tuple[DeclaredFigure, ...]
    measure: Callable[[], Mapping[str, Any] | MeasuredFigures]
    why: str
    trained: "TrainedPart | None" = None


@dataclasses.dataclass(frozen=True)
class TrainedPart:
    """The part of a claim that takes a training.

    Attributes:
        figures: as in `Claim`.
        measure: function of a `keras_nin.claims.networks.ClaimTraining` that returns our values by name.
        why: as in `Claim`; it speaks of any training, so it names no figure.
    """

    figures: tuple[DeclaredFigure, ...]
    measure: Callable[[Any], Mapping[str, Any]]
    why: str


@dataclasses.dataclass(frozen=True)
class ClaimFigure:
    """A figure of a reproduced claim: the article's value, what is declared, and ours. None: there is none."""

    name: str
    article: Any
    declared: Any
    ours: Any

    @property
    def agrees(self):
        """Whether our value is the article's; None where either is missing."""
        return None if self.article is None or self.ours is None else _matches(self.article, self.ours)

    @property
    def reproduced(self):
        """Whether our value is what is declared; a figure that nothing is declared of always is."""
        return self.declared is None or (self.ours is not None and _matches(self.declared, self.ours))


@dataclasses.dataclass(frozen=True)
class ClaimResult:
    """A reproduced claim; `conditions` are those of `Measured`, None where nothing was timed."""

    id: str
    source: str
    text: str
    why: str
    figures: tuple[ClaimFigure, ...]
    conditions: Mapping[str, Any] | None = None

    @property
    def verdict(self):
        """One of `VERDICTS`, from the figures that the article gives.

        holds: ours agree with all of them; holds in part: some do, the others disagree or are not measured here;
        does not hold: none of those that are measured does; not measured: none is.
        """
        answers = [figure.agrees for figure in self.figures if figure.article is not None]
        if set(answers) <= {None}:
            return "not measured"
        if True not in answers:
            return "does not hold"
        return "holds" if set(answers) == {True} else "holds in part"

    @property
    def reproduced(self):
        """Whether every figure is what the definition declares, whatever the verdict on the article."""
        return all(figure.reproduced for figure in self.figures)


def _matches(wanted, value):
    if isinstance(wanted, AtMost | Above):
        return isinstance(value, numbers.Real) and wanted.fits(value)
    if isinstance(value, Interval):
        return isinstance(wanted, numbers.Real) and value.low <= wanted <= value.high
    # 1 == True in Python; a count is no answer to a question.
    return isinstance(wanted, bool) == isinstance(value, bool) and wanted == value
