"""Weights on the grid of their integers, chosen so that what the layer computes changes least."""

import contextlib

import numpy as np

from keras_nin.export.tuning import REACH

LEVELS = 127
# Added to the moment's diagonal, as a share of its mean: directions that the images do not show are not free.
_DAMPING = 0.01
_EXACT = 1e-5  # levels: what float32 makes of a weight on the grid
_BLOCK = 128


def steps(rows):
    """Return the step of each row's grid as the converter takes it, the largest weight being 127 steps: (O,)."""
    largest = np.abs(rows).max(axis=1)
    return np.where(largest > 0, largest, 1) / LEVELS


def nearest(rows):
    """Return weights (O, terms) rounded to their grids."""
    step = steps(rows)[:, None]
    return np.round(rows / step) * step


def adaptive(rows, moment):
    """Return weights rounded one term after another, each rounding error made good for by the terms that follow.

    The mean square error of an output is quadratic in the errors of its weights, so that the best answer of the later
    terms is known in closed form. Frantar et al., GPTQ, arXiv:2210.17323; here the largest weight of a row stays as it
    is, so that the grid stays the converter's, and a row for which rounding to the nearest does better takes that.

    Args:
        rows: (O, terms).
        moment: second moment or covariance of the terms: (1, terms, terms) for all rows, or (O, terms, terms).
    """
    plain, carried = nearest(rows), _carried(rows, _inverse_factor(moment))
    better = output_error(carried - rows, moment) < output_error(plain - rows, moment)
    return np.where(better[:, None], carried, plain)


def _carried(rows, factor):
    left, step = rows.copy(), steps(rows)
    below, above = _bounds(rows / step[:, None])
    kept = np.abs(rows).argmax(axis=1)
    kept_level = np.sign(rows[np.arange(len(rows)), kept]) * LEVELS
    rounded = np.empty_like(rows)
    for start in range(0, rows.shape[1], _BLOCK):
        stop = min(start + _BLOCK, rows.shape[1])
        errors = np.empty((len(rows), stop - start))
        for term in range(start, stop):
            level = np.clip(np.round(left[:, term] / step), below[:, term], above[:, term])
            rounded[:, term] = np.where(kept == term, kept_level, level) * step
            error = (left[:, term] - rounded[:, term]) / factor[:, term, term]
            errors[:, term - start] = error
            left[:, term + 1 : stop] -= error[:, None] * factor[:, term, term + 1 : stop]
        left[:, stop:] -= _products(errors, factor[:, start:stop, stop:])
    return rounded


def _bounds(levels):
    """Return the least and the largest level that a weight may take: `REACH` beyond its two neighbours on the grid.

    So a weight stays recognisably that of the model. One that lies on the grid stays there: a 0 of a sparse layer, or a
    constant that is meant as it is.
    """
    exact = np.abs(levels - np.round(levels)) < _EXACT
    spread = np.where(exact, 0, REACH)
    below = np.where(exact, np.round(levels), np.floor(levels)) - spread
    above = np.where(exact, np.round(levels), np.ceil(levels)) + spread
    return below.clip(-LEVELS, LEVELS), above.clip(-LEVELS, LEVELS)


def _inverse_factor(moment):
    """Return the upper Cholesky factor of the inverse of each moment, damped."""
    return np.stack([_inverse_factor_of(each) for each in moment])


def _inverse_factor_of(moment):
    damping, unit = _DAMPING * np.trace(moment) / len(moment), np.eye(len(moment))
    if not damping > 0:  # terms that are always 0
        return unit
    while True:
        # Moments of terms that go together are singular but for the damping, and in rounding may be less than that.
        with contextlib.suppress(np.linalg.LinAlgError):
            return np.linalg.cholesky(np.linalg.inv(moment + damping * unit)).T
        damping *= 10


def output_error(difference, moment):
    """Return what a difference of the weights (O, terms) does to each output: the mean square, (O,)."""
    return (_products(difference, moment) * difference).sum(axis=1)


def _products(rows, matrices):
    """Return each row times its matrix; one matrix may serve all rows."""
    if len(matrices) == 1:
        return rows @ matrices[0]
    return np.einsum("ot,otu->ou", rows, matrices)
