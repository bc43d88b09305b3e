"""`Audit.summary()`: in the manner of `keras.Model.summary()`."""

import inspect
import re

import audits
import keras
import pytest

from keras_nin import layers
from keras_nin.audit import audit_model
from keras_nin.audit.api import Audit
from keras_nin.errors import InputError

L = keras.layers


@pytest.fixture(scope="module")
def nested():
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(4, 1, name="leaf")(x)
    deep = keras.Model(x, L.ReLU(name="act")(y), name="deep")
    z = keras.Input((8, 8, 3))
    block = keras.Model(z, L.Conv2D(2, 3, name="conv", trainable=False)(deep(z)), name="block")
    i = keras.Input((8, 8, 3))
    y = L.SeparableConv2D(3, 3, padding="same", name="sep")(i)
    return keras.Model(i, L.Flatten(name="flat[red]")(block(y)), name="outer")


def printed(result, **options):
    lines = []
    result.summary(print_fn=lines.append, **options)
    return lines


def names(lines):
    cells = [line[1:].split("│")[0].rstrip() for line in lines if line.startswith("│")]
    return [cell.split(" (")[0][1:] for cell in cells]


def test_the_arguments_are_those_of_keras_in_its_order():
    ours, keras_own = (list(inspect.signature(method).parameters) for method in (Audit.summary, keras.Model.summary))
    assert ours == keras_own


def test_a_nested_model_is_one_line_with_its_sums(nested):
    lines = printed(audit_model(nested))
    assert names(lines) == ["sep/depthwise", "sep/pointwise", "block", "flat[red]"]
    block = next(line for line in lines if line.startswith("│ block"))
    assert [cell.strip() for cell in block[1:-1].split("│")] == [
        "block (nested, 3 layers)",
        "6x6x2",
        f"{3 * 4 + 4 + 3 * 3 * 4 * 2 + 2}",
        f"{64 * 3 * 4 + 36 * 9 * 4 * 2:,}",
        "",
    ]


def test_blocks_inside_a_nested_model_do_not_open_it():
    x = keras.Input((8, 8, 16))
    y = layers.fire(x, squeeze=4, expand1x1=8, expand3x3=8, name="fire2")
    y = layers.fire(y, squeeze=4, expand1x1=8, expand3x3=8, name="fire3")
    i = keras.Input((8, 8, 16))
    result = audit_model(keras.Model(i, keras.Model(x, y, name="backbone")(i), name="outer"))
    assert {row.block for row in result.rows} == {"backbone/fire2", "backbone/fire3"}
    assert names(printed(result)) == ["backbone"]


def test_nested_models_expand(nested):
    lines = printed(audit_model(nested), expand_nested=True)
    assert names(lines) == [
        *("sep/depthwise", "sep/pointwise", "block", "   └ deep", "      └ leaf", "      └ act", "   └ conv"),
        "flat[red]",
    ]


def test_totals_are_the_weights_own_even_after_training(nested):
    before = printed(audit_model(nested))
    nested.compile(optimizer="adam", loss="mse")
    nested.optimizer.build(nested.trainable_variables)
    assert printed(audit_model(nested)) == before
    assert f" Total params: {nested.count_params():,} " in "\n".join(before)


def test_trainable(nested):
    lines = printed(audit_model(nested), show_trainable=True, expand_nested=True)
    marks = {name.strip("└ "): line[:-1].split("│")[-1].strip() for name, line in
             zip(names(lines), [line for line in lines if line.startswith("│")], strict=True)}  # fmt: skip
    assert (marks["leaf"], marks["conv"], marks["act"]) == ("Y", "N", "-")


@pytest.mark.parametrize("length", [60, 76, 108, 150])
def test_lines_are_as_long_as_asked_for_and_no_number_is_cut(length):
    result = audits.audit([audits.row("a_very_long_name_" * 5, macs=1_234_567_890, params=1_234_567)])
    lines = printed(result, line_length=length)
    table = [line for line in lines if line[0] in "┏┃┡│└"]
    assert {len(line) for line in table} == {length}
    assert sum("1,234,567,890" in line for line in table) == 1


def test_it_is_called_with_each_line_or_prints(capsys):
    lines = printed(audits.small())
    assert not any("\n" in line for line in lines)
    audits.small().summary()
    assert capsys.readouterr().out.splitlines() == lines
    assert lines[0] == 'Model: "small"'
    assert " Total MACs: 1,000, without 1 layer with unknown MACs" in lines
    assert any("reduce" in line for line in lines)


def test_layer_range():
    result = audits.small()
    assert names(printed(result, layer_range=["a_3", "odd"])) == ["a_3x3", "odd[red]|x"]
    assert names(printed(result, layer_range=("odd", "a_3"))) == ["a_3x3", "odd[red]|x"]
    assert names(printed(result, layer_range=("a_", "a_"))) == ["a_1x1", "a_3x3"]


def test_positions_are_parts_or_characters():
    result = audits.small()
    lines = printed(result, line_length=100, positions=[0.4, 0.6, 0.75, 0.85, 1.0])
    ends = [match.start() for match in re.finditer("┃", lines[2])]
    assert ends == [0, 40, 60, 75, 85, 99]
    assert lines == printed(result, line_length=100, positions=[40, 60, 75, 85, 100])


@pytest.mark.parametrize(
    "options",
    [
        *({"line_length": length} for length in (0, -3, 10, 80.5, "80", True)),
        *(
            {"positions": positions}
            for positions in ([0.5, 1.0], [0.9, 0.6, 0.7, 0.8, 1.0], "abcde", [0.01, 0.02, 0.03, 0.04, 1])
        ),
        {"positions": [0.4, 0.6, 0.75, 0.85, 1.3]},
        *({"layer_range": names} for names in (("a",), ("a", 1), "ab", ("nothing", "a"), ("(", "a"))),
    ],
)
def test_bad_arguments(options):
    with pytest.raises(InputError, match="Expected"):
        printed(audits.small(), **options)
    with pytest.raises(InputError, match="print_fn"):
        audits.small().summary(print_fn="print")
