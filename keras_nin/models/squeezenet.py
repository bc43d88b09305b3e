"""SqueezeNet: Iandola et al., arXiv:1602.07360."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from keras_nin import layers
from keras_nin.models.model_spec import ModelSpec, Shape, Weights, make_builder
from keras_nin.models.predictions import family_functions

if TYPE_CHECKING:
    import keras

# Squeeze and expand widths of fire2 to fire9; both expand layers have the same width.
FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
_SIMPLE_BYPASS: dict[int, str] = dict.fromkeys((3, 5, 7, 9), "simple")
_COMPLEX_BYPASS: dict[int, str] = _SIMPLE_BYPASS | dict.fromkeys((2, 4, 6, 8), "complex")
# Numbers of the fire modules in torchvision's `features`, in which the poolings count. Its poolings round up.
_TORCHVISION_FIRES = {"squeezenet_v1_0": (3, 4, 5, 7, 8, 9, 10, 12), "squeezenet_v1_1": (3, 4, 6, 7, 9, 10, 11, 12)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SqueezeNetSpec(ModelSpec):
    """A SqueezeNet: its first convolution, after which modules a pooling stands, and its bypasses."""

    conv1: tuple[int, int, int] = (96, 7, 2)  # filters, kernel size, strides
    conv1_padding: str = "valid"
    pool_after: tuple[int, ...] = (1, 4, 8)  # 1 for conv1, n for fire n
    bypass: Mapping[int, str] = dataclasses.field(default_factory=dict)

    @property
    def layer_names(self) -> dict[str, str]:
        """Names of the authors' Caffe release, which rcmalli's keras-squeezenet keeps, and of torchvision."""
        parts = {"squeeze": "squeeze1x1", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}
        names = {f"fire{number}/{part}": f"fire{number}_{part}" for number in FIRES for part in parts.values()}
        if self.name in _TORCHVISION_FIRES:
            names |= {"features.0": "conv1", "classifier.1": "conv10"}
            for index, number in zip(_TORCHVISION_FIRES[self.name], FIRES, strict=True):
                names |= {f"features.{index}.{theirs}": f"fire{number}_{ours}" for theirs, ours in parts.items()}
        return names


def squeezenet(
    spec: SqueezeNetSpec,
    *,
    weights: Weights = None,
    include_top: bool = True,
    input_shape: Shape | None = None,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    pool_rounding: str = "floor",
    padded_head: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Build a SqueezeNet: a convolution, eight fire modules, and a 1x1 layer to the classes averaged over the map.

    Args:
        pool_rounding: ``"floor"`` (Keras) or ``"ceil"`` (Caffe, torchvision).
        padded_head: a border of zeros, one wide, before the last 1x1 layer, as in the Caffe release of 1.0.
    """

    def graph(x: keras.KerasTensor) -> keras.KerasTensor:
        import keras

        filters, kernel_size, strides = spec.conv1
        x = layers.conv2d(x, filters, kernel_size, strides=strides, padding=spec.conv1_padding, name="conv1")
        if 1 in spec.pool_after:
            x = layers.pool2d(x, rounding=pool_rounding, name="pool1")
        for number, (squeeze, expand) in FIRES.items():
            x = layers.fire(x, squeeze, expand, expand, bypass=spec.bypass.get(number), name=f"fire{number}")
            if number in spec.pool_after:
                x = layers.pool2d(x, rounding=pool_rounding, name=f"pool{number}")
        if not include_top:
            return x
        x = keras.layers.Dropout(0.5, name="drop9")(x)
        return layers.pointwise_head(
            x,
            spec.classes if classes is None else classes,
            classifier_activation=classifier_activation,
            zero_padding=int(padded_head),
            name="conv10",
        )

    return spec.assemble(graph, input_shape, weights, name, include_top)


_spec = functools.partial(
    SqueezeNetSpec,
    family=squeezenet,
    paper="SqueezeNet, arXiv:1602.07360",
    input_shape=(224, 224, 3),
    classes=1000,
    params=1_248_424,
    macs=777_221_152,
    preprocessing="caffe",
)
SPECS = (
    _spec(name="squeezenet_v1_0", title="the paper's network"),
    _spec(name="squeezenet_v1_0_simple_bypass", title="with additions around fire3, 5, 7 and 9", bypass=_SIMPLE_BYPASS),
    _spec(
        name="squeezenet_v1_0_complex_bypass",
        title="with 1x1 layers around fire2, 4, 6 and 8 too",
        params=1_589_672,
        macs=1_107_964_960,
        bypass=_COMPLEX_BYPASS,
    ),
    _spec(
        name="squeezenet_v1_1",
        title="2.4 times fewer MACs than 1.0, by earlier pooling",
        params=1_235_496,
        macs=349_151_936,
        preprocessing="torch",
        conv1=(64, 3, 2),
        pool_after=(1, 3, 5),
    ),
    _spec(
        name="squeezenet_cifar10",
        title="SqueezeNet 1.1 for 32x32 inputs: stride 1 first, two poolings",
        input_shape=(32, 32, 3),
        classes=10,
        params=727_626,
        macs=76_737_536,
        dataset="cifar10",
        preprocessing="standardize",
        conv1=(64, 3, 1),
        conv1_padding="same",
        pool_after=(3, 5),
    ),
)
SqueezeNet1_0 = make_builder("SqueezeNet1_0", squeezenet, SPECS[0])
SqueezeNet1_0SimpleBypass = make_builder("SqueezeNet1_0SimpleBypass", squeezenet, SPECS[1])
SqueezeNet1_0ComplexBypass = make_builder("SqueezeNet1_0ComplexBypass", squeezenet, SPECS[2])
SqueezeNet1_1 = make_builder("SqueezeNet1_1", squeezenet, SPECS[3])
SqueezeNetCIFAR10 = make_builder("SqueezeNetCIFAR10", squeezenet, SPECS[4])
preprocess_input, decode_predictions = family_functions(SPECS)
