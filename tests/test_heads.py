"""What outputs mean, and their scores."""

import importlib
import math

import numpy as np
import pytest

from keras_nin import InputError
from keras_nin.heads import (
    Head,
    describe_guessing,
    describe_missing_information,
    infer_task,
    make_heads,
    score_drop,
    targets_of,
)

generator = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "activation", "labels", "task"),
    [
        ((10,), "softmax", None, "classification"),
        ((1, 1, 10), "softmax", None, "classification"),
        ((10,), None, None, "classification"),
        ((10,), None, np.zeros(4, int), "classification"),
        ((10,), None, np.zeros((4, 10)), "regression"),
        ((1,), "sigmoid", None, "binary"),
        ((1,), None, None, "regression"),
        ((1,), None, np.array([0, 1, 1]), "binary"),
        ((1,), None, np.array([20, 31, 7]), "regression"),
        ((1,), "tanh", None, "regression"),
        ((4,), "sigmoid", None, "multilabel"),
        ((8, 8, 3), "softmax", None, "segmentation"),
        ((8, 8, 1), "sigmoid", None, "segmentation"),
        ((8, 8, 3), None, None, "regression"),
        ((8, 8, 3), None, np.zeros((2, 8, 8), np.uint8), "segmentation"),
        ((8, 8, 3), None, np.zeros((2, 8, 8, 3), np.uint8), "regression"),
        ((100, 4), None, None, "regression"),
        ((3,), "argmax", None, "classification"),
        ((8, 8, None), "argmax", None, "segmentation"),
    ],
)
def test_the_task_of_an_output(shape, activation, labels, task):
    assert infer_task(shape, activation, labels) == task


def test_tasks_that_are_chosen():
    outputs = [("mask", (8, 8, 1), "sigmoid"), ("age", (1,), None)]
    assert [head.task for head in make_heads(outputs)] == ["segmentation", "regression"]
    assert [head.task for head in make_heads(outputs, "age=binary")] == ["segmentation", "binary"]
    (logit,) = make_heads([("age", (1,), None)], "binary")
    assert (logit.name, logit.threshold) == (None, 0)
    with pytest.raises(InputError, match="`task` to be one of classification, .* Received: 'age'"):
        make_heads(outputs, "mask=age")
    with pytest.raises(InputError, match="`task` to name one of the outputs mask, age. Received: 'face'"):
        make_heads(outputs, "face=binary")
    with pytest.raises(InputError, match="labels of the outputs 'mask', 'age'. Received: 'face'"):
        targets_of({"face": 1}, "mask", ["mask", "age"])


def test_scores_are_those_of_scikit_learn():
    sklearn = importlib.import_module("sklearn.metrics")
    values = generator.random((200, 1), np.float32)
    truth = (values[:, 0] + generator.normal(0, 0.4, 200) > 0.5).astype(int)
    scores = Head(None, "binary", (1,)).scores(values, truth)
    decided = values[:, 0] > 0.5
    assert scores == pytest.approx({
        "accuracy": sklearn.accuracy_score(truth, decided), "precision": sklearn.precision_score(truth, decided),
        "recall": sklearn.recall_score(truth, decided), "f1": sklearn.f1_score(truth, decided),
        "auc": sklearn.roc_auc_score(truth, values[:, 0]),
    })  # fmt: skip
    outputs, labels = generator.random((200, 3), np.float32), generator.integers(0, 2, (200, 3))
    assert Head(None, "multilabel", (3,)).scores(outputs, labels) == pytest.approx({
        "accuracy": np.mean((outputs > 0.5) == labels), "exact_match": sklearn.accuracy_score(labels, outputs > 0.5),
        "f1": sklearn.f1_score(labels, outputs > 0.5, average="macro"),
    })  # fmt: skip
    targets = outputs + generator.normal(0, 0.1, outputs.shape)
    assert Head(None, "regression", (3,)).scores(outputs, targets) == pytest.approx({
        "mae": sklearn.mean_absolute_error(targets, outputs),
        "rmse": math.sqrt(sklearn.mean_squared_error(targets, outputs)),
        "r2": sklearn.r2_score(targets, outputs, multioutput="variance_weighted"),
    })  # fmt: skip


def test_masks():
    head = Head("mask", "segmentation", (2, 2, 3))
    outputs = np.eye(3, dtype=np.float32)[[[[0, 1], [1, 2]]]]
    assert head.decisions(outputs).tolist() == [[[0, 1], [1, 2]]]
    targets = head.check_targets(np.uint8([[[0, 1], [2, 255]]]), "set.npz")
    # class 0: 1 of 1, class 1: 1 of 2, class 2: 0 of 1; the last pixel is unknown
    assert head.scores(outputs, targets) == pytest.approx({"mean_iou": 0.5, "pixel_accuracy": 2 / 3})
    binary = Head(None, "segmentation", (2, 2, 1))
    yes = np.float32([[[[0.9], [0.2]], [[np.nan], [0.7]]]])
    assert binary.decisions(yes).tolist() == [[[1, 0], [-1, 1]]]


def test_class_indices_have_the_scores_of_their_classes():
    (head,) = make_heads([("map", (2, 2, 3), "argmax")])
    truth = head.check_targets(np.uint8([[[0, 1], [2, 255]]]), "set.npz")
    chosen = np.array([[[0, 1], [1, 2]]])
    expected = Head(None, "segmentation", (2, 2, 3)).scores(np.eye(3)[chosen], truth)
    assert head.scores(chosen, truth) == head.scores(chosen[..., np.newaxis], truth) == expected
    with pytest.raises(InputError, match="labels from 0 to 2"):
        head.check_targets(np.full((1, 2, 2), 3), "set.npz")
    (head,) = make_heads([("class", (None,), "argmax")])  # of an unknown number of classes
    truth = head.check_targets(np.array([4, 0, 7]), "set.npz")
    assert head.scores(np.array([4, 9, 7]), truth) == {"top1": 2 / 3, "top5": None}
    # Damage that leaves one class for everything; three images of one class may be the same.
    assert head.describe_missing_information(np.array([0, 0, 0]), truth) == "it is the same for all 3 images"
    assert head.describe_missing_information(np.array([4, 4, 4]), np.array([4, 4, 4])) is None


@pytest.mark.parametrize(
    ("task", "shape", "labels", "message"),
    [
        ("classification", (3,), [0, 3], "labels from 0 to 2"),
        ("classification", (3,), [-1, 0], "labels from 0 to 2, .* Received: -1"),
        ("classification", (3,), [0.5, 1.5], r"whole numbers as labels of output 'x' \(classification\)"),
        ("binary", (1,), [0, 2], "labels from 0 to 1"),
        ("multilabel", (3,), [[0, 1], [1, 1]], r"labels of shape \(N, 3\)"),
        ("segmentation", (4, 4, 2), np.zeros((2, 5, 4), int), r"labels of shape \(N, 4, 4\)"),
        ("segmentation", (4, 4, 1), np.full((2, 4, 4), 7), "labels from 0 to 1"),
        ("segmentation", (2, 2, 1), np.full((1, 2, 2), 255), "masks with 1 for the class .* Write 1 for 255"),
        ("regression", (4,), [1.0, 2.0], r"a number for each value of output 'x', \(4,\)"),
    ],
)
def test_labels_that_do_not_fit(task, shape, labels, message):
    with pytest.raises(InputError, match=message):
        Head("x", task, shape).check_targets(np.asarray(labels), "set.npz")


def test_labels_in_other_forms():
    assert Head(None, "classification", (3,)).check_targets(np.eye(3), "a").tolist() == [0, 1, 2]
    assert Head(None, "multilabel", (3,)).check_targets(np.array([2, 0]), "a").tolist() == [[0, 0, 1], [1, 0, 0]]
    assert Head(None, "regression", (1,)).check_targets(np.array([2, 0]), "a").tolist() == [[2.0], [0.0]]


def test_outputs_without_information():
    varied = generator.random((4, 3))
    assert describe_missing_information(varied) is None
    assert describe_missing_information(np.full((4, 3), np.nan)) == "it is NaN for all 4 images"
    assert describe_missing_information(np.full((4, 3), np.inf)) == "it is NaN or infinite for all 4 images"
    assert describe_missing_information(np.tile(varied[:1], (4, 1))) == "it is the same for all 4 images"
    assert describe_missing_information(np.zeros((4, 1))) == "it is the same for all 4 images"
    assert describe_missing_information(varied[:1]) is None  # one image may have any output
    assert describe_missing_information(np.full((1, 3), np.nan)) == "it is NaN"
    varied[0] = np.nan
    assert describe_missing_information(varied) is None  # a miss among others


def test_the_rise_of_an_error_is_in_shares_of_the_deviation():
    head = Head(None, "regression", (1,))
    before, after = ({"mae": 0.0, "rmse": rmse, "r2": None} for rmse in (1.0, 1.5))
    assert score_drop(head, before, after, 10.0) == 5
    assert score_drop(head, before, after, 0.0) is None
    assert math.isnan(score_drop(head, before, {"rmse": None}, 10.0))


def test_scores_that_are_no_better_than_guessing():
    classes, count = 10, 200
    head = Head(None, "classification", (classes,))
    labels = np.arange(count) % classes
    right, wrong = np.eye(classes)[labels], np.eye(classes)[generator.permutation(labels)]
    assert describe_guessing(head, wrong, labels) == f"top-1 is {head.scores(wrong, labels)['top1']:.1%}, " \
        "no better than guessing"  # fmt: skip
    assert describe_guessing(head, right, labels) is None
    better = np.where((np.arange(count) < 60)[:, np.newaxis], right, wrong)  # 30% or more
    assert describe_guessing(head, better, labels) is None
    assert describe_guessing(head, np.roll(right, 1, axis=1), labels).startswith("top-1 is 0.0%")  # other numbering
    constant = np.zeros((count, classes)) + np.arange(count)[:, np.newaxis]  # class 0 for each
    assert describe_guessing(head, constant, np.where(labels < 7, 0, labels)) is not None  # 70%, as often as the label
    assert describe_guessing(head, constant, np.zeros(count, int)) is None  # images of one class say nothing
    assert describe_guessing(head, wrong[:3], labels[:3]) is None  # nor do three
    assert describe_guessing(head, np.full_like(right, np.nan), labels) is None  # said elsewhere
    yes = generator.random((count, 1)) > 0.9
    binary = Head(None, "binary", (1,))
    assert describe_guessing(binary, generator.permutation(yes) * 1.0, yes[:, 0].astype(int)).startswith("accuracy is ")
    assert describe_guessing(binary, yes * 1.0, yes[:, 0].astype(int)) is None
    marks = (generator.random((count, 3)) > [0.1, 0.5, 0.9]).astype(int)
    multilabel = Head(None, "multilabel", (3,))
    assert describe_guessing(multilabel, marks[generator.permutation(count)] * 1.0, marks) is not None
    assert describe_guessing(multilabel, marks * 1.0, marks) is None
    masks = generator.integers(0, 3, (9, 8, 8))
    masks[:, 0] = 255
    segmentation = Head(None, "segmentation", (8, 8, 3))
    assert describe_guessing(segmentation, np.eye(3)[generator.permutation(masks[masks < 3]).reshape(9, 7, 8)],
                             masks[:, 1:]) is not None  # fmt: skip
    assert describe_guessing(segmentation, np.eye(3)[masks % 3], masks) is None
    assert describe_guessing(Head(None, "regression", (3,)), right[:, :3], right[:, :3]) is None
