"""Audits of whole networks: invariants, the papers' tables, and counts that others made of the same networks."""

import json
import math
import re

import findings_snapshot
import keras
import pytest
from tiers import WIDE, by_tier

from keras_nin import layers, models, rewrite
from keras_nin.audit import audit_model
from keras_nin.audit.tables import KINDS, ROLES
from keras_nin.models import googlenet

L = keras.layers
WIDTH = 400
# One of each family; the others differ in depth, width, norms or bypasses.
FAMILIES = ("nin_digits", "squeezenet_v1_1", "convnet_pointwise_head", "conv1x1_1to16")
SNAPSHOT = json.loads(findings_snapshot.PATH.read_text())


zoo = pytest.mark.parametrize("name", by_tier(models.list_models(), FAMILIES))


@pytest.fixture(scope="session")
def audited(build):
    """A function that returns the audit of a model of the zoo, each made once."""
    audits = {}

    def audit_once(name):
        if name not in audits:
            audits[name] = audit_model(build(name))
        return audits[name]

    return audit_once


@pytest.fixture
def blocks_of(audited):
    return lambda name: {block.name: block for block in audited(name).blocks}


# Every model


@zoo
def test_sums_and_blocks(name, audited):
    audit = audited(name)
    assert audit.unknown == ()
    assert {row.kind for row in audit.rows} <= {*KINDS}
    assert {row.role for row in audit.rows} <= {*ROLES, None}
    assert [block.name for block in audit.blocks] == list(dict.fromkeys(row.block for row in audit.rows))
    assert sum(block.layers for block in audit.blocks) == len(audit.rows)
    for field in ("params", "trainable_params", "macs", "weight_bytes", "activation_bytes"):
        sums = [sum(getattr(part, field) for part in parts) for parts in (audit.rows, audit.blocks)]
        assert sums == [getattr(audit.total, field)] * 2
    for field in ("pointwise_params", "pointwise_macs"):
        assert sum(getattr(block, field) for block in audit.blocks) == getattr(audit.total, field)


@zoo
def test_macs_are_those_of_the_traced_operations(name, build, audited):
    assert audited(name).total.macs == traced_macs(build(name)) > 0


@zoo
def test_every_layer_has_the_parameters_and_the_shape_that_keras_prints(name, build, audited, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))  # Rich cuts a table to the terminal, whatever line length it is asked for
    check_summary(build(name), audited(name))


@zoo
def test_findings_are_the_reviewed_ones(name, audited):
    check_findings(audited(name), SNAPSHOT[name])


@zoo
def test_a_simplified_model_has_the_same_outputs(name, build):
    model = build(name)
    result = rewrite.simplify_model(model)
    assert result.max_rel_diff <= 1e-5
    # One network of the zoo has a linear 1x1 layer before its average; ReLU follows the others.
    commutes = ["pointwise-before-average-pool"] if name == "convnet_pointwise_head" else []
    assert [step.rule for step in result.steps] == commutes
    assert (result.model is model) == (not result.steps)


def check_findings(audit, reviewed):
    assert findings_snapshot.summary(audit.findings) == reviewed
    rows = {row.name for row in audit.rows}
    for finding in audit.findings:
        assert set(finding.layers) <= rows
        assert finding.message.endswith(".")
        assert list(finding.saves) == ["params", "macs", "bytes"]
        assert all(type(value) is int for value in finding.saves.values())
        assert finding.saves["params"] <= audit.total.params
        assert finding.saves["macs"] <= audit.total.macs


# Modules of the papers

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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "googlenet_bn"])
def test_the_modules_of_googlenet(name, blocks_of):
    blocks = blocks_of(name)
    assert [block for block in blocks if block and "inception" in block] == list(GOOGLENET)[1:]
    per_output = 1 if name == "googlenet" else 4  # a bias, or the four vectors of a BatchNormalization
    outputs = {f"inception_{module}": sum(widths) for module, widths in googlenet.MODULES.items()} | {"conv2": 64 + 192}
    for module, (weights, macs, share) in GOOGLENET.items():
        block = blocks[module]
        assert (block.params - per_output * outputs[module], block.macs) == (weights, macs)
        assert round(block.pointwise_macs / block.macs, 3) == round(share, 3)


def test_the_first_module_of_googlenet_by_hand():
    pointwise = 192 * (64 + 96 + 16 + 32)
    x = keras.Input((28, 28, 192))
    y = x
    for module in ("3a", "3b"):
        conv1x1, reduce3x3, conv3x3, reduce5x5, conv5x5, projection = googlenet.MODULES[module]
        reductions = {"reduce3x3": reduce3x3, "reduce5x5": reduce5x5, "pool_projection": projection}
        y = layers.inception_module(y, conv1x1, conv3x3, conv5x5, name=f"inception_{module}", **reductions)
    blocks = {block.name: block for block in audit_model(keras.Model(x, y)).blocks}
    assert list(blocks) == ["inception_3a", "inception_3b"]
    assert blocks["inception_3b"].macs == GOOGLENET["inception_3b"][1]
    block = blocks["inception_3a"]
    assert block.pointwise_macs == 28 * 28 * pointwise
    assert block.pointwise_params == pointwise + (64 + 96 + 16 + 32)
    assert block.macs == 28 * 28 * (pointwise + 3 * 3 * 96 * 128 + 5 * 5 * 16 * 32)
    assert block.weight_bytes == 4 * block.params
    # Six convolutions, a pooling and a concatenation.
    assert block.layers == 8
    assert block.activation_bytes == 4 * 28 * 28 * ((64 + 96 + 128 + 16 + 32 + 32) + 192 + 256)


SQUEEZENET_FIRES = (11_920, 12_432, 45_344, 49_440, 104_880, 111_024, 188_992, 197_184)


@pytest.mark.parametrize("name", by_tier(("squeezenet_v1_0", "squeezenet_v1_1", "squeezenet_cifar10"), FAMILIES))
def test_the_fire_modules_of_squeezenet(name, blocks_of):
    blocks = blocks_of(name)
    fires = {block: sums.params for block, sums in blocks.items() if block and block.startswith("fire")}
    assert list(fires) == [f"fire{number}" for number in range(2, 10)]
    if name == "squeezenet_v1_0":
        assert tuple(fires.values()) == SQUEEZENET_FIRES
        assert blocks["conv10"].params == 512 * 1000 + 1000
    if name == "squeezenet_v1_1":
        assert tuple(fires.values()) == (11_408, *SQUEEZENET_FIRES[1:])
        fire2 = 64 * 16 + 16 * 64
        assert blocks["fire2"].pointwise_macs == 55 * 55 * fire2
        assert blocks["fire2"].macs == 55 * 55 * (fire2 + 3 * 3 * 16 * 64)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "extra"), [("simple", 1), ("complex", 2)])
def test_a_bypass_belongs_to_its_fire_module(name, extra, blocks_of):
    plain, blocks = blocks_of("squeezenet_v1_0"), blocks_of(f"squeezenet_v1_0_{name}_bypass")
    # The addition; at fire2, 4, 6 and 8 of the complex variant also a 1x1 layer.
    number = "fire3" if name == "simple" else "fire4"
    assert blocks[number].layers - plain[number].layers == extra
    assert list(blocks) == list(plain)


NIN = {"nin_digits": 3, "nin_cifar10": 3, "nin_cifar10_bn": 3, "nin_cifar100": 3, "nin_imagenet": 4}


@pytest.mark.parametrize("name", by_tier(NIN, ("nin_digits", "nin_cifar10")))
def test_the_blocks_of_network_in_network(name, blocks_of):
    blocks = blocks_of(name)
    assert [block for block in blocks if block] == [f"mlpconv{number + 1}" for number in range(NIN[name])]
    if name == "nin_cifar10":
        first = blocks["mlpconv1"]
        assert first.params == 14_592 + 30_880 + 15_456
        assert first.macs == 32 * 32 * (5 * 5 * 3 * 192 + 192 * 160 + 160 * 96)
        assert first.pointwise_macs == 32 * 32 * (192 * 160 + 160 * 96)


@pytest.mark.slow
def test_the_modules_of_inception_v3(blocks_of):
    blocks = blocks_of("inception_v3")
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


@pytest.mark.slow
def test_auxiliary_classifiers_are_blocks_of_their_own():
    model = models.build_model("googlenet", auxiliary=True, classes=10)
    blocks = {block.name: block for block in audit_model(model).blocks}
    assert blocks["auxiliary1"].macs == 4 * 4 * 512 * 128 + 4 * 4 * 128 * 1024 + 1024 * 10
    assert blocks["inception_5b"].params == 1_442_816 + sum(googlenet.MODULES["5b"])


# Networks of keras.applications


def application(name, side):
    keras.backend.clear_session()
    return getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3))


# Side of the input: the smallest that the network takes, where its layers' sizes do not depend on it. NASNet insists
# on its own for the top. MACs are counted layer by layer: one network of a family, or two if they differ in more than
# depth and width.
APPLICATIONS = {
    **{"ConvNeXtTiny": 32, "DenseNet121": 32, "EfficientNetB0": 32, "EfficientNetV2B0": 32, "InceptionResNetV2": 75},
    **{"InceptionV3": 75, "MobileNet": 32, "MobileNetV2": 32, "MobileNetV3Small": 32, "NASNetMobile": 224},
    **{"ResNet50": 32, "ResNet50V2": 32, "VGG16": 32, "Xception": 71},
}
# They differ in depth and width alone from others of the snapshot.
DEEPER = {
    *("ConvNeXtSmall", "DenseNet169", "DenseNet201", "EfficientNetB1", "EfficientNetB2", "EfficientNetV2S"),
    *("MobileNetV3Large", "ResNet101", "ResNet101V2", "ResNet152", "ResNet152V2", "VGG19"),
}
LARGE = {"InceptionResNetV2", "InceptionV3", "NASNetMobile"}
# Layers of some blocks. Two layers of a separable convolution are in two rows each.
APPLICATION_BLOCKS = {
    "ResNet50": {"conv1": 4, "conv2_block1": 12, "conv2_block2": 10, "conv5_block3": 10},
    "MobileNet": {"conv1": 3, "conv_dw_1": 3, "conv_pw_13": 3},
    "MobileNetV2": {"expanded_conv": 5, "block_1": 9, "block_2": 9, "block_16": 8},
    "EfficientNetB0": {"stem": 4, "block1a": 10, "block2b": 15, "top": 3},
    "ConvNeXtTiny": {"convnext_tiny_stem": 2, "convnext_tiny_stage_2_block_8": 7, "convnext_tiny_head": 3},
    "VGG16": {"block1": 3, "block5": 4},
    "Xception": {"block1": 6, "block2": 8, "block14": 8},
}


@pytest.mark.parametrize(
    "name", by_tier(APPLICATIONS, wide=LARGE | {"DenseNet121", "EfficientNetB0", "ResNet50V2", "VGG16"})
)
def test_macs_and_blocks_of_keras_applications(name):
    model = application(name, APPLICATIONS[name])
    audit = audit_model(model)
    assert audit.unknown == ()
    assert sum(row.params for row in audit.rows) == audit.total.params == model.count_params()
    assert sum(row.macs for row in audit.rows) == audit.total.macs == traced_macs(model) > 0
    blocks = {block.name: block.layers for block in audit.blocks}
    expected = APPLICATION_BLOCKS.get(name, {})
    assert {block: blocks.get(block) for block in expected} == expected


def roles(audit):
    return [row.role for row in audit.rows if row.role]


@pytest.mark.slow
@pytest.mark.usefixtures("structure_only")
@pytest.mark.parametrize(
    ("name", "side", "params", "macs", "projections"),
    [
        ("MobileNet", 224, 4_253_864, 568_740_352, 0),
        # Ten blocks have a bypass; the output of a block without one is read by other layers too.
        ("MobileNetV2", 224, 3_538_984, None, 10),
        # The last layer of each of 16 bottlenecks, and 4 shortcuts.
        ("ResNet50", 224, 25_636_712, 3_857_973_248, 16 + 4),
        ("InceptionV3", 299, 23_851_784, 5_713_216_096, 0),
        # After a scale: `CustomScaleLayer` is an addition.
        pytest.param("InceptionResNetV2", 299, 55_873_736, None, 10 + 20 + 10, marks=WIDE),
        # Dense on a map is a 1x1 layer; the second of each block ends in its addition, after a scale.
        ("ConvNeXtTiny", 32, 28_589_128, None, 3 + 3 + 9 + 3),
        ("Xception", 224, 22_910_480, None, None),
        ("DenseNet121", 224, 8_062_504, None, 0),
        ("EfficientNetB0", 224, 5_330_571, None, 9),
    ],
)
def test_published_totals_and_projections(name, side, params, macs, projections):
    audit = audit_model(application(name, side))
    assert (audit.total.params, audit.unknown) == (params, ())
    assert macs in (None, audit.total.macs)
    assert projections in (None, roles(audit).count("projection"))
    if name == "MobileNet":
        # The paper (arXiv:1704.04861, table 2) gives 94.86% of the MACs to 1x1 layers; it counts the classifier apart.
        assert 0.94 < (audit.total.pointwise_macs - 1024 * 1000) / audit.total.macs < 0.95
        assert roles(audit)[-1] == "head"
    if name == "ConvNeXtTiny":
        assert {row.macs for row in audit.rows if row.type in ("LayerScale", "LayerNormalization")} == {0}


@pytest.mark.usefixtures("structure_only")
@pytest.mark.parametrize(
    "name", by_tier(findings_snapshot.APPLICATIONS, wide=DEEPER | LARGE | {"EfficientNetB0", "ResNet50V2"})
)
def test_findings_of_keras_applications(name):
    check_findings(audit_model(findings_snapshot.build(name)), SNAPSHOT[name])


def test_the_snapshot_has_the_zoo_and_the_applications():
    assert list(SNAPSHOT) == [*models.list_models(), *findings_snapshot.APPLICATIONS]


@pytest.mark.parametrize(
    ("name", "steps"),
    [pytest.param("DenseNet121", 3, marks=WIDE), pytest.param("MobileNetV3Small", 1, marks=pytest.mark.slow)],
)
def test_simplified_applications_have_the_same_outputs(name, steps):
    result = rewrite.simplify_model(findings_snapshot.build(name))
    assert len(result.steps) == steps
    assert result.max_rel_diff <= 1e-5
    saved = [sum(step.saves[cost] for step in result.steps) for cost in ("params", "macs")]
    assert saved == [before - after for before, after in (result.params, result.macs)]


# MACs of the operations that TensorFlow traces

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# What no rule below counts and might multiply: a network that is compiled into one of these is not counted in full.
UNCOUNTED = ("Conv3D", "Conv2DBackpropFilter", "XlaConvV2", "XlaDotV2", "If", "While", "StatelessIf", "StatelessWhile")


def traced_macs(model):
    """MACs of `model` for one input, from the shapes of the operations of its traced graph."""
    import tensorflow as tf

    specs = [tf.TensorSpec((1, *tensor.shape[1:])) for tensor in model.inputs]
    function = tf.function(lambda *inputs: model(inputs if len(inputs) > 1 else inputs[0], training=False))
    return graph_macs(function.get_concrete_function(*specs).graph)


def graph_macs(graph):
    return sum(operation_macs(operation, graph) for operation in graph.get_operations())


def operation_macs(operation, graph):
    if operation.type in CALLS:
        return graph_macs(graph._get_function(operation.get_attr("f").name).graph)
    assert operation.type not in UNCOUNTED
    if operation.type not in RULES:
        return 0
    inputs = [tensor.shape.as_list() for tensor in operation.inputs]
    return RULES[operation.type](operation, inputs, operation.outputs[0].shape.as_list())


def einsum_macs(operation, inputs, output):
    """Elements of the output times the sizes of the indices that are summed over."""
    operands, result = operation.get_attr("equation").decode().split("->")
    sizes = {}
    for labels, shape in zip(operands.split(","), inputs, strict=True):
        assert labels.rfind("...") <= 0  # only in front: the labels are those of the last axes
        sizes |= zip(reversed(labels.removeprefix("...")), reversed(shape), strict=False)
    return math.prod(output) * math.prod(size for label, size in sizes.items() if label not in result)


def product_macs(operation, inputs, output):
    """Of a (batched) matrix product: elements of the output times the length of the sums."""
    transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
    return math.prod(output) * inputs[0][-2 if transposed else -1]


RULES = {
    # A kernel is (height, width, input channels of one group, output channels).
    "Conv2D": lambda operation, inputs, output: math.prod(output) * math.prod(inputs[1][:3]),
    # (height, width, channels, multiplier): one window for an output element.
    "DepthwiseConv2dNative": lambda operation, inputs, output: math.prod(output) * math.prod(inputs[1][:2]),
    # (height, width, output channels, input channels), slid over the third input.
    "Conv2DBackpropInput": lambda operation, inputs, output: math.prod(inputs[2]) * math.prod(inputs[1][:3]),
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), product_macs),
    "Einsum": einsum_macs,
}


def test_macs_of_every_kind_of_layer_in_one_traced_network():
    left, sequence, rows, columns = (keras.Input(shape) for shape in ((9, 8, 6), (9, 6), (5, 6), (6, 7)))
    stack = [
        L.Conv2D(6, (3, 2), strides=2, padding="same"),
        L.Conv2D(6, 3, groups=3),
        L.Conv2D(12, 1, groups=6),
        L.DepthwiseConv2D(3, strides=2, depth_multiplier=2, padding="same"),
        L.SeparableConv2D(7, 3, depth_multiplier=2),
        L.Conv2DTranspose(5, 3, strides=2, padding="same"),
        L.Conv2DTranspose(5, (4, 2)),
        L.Dense(5),
        L.EinsumDense("bhwc,cd->bhwd", (9, 8, 5)),
        L.EinsumDense("...c,cnd->...nd", (3, 5)),
        layers.Fire(2, 4, 4),
        layers.InceptionModule(4, 4, 4, 2, 2, 4, batch_norm=True),
    ]
    tower = keras.Sequential([keras.Input((9, 8, 6)), L.Conv2D(6, 3, groups=2, padding="same")], name="tower")
    shared = L.Dense(6)
    product = keras.ops.einsum("bij,bjk->bik", rows, columns)
    outputs = [
        *(layer(left) for layer in stack),
        L.Conv1D(5, 3, padding="causal")(sequence),
        keras.ops.matmul(product, keras.ops.transpose(columns, (0, 2, 1))),
        L.Add()([shared(tower(left)), shared(tower(tower(left)))]),
    ]
    model = keras.Model([left, sequence, rows, columns], outputs)
    audit = audit_model(model)
    assert audit.unknown == ()
    assert audit.total.params == model.count_params()
    assert audit.total.macs == traced_macs(model) > 0


def test_a_dilated_convolution():
    # TensorFlow deals the positions out to as many small maps as the gaps make, and fills up what does not divide.
    x = keras.Input((10, 8, 6))
    model = keras.Model(x, L.Conv2D(4, 3, dilation_rate=2)(x))
    assert audit_model(model).total.macs == traced_macs(model) == 6 * 4 * 3 * 3 * 6 * 4


# What keras.Model.summary() prints


def printed_layers(model):
    """Layer name -> (output shape, parameters) as the summary prints them, without the input and nested lines."""
    lines = []
    model.summary(line_length=WIDTH, print_fn=lambda text: lines.extend(text.splitlines()))
    printed = {}
    for line in lines:
        # The lines below the first of a row name further inputs only.
        cells = re.match(r"│ (\S+) \((\w+)\) *│ (\(.*?\)) *│ +([\d,]+) │", line)
        if cells and cells[2] != "InputLayer":
            name, _, shape, params = cells.groups()
            shape = tuple(None if side == "None" else int(side) for side in re.findall(r"None|\d+", shape))
            printed[name] = (shape, int(params.replace(",", "")))
    return printed


def check_summary(model, audit):
    """Halves of a layer, and what an opened layer holds, belong to that layer."""
    printed, counted = printed_layers(model), {}
    for row in audit.rows:
        name = row.name.split("/")[0]
        counted[name] = ((None, *row.output_shape[1:]), counted.get(name, (None, 0))[1] + row.params)
    assert printed == counted
    assert len(printed) == len(model.layers) - sum(isinstance(layer, L.InputLayer) for layer in model.layers)


def test_layers_that_the_audit_opens_or_splits(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    x = keras.Input((16, 16, 3))
    y = L.SeparableConv2D(8, 3, name="separable")(x)
    y = layers.Fire(4, 8, 8, name="fire")(layers.MLPConv([8, 8], 3, name="mlpconv")(y))
    y = layers.PointwiseHead(10, name="head")(layers.InceptionModule(4, 4, 4, 2, 2, 4, name="inception")(y))
    model = keras.Model(x, y)
    check_summary(model, audit_model(model))
