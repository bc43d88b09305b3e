"""Blocks: which layers belong together, and the sums of the modules against the papers' tables."""

import keras
import pytest

from keras_nin import layers, models
from keras_nin.audit import audit_model
from keras_nin.models import googlenet

L = keras.layers


@pytest.fixture(scope="module")
def blocks_of_zoo():
    """Model name and arguments -> its blocks by name; each model once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = {block.name: block for block in audit_model(models.build_model(name)).blocks}
        return made[name]

    return get


def block_names(x, *names):
    """The blocks of a chain of 1x1 layers with these names."""
    y = x
    for name in names:
        y = L.Conv2D(4, 1, name=name)(y)
    return {row.name: row.block for row in audit_model(keras.Model(x, y)).rows}


@pytest.mark.parametrize("name", models.list_models())
def test_blocks_have_every_row_once(name):
    result = audit_model(models.build_model(name))
    blocks, total = result.blocks, result.total
    assert sum(block.layers for block in blocks) == len(result.rows)
    assert [block.name for block in blocks] == list(dict.fromkeys(row.block for row in result.rows))
    for field in ("params", "trainable_params", "macs", "pointwise_params", "pointwise_macs", "weight_bytes"):
        assert sum(getattr(block, field) for block in blocks) == getattr(total, field)
    assert sum(block.activation_bytes for block in blocks) == total.activation_bytes
    for block in blocks:
        assert block.params == sum(row.params for row in result.rows if row.block == block.name)


# Weights without biases, MACs and share of MACs in 1x1 layers of GoogLeNet's modules, counted by hand.
GOOGLENET = {
    "conv2": (64 * 64 + 3 * 3 * 64 * 192, 359_661_568, 64 * 64 / 114_688),
    "inception_3a": (163_328, 128_049_152, 0.245),
    "inception_3b": (388_096, 304_267_264, 0.232),
    "inception_4a": (375_552, 73_608_192, 0.470),
    "inception_4b": (448_512, 87_908_352, 0.411),
    "inception_4c": (509_440, 99_850_240, 0.346),
    "inception_4d": (604_672, 118_515_712, 0.298),
    "inception_4e": (867_328, 169_996_288, 0.351),
    "inception_5a": (1_042_432, 51_079_168, 0.460),
    "inception_5b": (1_442_816, 70_697_984, 0.434),
}


@pytest.mark.parametrize("name", ["googlenet", "googlenet_bn"])
def test_the_modules_of_googlenet(name, blocks_of_zoo):
    blocks = blocks_of_zoo(name)
    assert [block for block in blocks if block and "inception" in block] == list(GOOGLENET)[1:]
    per_output = 1 if name == "googlenet" else 4  # a bias, or the four vectors of a BatchNormalization
    outputs = {f"inception_{module}": sum(widths) for module, widths in googlenet.MODULES.items()} | {"conv2": 64 + 192}
    for module, (weights, macs, share) in GOOGLENET.items():
        block = blocks[module]
        assert (block.params - per_output * outputs[module], block.macs) == (weights, macs)
        assert round(block.pointwise_macs / block.macs, 3) == round(share, 3)


def test_the_first_module_of_googlenet_by_hand(blocks_of_zoo):
    pointwise = 192 * (64 + 96 + 16 + 32)
    block = blocks_of_zoo("googlenet")["inception_3a"]
    assert block.pointwise_macs == 28 * 28 * pointwise
    assert block.pointwise_params == pointwise + (64 + 96 + 16 + 32)
    assert block.macs == 28 * 28 * (pointwise + 3 * 3 * 96 * 128 + 5 * 5 * 16 * 32)
    assert block.weight_bytes == 4 * block.params
    # Six convolutions, a pooling and a concatenation.
    assert block.layers == 8
    assert block.activation_bytes == 4 * 28 * 28 * ((64 + 96 + 128 + 16 + 32 + 32) + 192 + 256)


def test_the_fire_modules_of_squeezenet(blocks_of_zoo):
    published = (11_920, 12_432, 45_344, 49_440, 104_880, 111_024, 188_992, 197_184)
    blocks = blocks_of_zoo("squeezenet_v1_0")
    assert [block.params for name, block in blocks.items() if name and name.startswith("fire")] == list(published)
    assert blocks["conv10"].params == 512 * 1000 + 1000
    published = (11_408, *published[1:])
    for name in ("squeezenet_v1_1", "squeezenet_cifar10"):
        fires = [block for block in blocks_of_zoo(name) if block and block.startswith("fire")]
        assert fires == [f"fire{number}" for number in range(2, 10)]
    blocks = blocks_of_zoo("squeezenet_v1_1")
    assert [blocks[f"fire{number}"].params for number in range(2, 10)] == list(published)
    fire2 = 64 * 16 + 16 * 64
    assert blocks["fire2"].pointwise_macs == 55 * 55 * fire2
    assert blocks["fire2"].macs == 55 * 55 * (fire2 + 3 * 3 * 16 * 64)


@pytest.mark.parametrize(("name", "extra"), [("simple", 1), ("complex", 2)])
def test_a_bypass_belongs_to_its_fire_module(name, extra, blocks_of_zoo):
    plain = blocks_of_zoo("squeezenet_v1_0")
    blocks = blocks_of_zoo(f"squeezenet_v1_0_{name}_bypass")
    # The addition; at fire2, 4, 6 and 8 of the complex variant also a 1x1 layer.
    number = "fire3" if name == "simple" else "fire4"
    assert blocks[number].layers - plain[number].layers == extra
    assert list(blocks) == list(plain)


def test_the_blocks_of_the_network_in_network_models(blocks_of_zoo):
    for name in ("nin_digits", "nin_cifar10", "nin_cifar10_bn", "nin_cifar100"):
        assert [block for block in blocks_of_zoo(name) if block] == ["mlpconv1", "mlpconv2", "mlpconv3"]
    blocks = blocks_of_zoo("nin_imagenet")
    assert [block for block in blocks if block] == [f"mlpconv{number}" for number in range(1, 5)]
    first = blocks_of_zoo("nin_cifar10")["mlpconv1"]
    assert first.params == 14_592 + 30_880 + 15_456
    assert first.macs == 32 * 32 * (5 * 5 * 3 * 192 + 192 * 160 + 160 * 96)
    assert first.pointwise_macs == 32 * 32 * (192 * 160 + 160 * 96)


def test_the_modules_of_inception_v3(blocks_of_zoo):
    blocks = blocks_of_zoo("inception_v3")
    assert [block for block in blocks if block and "mixed" in block] == [f"mixed{number}" for number in range(11)]
    # Figure 5 of the paper: 5x5 beside two 3x3, with a pooling of 32 channels; every BatchNormalization has 3 vectors.
    pointwise = 192 * (64 + 48 + 64 + 32)
    spatial = 5 * 5 * 48 * 64 + 3 * 3 * 64 * 96 + 3 * 3 * 96 * 96
    first = blocks["mixed0"]
    assert (first.macs, first.pointwise_macs) == (35 * 35 * (pointwise + spatial), 35 * 35 * pointwise)
    assert first.params == pointwise + spatial + 3 * (64 + 48 + 64 + 64 + 96 + 96 + 32)
    assert first.trainable_params == first.params - 2 * (64 + 48 + 64 + 64 + 96 + 96 + 32)
    # The grid reduction 17 to 8: a 1x1 before each of its two branches.
    assert blocks["mixed8"].pointwise_macs == 17 * 17 * 768 * (192 + 192)


def test_auxiliary_classifiers_are_blocks_of_their_own():
    model = models.build_model("googlenet", auxiliary=True, classes=10)
    blocks = {block.name: block for block in audit_model(model).blocks}
    assert blocks["auxiliary1"].macs == 4 * 4 * 512 * 128 + 4 * 4 * 128 * 1024 + 1024 * 10
    assert blocks["inception_5b"].params == 1_442_816 + sum(googlenet.MODULES["5b"])


@pytest.mark.parametrize(
    ("network", "side", "some"),
    [
        ("ResNet50", 32, {"conv1": 4, "conv2_block1": 12, "conv2_block2": 10, "conv5_block3": 10}),
        ("MobileNet", 32, {"conv1": 3, "conv_dw_1": 3, "conv_pw_13": 3}),
        ("MobileNetV2", 32, {"expanded_conv": 5, "block_1": 9, "block_2": 9, "block_16": 8}),
        ("EfficientNetB0", 32, {"stem": 4, "block1a": 10, "block2b": 15, "top": 3}),
        ("ConvNeXtTiny", 32, {"convnext_tiny_stem": 2, "convnext_tiny_stage_2_block_8": 7, "convnext_tiny_head": 3}),
        ("VGG16", 32, {"block1": 3, "block5": 4}),
        # Two of their layers are in two rows each.
        ("Xception", 71, {"block1": 6, "block2": 8, "block14": 8}),
    ],
)
def test_blocks_of_networks_of_keras_applications(network, side, some):
    keras.backend.clear_session()
    model = getattr(keras.applications, network)(weights=None, input_shape=(side, side, 3))
    blocks = {block.name: block.layers for block in audit_model(model).blocks}
    assert {name: blocks.get(name) for name in some} == some


def test_names_that_keras_made_say_nothing():
    keras.backend.clear_session()
    x = keras.Input((8, 8, 4))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 1)(x)))
    for _ in range(2):
        y = L.Add()([L.ReLU()(L.Conv2D(4, 1)(y)), L.SeparableConv2D(4, 3, padding="same")(y)])
    assert {row.block for row in audit_model(keras.Model(x, y)).rows} == {None}


def test_a_chain_of_one_convolution_each_is_one_block_by_its_number():
    x = keras.Input((8, 8, 4))
    assert block_names(x, "stage1_conv1", "stage1_conv2", "stage2_conv1", "stage2_conv2") == {
        "stage1_conv1": "stage1",
        "stage1_conv2": "stage1",
        "stage2_conv1": "stage2",
        "stage2_conv2": "stage2",
    }


def test_names_without_a_number_make_a_block_where_they_follow_one_another():
    x = keras.Input((8, 8, 4))
    assert set(block_names(x, "stem_a", "stem_b", "c").values()) == {"stem", None}
    assert set(block_names(x, "stem_a", "c", "stem_b").values()) == {None}
    found = block_names(x, "conv_up_a", "conv_up_b", "middle", "conv_down_a", "conv_down_b")
    assert list(dict.fromkeys(found.values())) == ["conv_up", None, "conv_down"]


def test_two_uses_and_two_halves_of_one_layer_are_no_block():
    x = keras.Input((8, 8, 4))
    shared = L.SeparableConv2D(4, 3, padding="same", name="part_1")
    assert [row.block for row in audit_model(keras.Model(x, shared(shared(x)))).rows] == [None] * 4


def test_blocks_inside_a_nested_model_carry_its_path():
    x = keras.Input((16, 16, 4))
    y = layers.fire(layers.fire(x, 2, 4, 4, name="fire2"), 2, 4, 4, name="fire3")
    backbone = keras.Model(x, L.ReLU(name="last")(y), name="backbone")
    model = keras.Sequential([keras.Input((16, 16, 4)), backbone, layers.Fire(2, 4, 4, name="fire4")])
    assert [(block.name, block.layers) for block in audit_model(model).blocks] == [
        ("backbone/fire2", 4),
        ("backbone/fire3", 4),
        ("backbone", 1),
        ("fire4", 4),
    ]
