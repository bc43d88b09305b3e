"""Samples by the names of a network's inputs."""

import numpy as np
import pytest

from keras_nin import InputError, data

INPUTS = {"picture": (4, 4, 3), "history": (5,)}


def arrays(count=12):
    rng = np.random.default_rng(0)
    return {name: rng.random((count, *shape), np.float32) for name, shape in INPUTS.items()}


@pytest.fixture
def save(tmp_path):
    def write(**content):
        np.savez(tmp_path / "samples.npz", **content)
        return str(tmp_path / "samples.npz")

    return write


def test_an_array_for_each_input(save):
    stored = arrays()
    dataset = data.open_arrays(save(**stored, labels=np.arange(12)), INPUTS)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"calibration": 3, "test": 9}
    chosen = dataset.select("calibration")
    loaded = dataset.load(chosen)
    assert set(loaded) == set(INPUTS)
    for name in INPUTS:
        np.testing.assert_array_equal(loaded[name], stored[name][[0, 5, 10]])
    (part, labels), *rest = dataset.batches(dataset.select("test"), None, None, batch=6)
    assert [len(array) for array in part.values()] == [6, 6]
    assert (list(labels), len(rest)) == ([1, 2, 3, 4, 6, 7], 1)


def test_one_input_is_an_array(save):
    stored = arrays()
    dataset = data.open_arrays(save(**stored), {"history": (5,)})
    np.testing.assert_array_equal(dataset.load([1, 2]), stored["history"][[1, 2]])
    assert dataset.labels is None


def test_the_hash_is_over_all_inputs(save):
    stored = arrays()
    first = data.open_arrays(save(**stored), INPUTS).digest([0, 1])
    stored["history"][1, 4] += 1
    assert data.open_arrays(save(**stored), INPUTS).digest([0, 1]) != first
    assert data.open_arrays(save(**stored), INPUTS).digest([0]) == data.open_arrays(save(**arrays()), INPUTS).digest(
        [0]
    )


def test_noise():
    first, second = (data.open_arrays("random", INPUTS, seed) for seed in (0, 1))
    assert first.name == "random"
    assert first.load([0])["picture"].shape == (1, 4, 4, 3)
    assert first.digest([0, 1]) == data.open_arrays("random", INPUTS, 0).digest([0, 1]) != second.digest([0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": None}, r"to hold history \(N, 5\). Received: picture"),
        ({"history": np.zeros((12, 4), np.float32)}, r"`history` .* numbers \(N, 5\). Received: float32 \(12, 4\)"),
        ({"history": np.zeros((3, 5), np.float32)}, r"as many samples for each input .*'picture': 12, 'history': 3"),
        ({"history": np.zeros((0, 5), np.float32), "picture": np.zeros((0, 4, 4, 3))}, r"float.* \(0, 4, 4, 3\)"),
        ({"history": np.full((12, 5), np.nan)}, "finite numbers. Received: NaN"),
        ({"history": np.full((12, 5), "a")}, "numbers .* Received: <U1"),
        ({"labels": np.zeros(3, np.int64)}, r"`labels` .* shape \(12,\)"),
    ],
)
def test_files_that_do_not_fit(save, change, message):
    content = {name: array for name, array in (arrays() | change).items() if array is not None}
    with pytest.raises(InputError, match=message):
        data.open_arrays(save(**content), INPUTS)


def test_other_sources(tmp_path):
    with pytest.raises(
        InputError, match=r"\(picture \(N, 4, 4, 3\), history \(N, 5\)\), or 'random'. Received: 'digits'"
    ):
        data.open_arrays("digits", INPUTS)
    with pytest.raises(InputError, match="readable file"):
        data.open_arrays(str(tmp_path / "missing.npz"), INPUTS)


def test_the_size_of_an_image():
    assert data.split_image_shape((4, 5, 3)) == ((4, 5), 3)
    assert data.split_image_shape(INPUTS) == (None, None)
