"""Parameters and MACs of the zoo by arithmetic, from the tables of the papers."""

from keras_nin.models.googlenet import MODULES
from keras_nin.models.squeezenet import FIRES

# Weights, output channels and positions of the convolutions of each stage, without the classifier.
NIN_DIGITS = (
    (3 * 3 * 1 * 48 + 48 * 32 + 32 * 24, 48 + 32 + 24, 8 * 8),
    (3 * 3 * 24 * 48 + 48 * 48 * 2, 48 * 3, 4 * 4),
    (3 * 3 * 48 * 64 + 64 * 64, 64 * 2, 2 * 2),
)
NIN_CIFAR = (
    (5 * 5 * 3 * 192 + 192 * 160 + 160 * 96, 192 + 160 + 96, 32 * 32),
    (5 * 5 * 96 * 192 + 192 * 192 + 192 * 192, 192 + 192 + 192, 16 * 16),
    (3 * 3 * 192 * 192 + 192 * 192, 192 + 192, 8 * 8),
)
NIN_IMAGENET = (
    (11 * 11 * 3 * 96 + 96 * 96 * 2, 96 * 3, 55 * 55),
    (5 * 5 * 96 * 256 + 256 * 256 * 2, 256 * 3, 27 * 27),
    (3 * 3 * 256 * 384 + 384 * 384 * 2, 384 * 3, 13 * 13),
    (3 * 3 * 384 * 1024 + 1024 * 1024, 1024 * 2, 6 * 6),
)
GOOGLENET_INPUTS = (192, 256, 480, 512, 512, 512, 528, 832, 832, 1024)
BATCH_NORM = 4  # gamma, beta, moving mean and moving variance of a channel, instead of a bias


def nin(stages, channels, classes, per_channel=1):
    head = channels * classes
    params = sum(weights + per_channel * outputs for weights, outputs, _ in stages) + head + classes
    return params, sum(weights * positions for weights, _, positions in stages) + stages[-1][2] * head


def fire(channels, squeeze, expand):
    return channels * squeeze + squeeze * expand + 3 * 3 * squeeze * expand


def squeezenet(side, channels, sides, classes=1000, bypass=()):
    """`sides` of the maps of conv1 and of fire2 to fire9; `bypass`: fire module, channels in and out."""
    conv1, (first, *others) = side**2 * 3 * channels, sides
    inputs = (channels, 128, 128, 256, 256, 384, 384, 512)
    fires = [fire(entering, *widths) for entering, widths in zip(inputs, FIRES.values(), strict=True)]
    biases = channels + sum(squeeze + 2 * expand for squeeze, expand in FIRES.values())
    shortcuts = sum(entering * leaving + leaving for _, entering, leaving in bypass)
    params = conv1 + biases + sum(fires) + 512 * classes + classes + shortcuts
    macs = conv1 * first**2 + sum(weights * side**2 for weights, side in zip(fires, others, strict=True))
    macs += sum(entering * leaving * others[number - 2] ** 2 for number, entering, leaving in bypass)
    return params, macs + 512 * classes * others[-1] ** 2


def googlenet(stem, outputs, stem_macs, sides, classes, per_channel=1, table=MODULES, inputs=GOOGLENET_INPUTS):
    """`inputs`: channels that enter the modules of `table`, and the classifier."""
    modules = {}
    for channels, (name, widths) in zip(inputs, table.items(), strict=False):
        one, reduce3, three, reduce5, five, projection = widths
        pointwise = channels * (one + reduce3 + reduce5 + projection)
        modules[name] = pointwise + 3 * 3 * reduce3 * three + 5 * 5 * reduce5 * five
    channels = outputs + sum(map(sum, table.values()))
    params = stem + sum(modules.values()) + per_channel * channels + inputs[-1] * classes + classes
    macs = sum(weights * sides[name[0]] ** 2 for name, weights in modules.items())
    return params, stem_macs + macs + inputs[-1] * classes


def inception_v3():
    """(weights, output channels, side of the map) of every convolution."""
    layers = [
        (3 * 3 * 3 * 32, 32, 149),
        (3 * 3 * 32 * 32, 32, 147),
        (3 * 3 * 32 * 64, 64, 147),
        (1 * 1 * 64 * 80, 80, 73),
        (3 * 3 * 80 * 192, 192, 71),
    ]
    for channels, projection in ((192, 32), (256, 64), (288, 64)):
        double = channels * 64 + 3 * 3 * 64 * 96 + 3 * 3 * 96 * 96
        weights = channels * 64 + (channels * 48 + 5 * 5 * 48 * 64) + double + channels * projection
        layers.append((weights, 64 + 48 + 64 + 64 + 96 + 96 + projection, 35))
    layers += [(288 * 64 + 3 * 3 * 64 * 96, 64 + 96, 35), (3 * 3 * 288 * 384 + 3 * 3 * 96 * 96, 384 + 96, 17)]
    for width in (128, 160, 160, 192):
        single = 768 * width + 7 * width * width + 7 * width * 192
        double = 768 * width + 3 * 7 * width * width + 7 * width * 192
        outputs = 192 + (2 * width + 192) + (4 * width + 192) + 192
        layers.append((768 * 192 + single + double + 768 * 192, outputs, 17))
    layers += [
        (768 * 192 + 768 * 192 + 2 * 7 * 192 * 192, 4 * 192, 17),
        (3 * 3 * 192 * 320 + 3 * 3 * 192 * 192, 320 + 192, 8),
    ]
    for channels in (1280, 2048):
        split = 2 * 3 * 384 * 384
        triple = channels * 448 + 3 * 3 * 448 * 384 + split
        weights = channels * 320 + (channels * 384 + split) + triple + channels * 192
        layers.append((weights, 320 + 3 * 384 + 448 + 3 * 384 + 192, 8))
    # beta, moving mean and moving variance for every output channel
    params = sum(weights + 3 * outputs for weights, outputs, _ in layers) + 2048 * 1000 + 1000
    return params, sum(weights * side**2 for weights, _, side in layers) + 2048 * 1000


SIDES_1_0 = (109, 54, 54, 54, 26, 26, 26, 26, 12)
COMPLEX = ((2, 96, 128), (4, 128, 256), (6, 256, 384), (8, 384, 512))
CONV2 = 64 * 64 + 3 * 3 * 64 * 192
STEM = (7 * 7 * 3 * 64 + CONV2, 64 + 64 + 192, 112**2 * 7 * 7 * 3 * 64 + 56**2 * CONV2)
SIDES = {"3": 28, "4": 14, "5": 7}
SMALL_STEM = (3 * 3 * 3 * 192, 192, 32**2 * 3 * 3 * 3 * 192)
DIGITS_MODULES = {"3a": (16, 16, 32, 8, 16, 16), "4a": (32, 24, 48, 8, 16, 16)}
DIGITS_INPUTS = (32, 16 + 32 + 16 + 16, 32 + 48 + 16 + 16)
DIGITS_STEM = (3 * 3 * 1 * 32, 32, 8**2 * 3 * 3 * 1 * 32)
CONV1, CONV2_64, CONV2_8 = 3 * 3 * 1 * 3, 3 * 3 * 3 * 64, 3 * 3 * 3 * 8
# Parameters and MACs by the name of the model.
FIGURES = {
    "nin_digits": nin(NIN_DIGITS, 64, 10),
    "nin_cifar10": nin(NIN_CIFAR, 192, 10),
    "nin_cifar10_bn": nin(NIN_CIFAR, 192, 10, BATCH_NORM),
    "nin_cifar100": nin(NIN_CIFAR, 192, 100),
    "nin_imagenet": nin(NIN_IMAGENET, 1024, 1000),
    "squeezenet_v1_0": squeezenet(7, 96, SIDES_1_0),
    "squeezenet_v1_0_simple_bypass": squeezenet(7, 96, SIDES_1_0),
    "squeezenet_v1_0_complex_bypass": squeezenet(7, 96, SIDES_1_0, bypass=COMPLEX),
    "squeezenet_v1_1": squeezenet(3, 64, (111, 55, 55, 27, 27, 13, 13, 13, 13)),
    "squeezenet_cifar10": squeezenet(3, 64, (32, 32, 32, 15, 15, 7, 7, 7, 7), 10),
    "googlenet": googlenet(*STEM, SIDES, 1000),
    "googlenet_bn": googlenet(*STEM, SIDES, 1000, BATCH_NORM),
    "googlenet_cifar10": googlenet(*SMALL_STEM, {"3": 32, "4": 16, "5": 8}, 10, BATCH_NORM),
    "inception_digits": googlenet(*DIGITS_STEM, {"3": 8, "4": 4}, 10, BATCH_NORM, DIGITS_MODULES, DIGITS_INPUTS),
    "inception_v3": inception_v3(),
    "convnet_extra_relu": (
        (CONV1 + 3) + (CONV2_8 + 8) + (8 * 8 + 8),
        28 * 28 * CONV1 + 14 * 14 * CONV2_8 + 7 * 7 * 8 * 8,
    ),
    "convnet_linear_head": (
        (CONV1 + 3) + (CONV2_64 + 64) + (7 * 7 * 64 * 100 + 100) + (100 * 10 + 10),
        28 * 28 * CONV1 + 14 * 14 * CONV2_64 + 7 * 7 * 64 * 100 + 100 * 10,
    ),
    "convnet_pointwise_head": (
        (CONV1 + 3) + (CONV2_64 + 64) + (64 * 32 + 32) + (32 * 10 + 10),
        28 * 28 * CONV1 + 14 * 14 * CONV2_64 + 7 * 7 * (64 * 32 + 32 * 10),
    ),
    "deepphys_softconv": ((3 * 3 * 3 * 32 + 32) + (32 * 1 + 1), 36 * 36 * (3 * 3 * 3 * 32 + 32 * 1)),
    "conv1x1_512to32": (512 * 32 + 32, 12 * 12 * 512 * 32),
    "conv3x3_512to32": (3 * 3 * 512 * 32 + 32, 12 * 12 * 3 * 3 * 512 * 32),
    "conv1x1_512to512": (512 * 512 + 512, 12 * 12 * 512 * 512),
    "conv1x1_3to2": (3 * 2 + 2, 6 * 6 * 3 * 2),
    "conv3x3_3to2": (3 * 3 * 3 * 2 + 2, 4 * 4 * 3 * 3 * 3 * 2),
    "conv1x1_1to16": (1 * 16 + 16, 28 * 28 * 1 * 16),
    "conv3x3_1to16": (3 * 3 * 1 * 16 + 16, 28 * 28 * 3 * 3 * 1 * 16),
}
