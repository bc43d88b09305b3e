"""Whole networks of keras.applications, against totals that others have published or counted."""

import keras
import pytest

from keras_nin import layers
from keras_nin.audit import audit_model


def audited(name, shape=(224, 224, 3)):
    model = getattr(keras.applications, name)(weights=None, input_shape=shape)
    result = audit_model(model)
    assert sum(row.params for row in result.rows) == result.total.params == model.count_params()
    return result


def roles(result):
    return [row.role for row in result.rows if row.role]


def test_mobilenet():
    result = audited("MobileNet")
    assert (result.total.params, result.total.macs, result.unknown) == (4_253_864, 568_740_352, ())
    # The paper (arXiv:1704.04861, table 2) gives 94.86 % of the MACs to 1x1 layers; it counts the classifier apart.
    assert 0.94 < (result.total.pointwise_macs - 1024 * 1000) / result.total.macs < 0.95
    assert roles(result)[-1] == "head"


def test_mobilenet_v2_and_its_projections():
    result = audited("MobileNetV2")
    assert (result.total.params, result.unknown) == (3_538_984, ())
    # Ten blocks have a bypass; the output of a block without one is read by other layers too.
    assert roles(result).count("projection") == 10


def test_resnet50():
    result = audited("ResNet50")
    assert (result.total.params, result.total.macs) == (25_636_712, 3_857_973_248)
    # The last layer of each of 16 bottlenecks, and 4 shortcuts.
    assert roles(result).count("projection") == 16 + 4


@pytest.mark.slow
def test_inception_v3():
    result = audited("InceptionV3", (299, 299, 3))
    assert (result.total.params, result.total.macs) == (23_851_784, 5_713_216_096)
    assert result.total.non_trainable_params == 34_432
    assert result.unknown == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "params"),
    [("Xception", 22_910_480), ("DenseNet121", 8_062_504), ("EfficientNetB0", 5_330_571)],
)
def test_parameters_of_other_networks(name, params):
    result = audited(name)
    assert (result.total.params, result.unknown) == (params, ())


def test_convnext_and_its_own_layers():
    result = audited("ConvNeXtTiny", (32, 32, 3))
    assert result.unknown == ()
    assert {row.macs for row in result.rows if row.type in ("LayerScale", "LayerNormalization")} == {0}
    # Dense on a map is a 1x1 layer; the second of each block ends in its addition, after a scale.
    assert roles(result).count("projection") == roles(result).count("expand") == 3 + 3 + 9 + 3


@pytest.mark.slow
def test_inception_resnet_v2_and_its_scaled_additions():
    result = audited("InceptionResNetV2", (299, 299, 3))
    assert result.total.params == 55_873_736
    assert result.unknown == ()
    scaled = [row for row in result.rows if row.type == "CustomScaleLayer"]
    assert {(row.kind, row.macs) for row in scaled} == {("merge", 0)}
    assert roles(result).count("projection") == len(scaled) == 10 + 20 + 10


def test_local_response_normalization_is_known_and_free():
    x = keras.Input((8, 8, 16))
    y = layers.local_response_normalization(layers.conv2d(x, 8, 3, name="conv"), name="norm")
    conv, norm = audit_model(keras.Model(x, y)).rows
    assert (norm.kind, norm.macs, norm.params) == ("norm", 0, 0)
    assert norm.receptive_field == conv.receptive_field == (3, 3)
