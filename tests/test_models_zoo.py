"""Every model of the zoo against the published numbers, its declarations, and its own file."""

import dataclasses
import inspect
import pathlib
import re

import keras
import numpy as np
import pytest
import zoo_arithmetic
from tiers import by_tier

from keras_nin import InputError, export, models
from keras_nin.audit import audit_model
from keras_nin.edge.edgetpu import check_edgetpu
from keras_nin.report.edge import format_edgetpu_overview
from keras_nin.tflite.records import float_operators

EDGETPU = pathlib.Path(__file__).parents[1] / "docs" / "concepts" / "edgetpu_evidence.md"
NAMES = models.list_models()
# One small network of each family; the whole zoo takes minutes and is CI's slow tier.
REPRESENTATIVES = ("nin_digits", "squeezenet_cifar10", "convnet_linear_head", "deepphys_softconv", "conv3x3_3to2")
SIZED = [name if name in REPRESENTATIVES else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]

# From the papers, their authors' releases and independent counts; `zoo_arithmetic` has all from the layers' sizes.
PUBLISHED_PARAMS = {
    "nin_cifar10": 14_592 + 30_880 + 15_456 + 460_992 + 37_056 + 37_056 + 331_968 + 37_056 + 1_930,
    "nin_cifar100": 984_356,
    "nin_imagenet": 7_595_176,
    "squeezenet_v1_0": 1_248_424,
    "squeezenet_v1_0_complex_bypass": 1_589_672,
    "squeezenet_v1_1": 1_235_496,
    "googlenet": 6_998_552,
    "googlenet_bn": 7_005_832 + 14_560,
    "inception_v3": 23_851_784,
}
PUBLISHED_MACS = {
    "googlenet": 1_582_671_872,
    "inception_v3": 5_713_216_096,
    "nin_cifar10": 222_486_528,
    "nin_imagenet": 1_105_996_320,
    "squeezenet_v1_0": 777_221_152,
    "squeezenet_v1_0_complex_bypass": 1_107_964_960,
    "squeezenet_v1_1": 349_151_936,
}


def noise(model, count=1):
    return np.random.default_rng(0).random((count, *model.input_shape[1:]), np.float32)


def test_declared_numbers_are_the_arithmetic_and_the_published_ones():
    declared = {name: (spec.params, spec.macs) for name, spec in ((name, models.get_spec(name)) for name in NAMES)}
    assert declared == zoo_arithmetic.FIGURES
    assert {name: declared[name][0] for name in PUBLISHED_PARAMS} == PUBLISHED_PARAMS
    assert {name: declared[name][1] for name in PUBLISHED_MACS} == PUBLISHED_MACS


@pytest.mark.parametrize("name", SIZED)
def test_a_model_is_as_declared(name, build):
    spec, model = models.get_spec(name), build(name)
    audit = audit_model(model)
    assert model.count_params() == spec.params == sum(row.params for row in audit.rows)
    assert audit.total.macs == spec.macs
    assert (model.name, model.input_shape) == (name, (None, *spec.input_shape))
    if spec.classes is None:
        return
    assert model.output_shape == (None, spec.classes)
    with keras.StatelessScope(initialize_variables=False):  # of these only the structure is looked at
        trunk = models.build_model(name, include_top=False)
        scores = models.build_model(name, classes=7, classifier_activation=None)
    assert len(trunk.output_shape) == 4
    assert trunk.count_params() < spec.params
    assert scores.output_shape == (None, 7)
    assert getattr(scores.layers[-1], "activation", keras.activations.linear) is keras.activations.linear


@pytest.mark.parametrize(
    "name",
    by_tier(
        NAMES,
        default=("nin_digits", "conv3x3_3to2"),
        wide=("inception_v3", "googlenet", "googlenet_bn", "googlenet_cifar10"),
    ),
)
def test_save_and_load(name, build, tmp_path):
    model = build(name)
    model.save(tmp_path / "model.keras")
    loaded = models.load_model(tmp_path / "model.keras").model
    assert models.hash_weights(loaded) == models.hash_weights(model)
    image = noise(model)
    np.testing.assert_array_equal(loaded(image), model(image))


@pytest.mark.parametrize(
    "name",
    by_tier(
        NAMES, wide=[name for name in NAMES if name.startswith(("inception", "googlenet", "squeezenet_v", "nin_"))]
    ),
)
def test_int8_has_no_float_operator_and_the_edge_tpu_s_verdict_of_the_docs(name, build, tmp_path):
    model = build(name)
    made = export.convert_model(model, "int8", noise(model, 2), tuning=export.Tuning.plain())
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_ceil_pooling_makes_1_0_cost_2_4_times_1_1():
    macs = [
        audit_model(models.build_model(f"squeezenet_{version}", pool_rounding="ceil")).total.macs
        for version in ("v1_0", "v1_1")
    ]
    assert macs[0] / macs[1] == pytest.approx(2.35, abs=0.005)


def test_squeezenet_without_its_head(build):
    assert build("squeezenet_v1_1", include_top=False).count_params() == 722_496


BUILDERS = [name for name in models.__all__ if name[0].isupper() and not name.endswith(("Model", "Spec"))]


@pytest.mark.parametrize("name", BUILDERS)
def test_a_builder_is_a_function_with_signature_and_documentation(name):
    builder = getattr(models, name)
    assert inspect.isfunction(builder)
    assert (builder.__name__, builder.__module__.rpartition(".")[0]) == (name, "keras_nin.models")
    parameters = inspect.signature(builder).parameters
    for parameter in parameters:
        assert re.search(rf"^ +(\w+, )*{parameter}(, \w+)*: ", builder.__doc__, re.MULTILINE), parameter
    assert {"weights", "input_shape", "name"} <= set(parameters)
    if name not in ("DeepPhysSoftConv", "SingleConvolution"):
        assert {"include_top", "classes", "classifier_activation"} <= set(parameters)
        spec = models.get_spec(parameters["name"].default)
        assert parameters["input_shape"].default == spec.input_shape
        assert parameters["classes"].default == spec.classes
        assert spec.title in builder.__doc__


def test_a_builder_builds_its_variant():
    model = models.SqueezeNet1_1(input_shape=(64, 64, 3), classes=5, name="mine")
    assert (model.name, model.output_shape) == ("mine", (None, 5))
    assert models.SingleConvolution("conv1x1_3to2").name == "conv1x1_3to2"
    with pytest.raises(InputError, match="`variant` to be one of conv1x1_512to32"):
        models.SingleConvolution("conv5x5")
    with pytest.raises(TypeError, match="depth"):
        models.NiNDigits(depth=3)


def test_batch_normalization_instead_of_biases():
    model = models.NiNCIFAR10BN(input_shape=(8, 8, 3))
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("BatchNormalization") == 8
    assert [layer.use_bias for layer in model.layers if isinstance(layer, keras.layers.Conv2D)] == [False] * 8 + [True]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("squeezenet", {}, "Did you mean squeezenet_"),
        ("nin_cifar10", {"depth": 3}, "Expected an argument of nin_cifar10 .*Received: 'depth'"),
        ("nin_cifar10", {"input_shape": (32, 32)}, r"`input_shape` to be \(height, width, channels\)"),
        ("nin_cifar10", {"classes": 0}, "whole number of at least 1. Received: 0"),
        ("nin_cifar10", {"pool_rounding": "up"}, "`rounding` to be one of"),
        ("nin_cifar10", {"pools": ("max",)}, "`pools` to name 2"),
        ("squeezenet_v1_1", {"input_shape": (16, 16, 3)}, "squeezenet_v1_1"),
        ("nin_imagenet", {"input_shape": (8, 8, 3)}, "nin_imagenet"),
        ("conv3x3_3to2", {"input_shape": (2, 2, 3)}, "conv3x3_3to2"),
        ("conv1x1_3to2", {"classes": 3}, "Expected an argument of conv1x1_3to2"),
    ],
)
def test_arguments_that_do_not_fit(name, arguments, message):
    with pytest.raises(InputError, match=message):
        models.build_model(name, **arguments)
