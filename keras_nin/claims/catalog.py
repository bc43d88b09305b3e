"""All claims by id, and their reproduction."""

import pathlib
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from keras_nin.claims import convnet, counts, equalities, speed
from keras_nin.claims.claim import (
    Claim,
    ClaimFigure,
    ClaimResult,
    DeclaredFigure,
    Figures,
    MeasuredFigures,
    TrainedPart,
    value_from_json,
)
from keras_nin.claims.networks import ClaimTraining
from keras_nin.errors import unknown_name_error

_MEASURES = counts.MEASURES | convnet.MEASURES | equalities.MEASURES | speed.MEASURES


def _read_claim(entry: Mapping[str, Any]) -> Claim:
    id, part, trained = entry["id"], entry.get("trained"), None
    if part is not None:
        trained = TrainedPart(_read_figures(part), convnet.TRAINED_MEASURES[id], _unwrap(part["why"]))
    text, why = _unwrap(entry["text"]), _unwrap(entry["why"])
    figures, counted = _read_figures(entry), entry.get("counted", False)
    return Claim(id, entry["source"], text, figures, _MEASURES[id], why, trained, entry.get("url"), counted)


def _read_figures(entry: Mapping[str, Any]) -> tuple[DeclaredFigure, ...]:
    figures: list[dict[str, Any]] = [
        {key: value_from_json(value) for key, value in figure.items()} for figure in entry["figures"]
    ]
    for figure in figures:
        if not figure.pop("promised", True):
            figure["ours"] = None
    return tuple(DeclaredFigure(**figure) for figure in figures)


def _unwrap(text: str) -> str:
    return " ".join(text.split())


_CLAIMS_TEXT = (pathlib.Path(__file__).parent / "claims.toml").read_text(encoding="utf-8")
# The claims of one article stand together.
CLAIMS = {entry["id"]: _read_claim(entry) for entry in tomllib.loads(_CLAIMS_TEXT)["claim"]}


def list_claims() -> list[str]:
    """Return the ids of all claims, those of one article together."""
    return list(CLAIMS)


def get_claim(id: str) -> Claim:
    """Return the claim with this id.

    Raises:
        InputError: there is no such claim.
    """
    if id not in CLAIMS:
        raise unknown_name_error("claim", id, CLAIMS)
    return CLAIMS[id]


def reproduce_claim(claim: Claim, training: ClaimTraining | None = None) -> ClaimResult:
    """Compute our figures of a claim now, from layers that are built now.

    Args:
        claim: the claim.
        training: how to train where the claim is about accuracy; None leaves the trained figures out.

    Raises:
        InputError: the training's dataset or settings do not fit.
        ValueError: the measurement gives a figure that the claim does not declare (a defect of the definition).
    """
    measured, conditions = claim.measure(), None
    if isinstance(measured, MeasuredFigures):
        measured, conditions = measured.figures, measured.conditions
    figures, why = _pair_figures(claim.id, claim.figures, measured), claim.why
    if training is not None and claim.trained is not None:
        figures += _pair_figures(claim.id, claim.trained.figures, claim.trained.measure(training))
        why = f"{why} {claim.trained.why}"
    return ClaimResult(claim.id, claim.source, claim.text, why, figures, conditions, claim.url)


def _pair_figures(id: str, declared: Iterable[DeclaredFigure], measured: Figures) -> tuple[ClaimFigure, ...]:
    pairs = tuple(ClaimFigure(part.name, part.article, part.ours, measured.get(part.name)) for part in declared)
    undeclared = set(measured) - {figure.name for figure in pairs}
    if undeclared:
        raise ValueError(f"{id} measures undeclared figures: {', '.join(sorted(undeclared))}")
    return pairs
