"""Scores of a classifier and distances of arrays."""

import math

import numpy as np


def top_k_accuracy(outputs, labels, k):
    """Return the share of rows of `outputs` (N, classes) whose label is among the `k` largest; None if k >= classes.

    A row that holds NaN says nothing and is a miss.
    """
    return float(np.mean(top_k_hits(outputs, labels, k))) if k < outputs.shape[1] else None


def top_k_hits(outputs, labels, k):
    """Return for each row of `outputs` (N, classes) whether its label is among the `k` largest, bool (N,).

    A row that holds NaN says nothing and is a miss.
    """
    # A stable sort, so that a tie at the top goes to the lower class, as argmax has it.
    outputs = outputs.astype(np.float64)
    best = np.argsort(-outputs, axis=1, kind="stable")[:, :k]
    return (best == np.asarray(labels)[:, None]).any(axis=1) & ~np.isnan(outputs).any(axis=1)


def count_top_ties(outputs):
    """Return how many rows of `outputs` (N, classes) have several equal largest values."""
    return int(np.sum((outputs == outputs.max(axis=1, keepdims=True)).sum(axis=1) > 1))


def snr_db(reference, values):
    """Return the signal to noise of `values` in dB, ``10 log10(sum reference**2 / sum (values - reference)**2)``.

    None where nothing differs, or where something is not finite; -inf for noise without a signal.
    """
    reference = np.asarray(reference, np.float64)
    return energy_ratio_db(float(np.sum(reference**2)), float(np.sum((values - reference) ** 2)))


def energy_ratio_db(signal, noise):
    """Return two energies as a signal to noise in dB, with the special cases of `snr_db`."""
    if noise == 0 or not math.isfinite(signal) or not math.isfinite(noise):
        return None
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def predicted_classes(outputs):
    """Return the class of the largest output of each row of (N, classes), int64 (N,); -1 for a row that holds NaN."""
    return np.where(np.isnan(outputs.astype(np.float64)).any(axis=1), -1, outputs.argmax(axis=1))


def confusion_matrix(labels, predicted, classes):
    """Return how many images of class i were predicted as class j, int64 (classes, classes); -1 predicts nothing."""
    matrix = np.zeros((classes, classes), np.int64)
    known = predicted >= 0
    np.add.at(matrix, (labels[known], predicted[known]), 1)
    return matrix
