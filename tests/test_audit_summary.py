"""The audit against what `model.summary()` prints for every model of the zoo."""

import re

import keras
import pytest

from keras_nin import layers, models
from keras_nin.audit import audit_model, keras_reader

WIDTH = 400


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    """Rich cuts a table to the terminal, whatever line length it is asked for."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def printed(model):
    """Layer name -> (output shape, parameters) as the summary prints them, without the input and nested lines."""
    lines = []
    model.summary(line_length=WIDTH, print_fn=lambda text: lines.extend(text.splitlines()))
    found = {}
    for line in lines:
        # The lines below the first of a row name further inputs only.
        cells = re.match(r"│ (\S+) \((\w+)\) *│ (\(.*?\)) *│ +([\d,]+) │", line)
        if cells and cells[2] != "InputLayer":
            name, _, shape, params = cells.groups()
            shape = tuple(None if side == "None" else int(side) for side in re.findall(r"None|\d+", shape))
            found[name] = (shape, int(params.replace(",", "")))
    return found


def counted(model):
    """The same from the audit: halves of a layer, and what an opened layer holds, belong to that layer."""
    found = {}
    for row in audit_model(model).rows:
        name = row.name.split("/")[0]
        found[name] = ((None, *row.output_shape[1:]), found.get(name, (None, 0))[1] + row.params)
    return found


def check(model):
    found = printed(model)
    assert found == counted(model)
    assert len(found) == len(model.layers) - sum(isinstance(layer, keras.layers.InputLayer) for layer in model.layers)


@pytest.mark.parametrize("name", models.list_models())
def test_every_layer_of_the_zoo_has_the_parameters_and_the_shape_that_the_summary_prints(name):
    check(models.build_model(name))


def test_layers_that_the_audit_opens_or_splits():
    x = keras.Input((16, 16, 3))
    y = keras.layers.SeparableConv2D(8, 3, name="separable")(x)
    y = layers.Fire(4, 8, 8, name="fire")(layers.MLPConv([8, 8], 3, name="mlpconv")(y))
    y = layers.PointwiseHead(10, name="head")(layers.InceptionModule(4, 4, 4, 2, 2, 4, name="inception")(y))
    check(keras.Model(x, y))


def test_the_optimizer_is_not_counted_after_training():
    model = models.build_model("nin_digits")
    before = audit_model(model)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*[keras.ops.zeros(shape) for shape in ((2, *model.input_shape[1:]), (2,))], verbose=0)
    assert audit_model(model) == before
    # What the summary calls the total includes the optimizer's variables by now.
    lines = []
    model.summary(line_length=WIDTH, print_fn=lines.append)
    total = int(re.search(r"Total params: ([\d,]+)", "\n".join(lines))[1].replace(",", ""))
    assert total > before.total.params == model.count_params()
    assert keras_reader.WEIGHTS_OUTSIDE_GRAPH not in [row.name for row in before.rows]
