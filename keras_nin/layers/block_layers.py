"""The blocks as Keras layers. Each builds the graph of the block's function inside, so there is one definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras

from keras_nin.errors import check_choice, check_whole_number
from keras_nin.layers import blocks, inception
from keras_nin.layers.blocks import KernelSize


class _BlockLayer(keras.layers.Layer):
    """A layer whose computation is the functional graph that `function` builds, held in `inner` once built."""

    function: ClassVar[Callable[..., keras.KerasTensor]]

    def __init__(self, *, name: str | None = None, trainable: bool = True, dtype: Any = None, **arguments: Any) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        self.arguments = arguments
        self.inner: keras.Model | None = None

    def build(self, input_shape: Sequence[int | None]) -> None:
        x = keras.Input(tuple(input_shape)[1:])
        self.inner = keras.Model(x, type(self).function(x, **self.arguments), name="inner")
        super().build(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        assert self.inner is not None  # Keras builds a layer before it calls it
        return self.inner(inputs, training=training)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Any:
        if self.inner is None:
            self.build(input_shape)
        assert self.inner is not None
        return self.inner.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.arguments}


@keras.saving.register_keras_serializable(package="keras_nin")
class Conv1x1(_BlockLayer):
    """1x1 convolution with its non-linearity: `conv1x1` as a layer.

    Input (B, H, W, C), output (B, ceil(H / strides), ceil(W / strides), filters). arXiv:1312.4400.

    Raises:
        InputError: `filters` is not a positive integer, or (when built) the input is not a map.
    """

    function = staticmethod(blocks.conv1x1)

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        activation: str | None = "relu",
        use_bias: bool = True,
        batch_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            filters=check_whole_number("filters", filters),
            strides=strides,
            activation=activation,
            use_bias=use_bias,
            batch_norm=batch_norm,
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="keras_nin")
class MLPConv(_BlockLayer):
    """A k x k convolution followed by 1x1 layers: `mlpconv` as a layer.

    Input (B, H, W, C), output (B, ceil(H / strides), ceil(W / strides), filters[-1]) with "same" padding.
    arXiv:1312.4400.

    Raises:
        InputError: `filters` holds anything but positive integers, or (when built) the input is not a map.
    """

    function = staticmethod(blocks.mlpconv)

    def __init__(
        self,
        filters: Sequence[int],
        kernel_size: KernelSize,
        strides: int = 1,
        padding: str = "same",
        activation: str | None = "relu",
        batch_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            filters=[check_whole_number("filters", width) for width in filters],
            kernel_size=kernel_size,
            strides=strides,
            padding=check_choice("padding", padding, ("same", "valid")),
            activation=activation,
            batch_norm=batch_norm,
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="keras_nin")
class Fire(_BlockLayer):
    """SqueezeNet's fire module, with an optional bypass: `fire` as a layer.

    Input (B, H, W, C), output (B, H, W, expand1x1 + expand3x3). arXiv:1602.07360.

    Raises:
        InputError: a width is not a positive integer, `bypass` is unknown, or (when built) a simple bypass does not
            fit.
    """

    function = staticmethod(blocks.fire)

    def __init__(
        self,
        squeeze: int,
        expand1x1: int,
        expand3x3: int,
        bypass: str | None = None,
        activation: str | None = "relu",
        batch_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            squeeze=check_whole_number("squeeze", squeeze),
            expand1x1=check_whole_number("expand1x1", expand1x1),
            expand3x3=check_whole_number("expand3x3", expand3x3),
            bypass=check_choice("bypass", bypass, blocks.BYPASSES),
            activation=activation,
            batch_norm=batch_norm,
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="keras_nin")
class PointwiseHead(_BlockLayer):
    """A 1x1 layer to the classes, then global average pooling: `pointwise_head` as a layer.

    Input (B, H, W, C), output (B, classes). arXiv:1312.4400.

    Raises:
        InputError: `classes` is not a positive integer, or (when built) the input is not a map.
    """

    function = staticmethod(blocks.pointwise_head)

    def __init__(
        self,
        classes: int,
        activation: str | None = "relu",
        classifier_activation: str | None = "softmax",
        zero_padding: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            classes=check_whole_number("classes", classes),
            activation=activation,
            classifier_activation=classifier_activation,
            zero_padding=zero_padding,
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="keras_nin")
class InceptionModule(_BlockLayer):
    """Inception v1 module, with or without the 1x1 reductions and the pool projection: `inception_module` as a layer.

    Input (B, H, W, C), output (B, H, W, sum of the branches' channels). arXiv:1409.4842.

    Raises:
        InputError: a width is not a positive integer, or (when built) the input is not a map.
    """

    function = staticmethod(inception.inception_module)

    def __init__(
        self,
        conv1x1_filters: int,
        conv3x3_filters: int,
        conv5x5_filters: int,
        reduce3x3: int | None = None,
        reduce5x5: int | None = None,
        pool_projection: int | None = None,
        activation: str | None = "relu",
        batch_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        optional = {"reduce3x3": reduce3x3, "reduce5x5": reduce5x5, "pool_projection": pool_projection}
        super().__init__(
            conv1x1_filters=check_whole_number("conv1x1_filters", conv1x1_filters),
            conv3x3_filters=check_whole_number("conv3x3_filters", conv3x3_filters),
            conv5x5_filters=check_whole_number("conv5x5_filters", conv5x5_filters),
            **{name: width if width is None else check_whole_number(name, width) for name, width in optional.items()},
            activation=activation,
            batch_norm=batch_norm,
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="keras_nin")
class InceptionV3Module(_BlockLayer):
    """Inception v3 module of kind "a", "b" or "c": `inception_v3_module` as a layer.

    Input (B, H, W, C), output (B, H, W, C'). arXiv:1512.00567.

    Raises:
        InputError: an unknown kind, or a width is not a positive integer.
    """

    function = staticmethod(inception.inception_v3_module)

    def __init__(self, kind: str, pool_projection: int = 192, width: int = 128, **kwargs: Any) -> None:
        super().__init__(
            kind=check_choice("kind", kind, inception.MODULE_KINDS),
            pool_projection=check_whole_number("pool_projection", pool_projection),
            width=check_whole_number("width", width),
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="keras_nin")
class InceptionReduction(_BlockLayer):
    """Inception v3 grid reduction, 35 to 17 (kind "a") or 17 to 8 ("b"): `inception_reduction` as a layer.

    Input (B, H, W, C), output (B, (H - 3) // 2 + 1, (W - 3) // 2 + 1, C + 480 or C + 512). arXiv:1512.00567.

    Raises:
        InputError: an unknown kind, or (when built) the map is smaller than 3x3.
    """

    function = staticmethod(inception.inception_reduction)

    def __init__(self, kind: str, **kwargs: Any) -> None:
        super().__init__(kind=check_choice("kind", kind, inception.REDUCTION_KINDS), **kwargs)
