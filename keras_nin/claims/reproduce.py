"""Run a claim's measurement and hold its figures against the declaration."""

from keras_nin.claims.records import Figure, Measured, Result


def reproduce(claim, training=None):
    """Return the `Result` of `claim` (a `Claim`): our figures are computed now, from layers that are built now.

    Args:
        claim: `keras_nin.claims.records.Claim`.
        training: `keras_nin.claims.training.Training` to include the trained figures; None leaves them out.

    Raises:
        InputError: the training's data set or settings do not fit.
        ValueError: the measurement gives a figure that the claim does not declare (a defect of the definition).
    """
    measured, conditions = claim.measure(), None
    if isinstance(measured, Measured):
        measured, conditions = measured.figures, measured.conditions
    figures, why = _figures(claim.id, claim.figures, measured), claim.why
    if training is not None and claim.trained is not None:
        figures += _figures(claim.id, claim.trained.figures, claim.trained.measure(training))
        why = f"{why} {claim.trained.why}"
    return Result(claim.id, claim.source, claim.text, why, figures, conditions)


def _figures(name, declared, measured):
    undeclared = set(measured) - {row.name for row in declared}
    if undeclared:
        raise ValueError(f"{name} measures what it does not declare: {', '.join(sorted(undeclared))}")
    return tuple(Figure(row.name, row.article, row.ours, measured.get(row.name)) for row in declared)
