"""The table of the zoo in the documentation: complete and true; and the variants that the Edge TPU runs whole."""

import importlib
import pathlib

import numpy as np
import pytest
from tiers import by_tier

from keras_nin import models

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
# tests/test_models_zoo.py checks the rows of the models themselves, where it exports them.
ROWS = (
    "convnet_pointwise_head --set relu_first=true",
    "convnet_extra_relu --set relu_first=true",
    "convnet_linear_head --set relu_first=true",
    "keras:MobileNet",
)


@pytest.fixture(scope="module")
def zoo():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("edgetpu_zoo")


def rows(text):
    return {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines()[2:]}


def test_every_model_has_a_row_in_the_docs(zoo):
    shown = rows(zoo.shown())
    assert list(shown) == [zoo.label(*subject) for subject in zoo.subjects()]
    assert {*ROWS, *models.list_models()} <= shown.keys()


def test_what_is_not_fully_mapped_has_a_variant_that_is(zoo):
    columns = {name: line.split(" | ") for name, line in rows(zoo.shown()).items()}
    partial = [name for name, cells in columns.items() if cells[3] != "0"]
    assert partial == ["googlenet", "convnet_extra_relu", "convnet_linear_head", "convnet_pointwise_head"]
    assert all(columns[f"{name} --set relu_first=true"][3] == "0" for name in partial[1:])
    assert columns["googlenet_bn"][3] == "0"


@pytest.mark.parametrize("name", by_tier(ROWS, wide=["keras:MobileNet"]))
def test_rows_are_true(name, zoo):
    (subject,) = [subject for subject in zoo.subjects() if zoo.label(*subject) == name]
    assert rows(zoo.table([zoo.verdict(*subject)])) == {name: rows(zoo.shown())[name]}


@pytest.mark.parametrize(
    "name",
    [
        "convnet_pointwise_head",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("convnet_extra_relu", "convnet_linear_head")),
    ],
)
def test_relu_before_pooling_is_the_same_function(name, build):
    before, after = build(name), models.build_model(name, relu_first=True)
    after.set_weights(before.get_weights())
    images = np.random.default_rng(0).normal(size=(4, 28, 28, 1)).astype(np.float32)
    assert np.array_equal(before.predict_on_batch(images), after.predict_on_batch(images))
    order = [layer.name for layer in after.layers]
    assert order.index("relu1") < order.index("pool1") < order.index("conv2")
