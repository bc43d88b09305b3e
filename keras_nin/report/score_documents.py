"""JSON of `evaluate` and `claims`, as records for a report."""

from dataclasses import dataclass

from keras_nin.claims.records import Interval
from keras_nin.claims.render import SCHEMA as CLAIMS_SCHEMA
from keras_nin.claims.render import value as shown
from keras_nin.errors import InputError
from keras_nin.report.checked import record

EVALUATE_SCHEMA = "keras_nin.evaluate/1"


@dataclass(frozen=True)
class ClassScore:
    """A class: its name, how many images are of it, the shares that were found and that were right (None: of none)."""

    name: str
    images: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class Confusion:
    """How many images of one class (row) were taken for another (column), over the numbers of the `classes`."""

    classes: tuple[int, ...]
    matrix: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Speed:
    """Images per second, inference alone, with what a speed is shown beside."""

    images_per_second: float
    batch: int
    threads: int
    runs: int
    host: dict


@dataclass(frozen=True)
class Scores:
    """What `keras-nin evaluate` found of a file; see `keras_nin.report.evaluation.Evaluation`."""

    file: str
    images: int
    top1: float
    top5: float | None
    per_class: tuple[ClassScore, ...]
    confusion: Confusion
    data: str
    preprocessing: dict
    weights: str | None = None
    speed: Speed | None = None


@dataclass(frozen=True)
class FigureFound:
    """A figure of a claim as text, whether it agrees with the article's (None: nothing to compare) and with ours."""

    name: str
    article: str
    ours: str
    agrees: bool | None
    reproduced: bool


@dataclass(frozen=True)
class Timed:
    """How the figures of a claim were timed; their names say on how many threads."""

    host: dict
    processes: int
    runs: int


@dataclass(frozen=True)
class ClaimFound:
    """A reproduced claim; see `keras_nin.claims.records.Result`."""

    id: str
    source: str
    claim: str
    verdict: str
    reproduced: bool
    why: str
    figures: tuple[FigureFound, ...]
    measured: Timed | None = None


@dataclass(frozen=True)
class ClaimsFound:
    """The claims of one run."""

    claims: tuple[ClaimFound, ...]


def _scores(document):
    found = record(Scores, document)
    count = len(found.confusion.classes)
    if any(len(line) != count for line in (found.confusion.matrix, found.per_class, *found.confusion.matrix)):
        raise InputError(f"Expected a score, a row and a column for each of {count} classes. Received: others")
    return (found,)


def _claims(document):
    claims = document.get("claims")
    if not isinstance(claims, list):
        raise InputError(f"Expected a list of claims. Received: {type(claims).__name__}")
    return (ClaimsFound(tuple(map(_claim, claims))),)


def _claim(document):
    figures = document.get("figures") if isinstance(document, dict) else None
    if not isinstance(figures, list) or not all(isinstance(each, dict) for each in figures):
        raise InputError("Expected a claim as a JSON object with a list of figures. Received: another value")
    return record(ClaimFound, document | {"figures": [_figure(each) for each in figures]})


def _figure(document):
    ours = "not measured" if document.get("ours") is None else _text(document["ours"])
    if document.get("reproduced") is False:
        ours = f"{ours} (declared: {_text(document.get('declared'))})"
    return document | {"article": _text(document.get("article")), "ours": ours}


def _text(given):
    """Return a figure as the terminal shows it: JSON has tuples as lists, and an interval as an object."""
    if isinstance(given, dict):
        return shown(record(Interval, given))
    return shown(tuple(given)) if isinstance(given, list) else shown(given)


READERS = {EVALUATE_SCHEMA: _scores, CLAIMS_SCHEMA: _claims}
