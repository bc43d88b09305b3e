"""Scores of a classifier."""

import numpy as np


def top_k(outputs, labels, k):
    """Return the share of rows of `outputs` (N, classes) whose label is among the `k` largest; None if k >= classes."""
    if k >= outputs.shape[1]:
        return None
    # A stable sort, so that a tie at the top goes to the lower class, as argmax has it.
    best = np.argsort(-outputs.astype(np.float64), axis=1, kind="stable")[:, :k]
    return float(np.mean((best == np.asarray(labels)[:, None]).any(1)))
