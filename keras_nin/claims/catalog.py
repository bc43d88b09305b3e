"""The table of claims, by id."""

from keras_nin.claims import convnet, counts, equalities, speed
from keras_nin.claims.claim import ClaimFigure, ClaimResult, MeasuredFigures
from keras_nin.errors import unknown_name_error

_CLAIM_LIST = [
    *counts.LAYER_CLAIMS,
    *speed.SPEED_CLAIMS,
    *convnet.RELU_CLAIMS,
    *convnet.HEAD_CLAIMS,
    *equalities.EQUALITY_CLAIMS,
    *counts.NETWORK_CLAIMS,
    *equalities.SOFT_MASK_CLAIMS,
]
_SOURCES = list(dict.fromkeys(row.source for row in _CLAIM_LIST))
# The claims of one article stand together.
CLAIMS = {row.id: row for row in sorted(_CLAIM_LIST, key=lambda row: _SOURCES.index(row.source))}


def list_claims():
    """Return the ids of the claims, in the table's order."""
    return list(CLAIMS)


def get_claim(id):
    """Return the `Claim` with this id; `InputError` with near ids where there is none."""
    if id not in CLAIMS:
        raise unknown_name_error("claim", id, CLAIMS)
    return CLAIMS[id]


# MERGED Run a claim's measurement and hold its figures against the declaration.


def reproduce_claim(claim, training=None):
    """Return the `Result` of `claim` (a `Claim`): our figures are computed now, from layers that are built now.

    Args:
        claim: `keras_nin.claims.claim.Claim`.
        training: `keras_nin.claims.networks.ClaimTraining` to include the trained figures; None leaves them out.

    Raises:
        InputError: the training's data set or settings do not fit.
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


def _pair_figures(name, declared, measured):
    undeclared = set(measured) - {row.name for row in declared}
    if undeclared:
        raise ValueError(f"{name} measures what it does not declare: {', '.join(sorted(undeclared))}")
    return tuple(ClaimFigure(row.name, row.article, row.ours, measured.get(row.name)) for row in declared)
