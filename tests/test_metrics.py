"""Scores and distances, against arithmetic by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_nin.metrics import (
    confusion_matrix,
    count_top_ties,
    energy_ratio_db,
    predicted_classes,
    snr_db,
    top_k_accuracy,
)


def test_top_k():
    outputs = np.array([[0.1, 0.6, 0.3], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], np.float32)
    assert top_k_accuracy(outputs, [1, 0, 0], 1) == pytest.approx(2 / 3)
    assert top_k_accuracy(outputs, [2, 1, 0], 1) == 0  # a tie goes to the lower class
    assert top_k_accuracy(outputs, [2, 1, 0], 2) == pytest.approx(2 / 3)
    assert top_k_accuracy(outputs, [0, 0, 0], 3) is None
    assert top_k_accuracy(np.array([[-128, 127]], np.int8), [1], 1) == 1


def test_nan_is_a_miss():
    outputs = np.array([[np.nan] * 3, [0.0, np.nan, 0.0], [1.0, 0.0, 0.0]])
    assert top_k_accuracy(outputs, [0, 0, 0], 1) == pytest.approx(1 / 3)


scores = hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(4)), elements=st.sampled_from([0.0, 0.25, 1.0]))


@given(outputs=scores, data=st.data())
def test_top_1_is_the_predicted_class_and_more_of_the_best_find_no_less(outputs, data):
    labels = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(outputs), max_size=len(outputs))))
    assert top_k_accuracy(outputs, labels, 1) == np.mean(predicted_classes(outputs) == labels)
    found = [top_k_accuracy(outputs, labels, k) for k in (1, 2, 3)]
    assert found == sorted(found)
    assert count_top_ties(outputs) == sum(list(row).count(max(row)) > 1 for row in outputs.tolist())


def test_a_confusion_matrix_counts_images_by_true_and_predicted_class():
    labels, predicted = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, -1, 0])
    assert confusion_matrix(labels, predicted, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert predicted_classes(np.array([[0.1, np.nan], [0.2, 0.1]])).tolist() == [-1, 0]


def test_signal_to_noise():
    reference = np.array([3.0, 4.0])
    assert snr_db(reference, reference + np.array([0.3, 0.4])) == pytest.approx(20)
    assert snr_db(reference, reference) is None
    assert snr_db(np.zeros(2), np.ones(2)) == -math.inf
    assert snr_db(reference, np.array([np.nan, 0])) is None
    assert energy_ratio_db(100.0, 1.0) == pytest.approx(20)
