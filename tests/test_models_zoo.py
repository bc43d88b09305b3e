"""Four tests for every model of the zoo, and the published numbers that it is held to."""

import dataclasses
import inspect
import pathlib

import keras
import numpy as np
import pytest

from keras_nin import InputError, export, models
from keras_nin.audit import audit_model
from keras_nin.edge.edgetpu import check_edgetpu
from keras_nin.report.edge import format_edgetpu_overview
from keras_nin.tflite.records import float_operators

EDGETPU = pathlib.Path(__file__).parents[1] / "docs" / "edgetpu.md"
NAMES = models.list_models()
# Saving and converting the large ones takes minutes: CI's slow tier does it, and of the squeezenets all but two.
LARGE = 5_000_000
SLOW = [name for name in NAMES if models.get_spec(name).params > LARGE or name.startswith("squeezenet_v1")]
SIZED = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES]

# From the papers, their authors' releases and independent counts; the specs beside the builders are arithmetic.
PUBLISHED_PARAMS = {
    "nin_cifar10": 14_592 + 30_880 + 15_456 + 460_992 + 37_056 + 37_056 + 331_968 + 37_056 + 1_930,
    "nin_cifar100": 984_356,
    "nin_imagenet": 7_595_176,
    "squeezenet_v1_0": 1_248_424,
    "squeezenet_v1_0_simple_bypass": 1_248_424,
    "squeezenet_v1_0_complex_bypass": 1_589_672,
    "squeezenet_v1_1": 1_235_496,
    "convnet_linear_head": (3 * 3 * 1 * 3 + 3) + (3 * 3 * 3 * 64 + 64) + (3136 * 100 + 100) + (100 * 10 + 10),
    "conv1x1_512to32": 16_416,
    "conv3x3_512to32": 147_488,
    "conv1x1_512to512": 262_656,
    "conv1x1_3to2": 8,
    "conv3x3_3to2": 56,
}
PUBLISHED_PARAMS |= {
    "googlenet": 6_998_552,
    "googlenet_bn": 7_005_832 + 14_560,
    "inception_v3": 23_851_784,
}
PUBLISHED_MACS = {
    "googlenet": 1_582_671_872,
    "googlenet_bn": 1_582_671_872,
    "inception_v3": 5_713_216_096,
    "nin_cifar10": 222_486_528,
    "nin_imagenet": 1_105_996_320,
    "squeezenet_v1_0": 777_221_152,
    "squeezenet_v1_0_complex_bypass": 1_107_964_960,
    "squeezenet_v1_1": 349_151_936,
}


@pytest.fixture(scope="module")
def built():
    """Each model once, with the weights that ship or random ones."""
    made = {}

    def get(name):
        if name not in made:
            spec = models.get_spec(name)
            made[name] = models.build_model(name, weights=spec.weights[0] if spec.weights else None)
        return made[name]

    return get


def noise(model, count=1):
    return np.random.default_rng(0).random((count, *model.input_shape[1:]), np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_numbers(name, built):
    spec, model = models.get_spec(name), built(name)
    result = audit_model(model)
    assert model.count_params() == spec.params == sum(row.params for row in result.rows)
    assert result.total.macs == spec.macs
    assert model.input_shape == (None, *spec.input_shape)
    assert model.name == name
    if spec.classes:
        assert model.output_shape == (None, spec.classes)


@pytest.mark.parametrize("name", SIZED)
def test_save_and_load(name, built, tmp_path):
    model = built(name)
    model.save(tmp_path / "model.keras")
    loaded = models.load_model(str(tmp_path / "model.keras")).model
    assert models.hash_weights(loaded) == models.hash_weights(model)
    image = noise(model)
    np.testing.assert_array_equal(loaded.predict(image, verbose=0), model.predict(image, verbose=0))


@pytest.mark.parametrize("name", SIZED)
def test_int8_has_no_float_operator_and_the_edge_tpu_s_verdict_of_the_docs(name, built, tmp_path):
    model = built(name)
    made = export.convert_model(model, "int8", noise(model, 2))
    verdict = dataclasses.replace(check_edgetpu(made.save(tmp_path / "net.tflite")), model=name)
    assert format_edgetpu_overview([verdict]).splitlines()[-1] in EDGETPU.read_text().splitlines()
    graph = made.tflite
    assert {operator.op for operator in float_operators(graph)} <= {"QUANTIZE", "DEQUANTIZE"}
    main = graph.main
    assert main.tensors[main.inputs[0]].dtype == main.tensors[main.outputs[0]].dtype == "int8"
    assert main.tensors[main.inputs[0]].shape == (1, *model.input_shape[1:])
    weighted = {layer.name for layer in model.layers if layer.weights and "bn" not in layer.name}
    assert weighted <= set(made.layers)
    computing = [o for o in main.operators if o.op not in ("QUANTIZE", "DEQUANTIZE")]
    assert None not in [made.layers[operator.index] for operator in computing]


@pytest.mark.parametrize(("name", "params"), PUBLISHED_PARAMS.items())
def test_published_parameters(name, params):
    assert models.get_spec(name).params == params


@pytest.mark.parametrize(("name", "macs"), PUBLISHED_MACS.items())
def test_published_macs(name, macs):
    assert models.get_spec(name).macs == macs


@pytest.mark.parametrize(
    ("name", "arguments", "macs"),
    [
        ("nin_cifar10", {"pool_rounding": "floor"}, 200_357_760),
        ("googlenet", {"pool_rounding": "floor"}, 1_431_556_352),
        ("squeezenet_v1_0", {"pool_rounding": "ceil"}, 818_924_576),
        ("squeezenet_v1_0", {"input_shape": (227, 227, 3), "pool_rounding": "floor"}, 832_667_936),
        ("squeezenet_v1_0", {"input_shape": (227, 227, 3), "padded_head": True}, 861_339_936),
    ],
)
def test_published_macs_of_variants(name, arguments, macs):
    assert audit_model(models.build_model(name, **arguments)).total.macs == macs


def test_ceil_pooling_makes_1_0_cost_2_4_times_1_1():
    macs = [
        audit_model(models.build_model(f"squeezenet_{v}", pool_rounding="ceil")).total.macs for v in ("v1_0", "v1_1")
    ]
    assert macs[0] / macs[1] == pytest.approx(2.35, abs=0.005)


def test_maps_of_the_paper():
    shapes = [models.build_model("nin_cifar10").get_layer(f"mlpconv{n}_conv1x1a").output.shape[1] for n in (1, 2, 3)]
    assert shapes == [32, 16, 8]
    shapes = [
        models.build_model("nin_imagenet").get_layer(f"mlpconv{n}_conv1x1a").output.shape[1] for n in (1, 2, 3, 4)
    ]
    assert shapes == [55, 27, 13, 6]


@pytest.mark.parametrize("name", [name for name in NAMES if models.get_spec(name).classes])
def test_without_the_top(name):
    model = models.build_model(name, include_top=False)
    assert len(model.output_shape) == 4
    assert model.count_params() < models.get_spec(name).params


def test_squeezenet_without_its_head():
    assert models.build_model("squeezenet_v1_1", include_top=False).count_params() == 722_496


@pytest.mark.parametrize("name", [name for name in NAMES if models.get_spec(name).classes])
def test_classes_and_classifier_activation(name):
    model = models.build_model(name, classes=7, classifier_activation=None)
    assert model.output_shape == (None, 7)
    assert getattr(model.layers[-1], "activation", keras.activations.linear) is keras.activations.linear


@pytest.mark.parametrize("builder", ["NiNCIFAR10", "SqueezeNet1_1", "ConvNetLinearHead"])
def test_builders_have_the_argument_names_of_keras_applications(builder):
    names = set(inspect.signature(getattr(models, builder)).parameters)
    assert {"include_top", "weights", "input_shape", "classes", "classifier_activation", "name"} <= names


def test_a_builder_is_a_row_of_the_registry():
    model = models.SqueezeNet1_1(input_shape=(64, 64, 3), classes=5, name="mine")
    assert (model.name, model.output_shape) == ("mine", (None, 5))


def test_normalised_variant():
    model = models.build_model("nin_cifar10_bn")
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("BatchNormalization") == 8
    assert [layer.use_bias for layer in model.layers if isinstance(layer, keras.layers.Conv2D)] == [False] * 8 + [True]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("squeezenet", {}, "Did you mean squeezenet_"),
        ("nin_cifar10", {"depth": 3}, "Expected an argument of nin_cifar10 .*Received: 'depth'"),
        ("nin_cifar10", {"input_shape": (32, 32)}, r"`input_shape` to be \(height, width, channels\)"),
        ("nin_cifar10", {"classes": 0}, "positive integer. Received: 0"),
        ("nin_cifar10", {"pool_rounding": "up"}, "`rounding` to be one of"),
        ("nin_cifar10", {"pools": ("max",)}, "`pools` to name 2"),
        ("squeezenet_v1_1", {"input_shape": (16, 16, 3)}, "squeezenet_v1_1"),
        ("nin_imagenet", {"input_shape": (8, 8, 3)}, "nin_imagenet"),
        ("conv3x3_3to2", {"input_shape": (2, 2, 3)}, "conv3x3_3to2"),
        ("conv1x1_3to2", {"classes": 3}, "Expected an argument of conv1x1_3to2"),
    ],
)
def test_what_does_not_fit(name, arguments, message):
    with pytest.raises(InputError, match=message):
        models.build_model(name, **arguments)
