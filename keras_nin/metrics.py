"""Scores of a classifier."""

import numpy as np


def top_k(outputs, labels, k):
    """Return the share of rows of `outputs` (N, classes) whose label is among the `k` largest; None if k >= classes.

    A row that holds NaN says nothing and is a miss.
    """
    if k >= outputs.shape[1]:
        return None
    # A stable sort, so that a tie at the top goes to the lower class, as argmax has it.
    outputs = outputs.astype(np.float64)
    best = np.argsort(-outputs, axis=1, kind="stable")[:, :k]
    hits = (best == np.asarray(labels)[:, None]).any(axis=1) & ~np.isnan(outputs).any(axis=1)
    return float(np.mean(hits))
