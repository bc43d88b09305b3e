"""All claims by id, and their reproduction."""

from collections.abc import Iterable

from keras_nin.claims import convnet, counts, equalities, speed
from keras_nin.claims.claim import (
    Claim,
    ClaimFigure,
    ClaimResult,
    DeclaredFigure,
    Figures,
    MeasuredFigures,
)
from keras_nin.claims.networks import ClaimTraining
from keras_nin.errors import unknown_name_error

_CLAIM_LIST = (
    *counts.LAYER_CLAIMS,
    *speed.SPEED_CLAIMS,
    *convnet.RELU_CLAIMS,
    *convnet.HEAD_CLAIMS,
    *equalities.EQUALITY_CLAIMS,
    *counts.NETWORK_CLAIMS,
    *equalities.SOFT_MASK_CLAIMS,
)
_SOURCES = list(dict.fromkeys(claim.source for claim in _CLAIM_LIST))
# The claims of one article stand together.
CLAIMS = {claim.id: claim for claim in sorted(_CLAIM_LIST, key=lambda claim: _SOURCES.index(claim.source))}


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
    return ClaimResult(claim.id, claim.source, claim.text, why, figures, conditions)


def _pair_figures(id: str, declared: Iterable[DeclaredFigure], measured: Figures) -> tuple[ClaimFigure, ...]:
    declared = tuple(declared)
    undeclared = set(measured) - {figure.name for figure in declared}
    if undeclared:
        raise ValueError(f"{id} measures undeclared figures: {', '.join(sorted(undeclared))}")
    return tuple(
        ClaimFigure(figure.name, figure.article, figure.ours, measured.get(figure.name)) for figure in declared
    )
