"""Comparisons: a model with its file, layer by layer, and two networks side by side."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as kl
from tflite_writer import operator, tensor, write
from tiers import WIDE, by_tier

from keras_nin import export, layers
from keras_nin.audit import audit_model, compare_models

pytestmark = pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")


@pytest.fixture(autouse=True)
def seeded():
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


def randomized(model):
    """Give every weight a value of its own, so that the converter finds no equal or zero ones to merge."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model


def sequential(*stack, shape=(8, 8, 3)):
    return randomized(keras.Sequential([keras.Input(shape), *stack], name="net"))


def converted(model, folder, scheme="float32"):
    images = np.random.default_rng(0).random((4, *model.input_shape[1:]), np.float32)
    return export.convert_model(model, scheme, images, tuning=export.Tuning.plain()).save(folder, force=True)


def check(comparison):
    """What must be true of every reconciled conversion."""
    assert comparison.problems == ()
    assert comparison.passed
    assert [row for row in comparison.rows if row.status == "unexplained"] == []
    a, b = comparison.totals["params"]
    assert sum(change.params for change in comparison.parameter_changes) == b - a
    for name in ("params", "macs", "weight_bytes"):
        for side, total in enumerate(comparison.totals[name]):
            assert sum(getattr(row, name)[side] or 0 for row in comparison.rows) == total, name


def everything():
    stack = [
        *(kl.ZeroPadding2D(1, name="pad"), kl.Conv2D(8, 3, use_bias=False, name="conv")),
        *(kl.BatchNormalization(name="bn"), kl.ReLU(name="relu"), kl.Dropout(0.5, name="drop")),
        *(kl.DepthwiseConv2D(3, padding="same", name="depth"), kl.Activation("relu", name="act")),
        kl.SeparableConv2D(6, 3, padding="same", name="sep"),
        *(kl.MaxPooling2D(2, name="pool"), kl.Conv2D(4, 1, activation="relu", name="mix")),
        *(kl.GlobalAveragePooling2D(name="gap"), kl.Flatten(name="flat")),
        kl.Dense(5, activation="softmax", name="classes"),
    ]
    return sequential(*stack)


def with_and_without_record(path):
    """Yield twice; before the second time the export record beside the file goes away."""
    yield
    path.with_suffix(".json").unlink()
    yield


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_every_layer_is_explained_by_record_and_by_name(scheme, tmp_path):
    model = everything()
    path = converted(model, tmp_path, scheme)
    for _ in with_and_without_record(path):
        comparison = compare_models(model, path)
        check(comparison)
        found = {row.name: (row.status, row.operators, row.into) for row in comparison.rows}
        assert found["conv"] == ("matched", ("CONV_2D",), None)
        assert found["bn"] == ("folded", (), "conv")
        assert found["relu"] == ("fused", (), "conv")
        assert found["drop"] == ("removed", (), None)
        assert found["depth"] == ("matched", ("DEPTHWISE_CONV_2D",), None)
        assert found["act"] == ("fused", (), "depth")
        assert found["sep/depthwise"][:2] == ("matched", ("DEPTHWISE_CONV_2D",))
        assert found["sep/pointwise"][:2] == ("matched", ("CONV_2D",))
        assert found["flat"][0] in ("absorbed", "matched")
        assert found["gap"][:2] == ("matched", ("MEAN",))
        assert found["classes"][0] == "matched"
        assert "FULLY_CONNECTED" in found["classes"][1]
        document = json.loads(json.dumps(comparison.to_json()))
        assert (document["schema"], document["passed"]) == ("keras_nin.compare/1", True)
        assert len(document["rows"]) == len(comparison.rows)
        assert comparison.to_markdown().count("| ---") >= 2
        assert "folded into conv" in str(comparison)
        conv, norm = comparison.rows[1:3]
        assert (norm.params, norm.macs) == ((4 * 8, None), (0, None))
        assert norm.note == "32 values folded into its weights and its bias of 8"
        assert conv.note.startswith("bias of 8 added")
        folded = {(change.cause, change.rows, change.params) for change in comparison.parameter_changes}
        assert {("BatchNormalization folded", 1, -32), ("biases added by the conversion", 2, 8 + 8)} <= folded
        if scheme == "int8":
            assert (conv.params, conv.weight_bytes) == ((216, 216 + 8), (4 * 216, 216 + 4 * 8))
            assert set(comparison.stored) == {"int8", "int32"}
    assert compare_models(path, model) == compare_models(model, path)


def test_equal_constants_are_stored_once_and_a_bias_of_zeros_is_left_out(tmp_path):
    stack = [kl.Conv2D(4, 1, name="a"), kl.Conv2D(4, 3, name="b"), kl.Flatten(name="flat"), kl.Dense(5, name="classes")]
    model = sequential(*stack)
    for name in "ab":
        model.get_layer(name).bias.assign([1, 2, 3, 4])
    model.get_layer("classes").bias.assign(np.zeros(5))
    result = compare_models(model, converted(model, tmp_path))
    check(result)
    assert {(change.cause, change.rows, change.params) for change in result.parameter_changes} == {
        ("equal constants stored once", 1, -4),
        ("biases left out by the conversion", 1, -5),
    }


def test_a_shared_layer_and_a_nested_model(tmp_path):
    inner = keras.Sequential([keras.Input((8, 8, 4)), kl.Conv2D(4, 3, padding="same", name="conv")], name="inner")
    image = keras.Input((8, 8, 4))
    conv = kl.Conv2D(4, 1, name="conv")
    model = randomized(keras.Model(image, kl.Add(name="sum")([conv(inner(conv(image))), image]), name="net"))
    result = compare_models(model, converted(model, tmp_path))
    check(result)
    assert [row.a for row in result.rows] == ["conv", "inner/conv", "conv (2)", "sum"]
    assert [row.params for row in result.rows[:3]] == [(20, 20), (148, 148), (0, 0)]
    assert result.rows[2].note == "computes with the 20 values of an earlier operator"


@pytest.mark.parametrize("scheme", [pytest.param("float32", marks=pytest.mark.slow), "int8"])
def test_a_shared_model_is_counted_at_each_call(scheme, tmp_path):
    image = keras.Input((8, 8, 3))
    y = kl.ReLU(name="relu")(kl.BatchNormalization(name="bn")(kl.Conv2D(4, 3, use_bias=False, name="conv")(image)))
    encoder = keras.Model(image, kl.Dense(4, name="code")(kl.GlobalAveragePooling2D(name="gap")(y)), name="encoder")
    pair = keras.Input((8, 8, 6), name="pair")
    ends = [encoder(pair[..., :3]), encoder(pair[..., 3:])]
    model = randomized(keras.Model(pair, kl.Dense(1, name="same")(kl.Concatenate(name="join")(ends)), name="net"))
    path = converted(model, tmp_path, scheme)
    for _ in with_and_without_record(path):
        result = compare_models(model, path)
        check(result)
        rows = {row.a: row for row in result.rows}
        for name in ("conv", "gap", "code"):
            assert rows[f"encoder/{name}"].operators == rows[f"encoder (2)/{name}"].operators
            assert rows[f"encoder/{name}"].macs == rows[f"encoder (2)/{name}"].macs
        assert rows["encoder (2)/bn"].status == "folded"
        causes = {change.cause: change.params for change in result.parameter_changes}
        # The bias of the second "code" has a scale of its own: that of its input.
        assert causes.get("weights of shared layers stored again", 0) == (4 if scheme == "int8" else 0)


def test_batch_normalization_after_an_activation(tmp_path):
    stack = [
        *(kl.Conv1D(4, 3, activation="relu", name="conv"), kl.BatchNormalization(name="bn")),
        *(kl.MaxPooling1D(name="pool"), kl.Conv1D(4, 3, name="last"), kl.Flatten(name="flat")),
    ]
    model = sequential(*stack, kl.Dense(3, name="classes"), shape=(16, 2))
    path = converted(model, tmp_path)
    for _ in with_and_without_record(path):
        result = compare_models(model, path)
        check(result)
        rows = {row.a: row for row in result.rows}
        assert rows["bn"].operators == ("MUL", "ADD")
        assert rows["bn"].note.endswith("a scale and a shift of 8 values")
        assert rows["bn"].params == (16, 8)
        assert "MUL" not in rows["conv"].operators
        causes = {change.cause: change.params for change in result.parameter_changes}
        assert causes["BatchNormalization reduced to a scale and a shift"] == -8


def test_the_file_of_a_batch_has_the_macs_of_its_model_per_sample(tmp_path):
    model = sequential(kl.Conv2D(4, 3, name="conv"), kl.GlobalAveragePooling2D(name="gap"), kl.Dense(3, name="classes"))
    path = export.convert_model(model, "float32", batch=4).save(tmp_path)
    result = compare_models(model, path)
    check(result)
    assert result.batch == (1, 4)
    assert "batch 4: MACs per sample" in str(result)
    assert result.to_json()["batch"] == [1, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "shape", "left_out"),
    [
        # The first state is zeros, so the converter leaves out what multiplies it.
        (lambda: kl.LSTM(4, unroll=True), (5, 3), 4 * 4 * 4),
        (lambda: kl.LSTM(4), (5, 3), 0),
        (lambda: kl.Bidirectional(kl.GRU(4)), (5, 3), 0),
        (lambda: kl.Conv3D(4, 3), (5, 6, 7, 2), 0),
        (lambda: kl.Conv3DTranspose(4, 2, 2), (2, 3, 4, 2), 0),
    ],
)
def test_the_macs_of_a_file_are_those_of_its_layers(layer, shape, left_out, tmp_path):
    model = sequential(layer(), kl.Flatten(name="flat"), kl.Dense(2, name="out"), shape=shape)
    result = compare_models(model, converted(model, tmp_path))
    assert result.passed, result.problems
    in_model, in_file = result.totals["macs"]
    assert in_model - in_file == left_out
    assert result.totals["macs_unknown"] == (0, 0)
    assert ("MACs of its first state" in result.rows[0].note) == (left_out > 0)


@pytest.mark.slow
def test_the_macs_of_the_file_of_an_attention(tmp_path):
    image = keras.Input((6, 8))
    y = kl.MultiHeadAttention(2, 3, value_dim=5, name="attention")(image, image)
    model = randomized(keras.Model(image, kl.Dense(4, name="out")(kl.LayerNormalization(name="norm")(y)), name="net"))
    result = compare_models(model, converted(model, tmp_path))
    assert result.passed, result.problems
    assert result.totals["macs_unknown"] == (0, 0)


def test_casts_are_inserted(tmp_path):
    tensors = [
        *(tensor("x", [1, 6], "FLOAT32"), tensor("x8", [1, 6]), tensor("w", [5, 6], data=1), tensor("y8", [1, 5])),
        tensor("y", [1, 5], "FLOAT32"),
    ]
    made = [
        *(operator("QUANTIZE", [0], [1]), operator("FULLY_CONNECTED", [1, 2], [3], "FullyConnectedOptions")),
        operator("DEQUANTIZE", [3], [4]),
    ]
    model = sequential(kl.Dense(5, use_bias=False, name="classes"), shape=(6,))
    result = compare_models(model, write(tmp_path / "net.tflite", tensors, made))
    check(result)
    assert [row.note for row in result.rows if row.status == "inserted"] == [
        "converts the network's input to another number format",
        "converts the network's output to another number format",
    ]


def test_the_file_of_another_network_does_not_pass(build, exported):
    other = sequential(kl.Conv2D(4, 3, name="conv"), kl.Conv2D(7, 1, name="more"))
    result = compare_models(other, exported("nin_digits", "int8", weights="digits"))
    macs = audit_model(build("nin_digits", weights="digits")).total.macs
    assert not result.passed
    assert result.problems[0] == f"MACs in total: {36 * 108 + 36 * 28:,} in net, {macs:,} in nin_digits_int8"
    assert any("more" in problem for problem in result.problems)
    assert result.to_json()["passed"] is False


# Those left out of both tiers differ from one of the list in bypasses, normalization or classes.
@pytest.mark.parametrize(
    "name",
    [
        "nin_digits",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("convnet_linear_head", "convnet_pointwise_head", "deepphys_softconv")
        ),
        pytest.param("squeezenet_cifar10", marks=WIDE),
    ],
)
def test_files_of_the_zoo_have_the_macs_and_roles_of_their_model(name, build, exported, tmp_path):
    arguments = {"weights": "digits"} if name == "nin_digits" else {}
    model = build(name, **arguments)
    expected = audit_model(model, name=name)
    for scheme in ("float32", "int8"):
        path = exported(name, scheme, **arguments)
        file = audit_model(path)
        assert (file.unknown, file.model, file.total.trainable_params) == ((), f"{name}_{scheme}", 0)
        assert file.total.macs == expected.total.macs
        assert file.total.pointwise_macs == expected.total.pointwise_macs
        roles = [sorted((row.name, row.role) for row in audit.rows if row.role) for audit in (file, expected)]
        assert roles[0] == roles[1]
        check(compare_models(model, path))
        check(compare_models(model, shutil.copy(path, tmp_path)))  # without the record beside it


@pytest.mark.parametrize("name", by_tier(["MobileNetV2", "MobileNetV3Small"], wide=["MobileNetV2", "MobileNetV3Small"]))
def test_files_of_other_networks(name, tmp_path):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3))
    result = compare_models(model, converted(model, tmp_path))
    assert result.passed
    assert result.totals["macs"][0] == result.totals["macs"][1]


# Two networks


@pytest.mark.slow
def test_squeezenet_1_1_and_1_0(build):
    result = compare_models(build("squeezenet_v1_1"), build("squeezenet_v1_0"))
    assert (result.kind, result.a, result.b, result.passed) == ("networks", "squeezenet_v1_1", "squeezenet_v1_0", True)
    assert result.totals["macs"] == (349_151_936, 777_221_152)
    assert result.totals["params"] == (1_235_496, 1_248_424)
    rows = {row.name: row for row in result.rows}
    assert rows["conv1"].status == "changed"
    assert "kernel" in rows["conv1"].note
    assert [rows[name].status for name in ("pool3", "pool4", "drop9")] == ["only in a", "only in b", "changed"]
    blocks = {row.block: row.macs for row in result.blocks}
    assert blocks["fire4"] == (32_845_824, 131_383_296)
    assert sum(row.params[0] or 0 for row in result.rows) == result.totals["params"][0]


def test_rows_and_blocks_of_two_networks():
    def network(side, squeeze, pools, name):
        x = keras.Input((16, 16, 3))
        y = kl.MaxPooling2D(2, name=pools[0])(kl.Conv2D(8, side, name="conv1", padding="same")(x))
        y = layers.fire(y, squeeze=squeeze, expand1x1=8, expand3x3=8, name="fire4")
        y = kl.Dropout(0.5, name="drop9")(kl.MaxPooling2D(2, name=pools[1])(y))
        return keras.Model(x, y, name=name)

    result = compare_models(network(3, 4, ("pool3", "pool9"), "one"), network(5, 6, ("pool4", "pool9"), "two"))
    assert (result.kind, result.a, result.b, result.passed) == ("networks", "one", "two", True)
    rows = {row.name: row for row in result.rows}
    statuses = {"conv1": "changed", "pool3": "only in a", "pool4": "only in b", "pool9": "same", "drop9": "same"}
    assert {name: rows[name].status for name in statuses} == statuses
    assert rows["conv1"].note == "params, weight bytes, macs, kernel"
    (fire,) = result.blocks
    assert fire.block == "fire4"
    assert fire.macs == tuple(8 * 8 * (8 * squeeze + squeeze * 8 + 9 * squeeze * 8) for squeeze in (4, 6))
    for side, total in enumerate(result.totals["params"]):
        assert sum(row.params[side] or 0 for row in result.rows) == total


def test_1x1_and_3x3_by_name():
    result = compare_models("conv1x1_512to32", "conv3x3_512to32")
    assert result.totals["macs"] == (144 * 512 * 32, 9 * 144 * 512 * 32)
    assert result.totals["params"] == (512 * 32 + 32, 9 * 512 * 32 + 32)
    assert result.totals["pointwise_macs_share"] == (1.0, 0.0)
    assert "8.98" in str(result)


def test_a_network_is_the_same_as_itself():
    model = everything()
    result = compare_models(model, model, name_a="one", name_b="two")
    assert {row.status for row in result.rows} == {"same"}
    assert "14 of 14 rows are the same in both." in str(result)
    assert str(result).startswith("one (a), two (b)")


def test_rows_of_b_alone_stand_behind_what_precedes_them_there():
    a = sequential(kl.Conv2D(4, 3, name="first"), kl.Conv2D(4, 3, name="last"))
    b = sequential(
        kl.ReLU(name="early"), kl.Conv2D(4, 3, name="first"), kl.ReLU(name="mid"), kl.Conv2D(4, 3, name="last")
    )
    assert [row.name for row in compare_models(a, b).rows] == ["early", "first", "mid", "last"]


def test_two_files_are_compared_without_keras(exported):
    paths = [str(exported("nin_digits", scheme, weights="digits")) for scheme in ("float32", "int8")]
    program = (
        f"import sys; from keras_nin.audit import compare_models; result = compare_models(*{paths!r}); str(result); "
        "print(result.totals['weight_bytes'], [m for m in ('numpy', 'keras', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    biases = 3 * 48 + 32 + 24 + 2 * 64 + 48 + 10
    assert done.stdout == f"({4 * 50_482}, {50_482 + 3 * biases}) []\n"


def test_names_can_be_set():
    model = sequential(kl.Conv2D(4, 3, name="conv"))
    assert compare_models(model, model, name_a="x").a == "x"
    assert audit_model(model).model == "net"
