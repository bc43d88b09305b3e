"""The blocks as Keras layers. Each builds the graph of the block's function inside, so there is one definition."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import keras

from keras_nin.errors import check_choice, check_whole_number
from keras_nin.layers import blocks, inception


class _BlockLayer(keras.layers.Layer):
    """A layer whose computation is the functional graph that `function` builds, held in `inner` once built.

    Its arguments are those of `function`, and those of every layer: `name`, `trainable`, `dtype`.
    """

    function: ClassVar[Callable[..., keras.KerasTensor]]
    positive: ClassVar[tuple[str, ...]] = ()  # arguments that are positive whole numbers, or None by default
    choices: ClassVar[Mapping[str, Sequence[Any]]] = {}  # allowed values of an argument
    own_signature: ClassVar[inspect.Signature]

    def __init_subclass__(cls) -> None:
        """Give the class the signature of its function, and register it for loading."""
        super().__init_subclass__()
        parameters = list(inspect.signature(cls.function).parameters.values())[1:-1]  # without x and name
        own = [parameter.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters]
        cls.own_signature = inspect.Signature(own)
        cls.__signature__ = inspect.Signature([*own, inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)])
        keras.saving.register_keras_serializable(package="keras_nin")(cls)

    def __init__(self, *args: Any, name: str | None = None, trainable: bool = True, dtype: Any = None, **kwargs: Any):
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        bound = self.own_signature.bind(*args, **kwargs)
        bound.apply_defaults()
        self.arguments = bound.arguments
        for argument in self.positive:
            value = self.arguments[argument]
            if value is not None or self.own_signature.parameters[argument].default is not None:
                for number in value if isinstance(value, list | tuple) else [value]:
                    check_whole_number(argument, number)
        for argument, allowed in self.choices.items():
            check_choice(argument, self.arguments[argument], allowed)
        self.inner: Any = None

    def build(self, input_shape: Sequence[int | None]) -> None:
        x = keras.Input(tuple(input_shape)[1:])
        self.inner = keras.Model(x, type(self).function(x, **self.arguments), name="inner")
        super().build(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.inner(inputs, training=training)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Any:
        if not self.built:
            self.build(input_shape)
        return self.inner.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.arguments}


class Conv1x1(_BlockLayer):
    """`conv1x1` as a layer: (B, H, W, C) to (B, ceil(H / strides), ceil(W / strides), filters). arXiv:1312.4400."""

    function = staticmethod(blocks.conv1x1)
    positive = ("filters",)


class MLPConv(_BlockLayer):
    """`mlpconv` as a layer: (B, H, W, C) to (B, ceil(H / strides), ceil(W / strides), filters[-1]). arXiv:1312.4400."""

    function = staticmethod(blocks.mlpconv)
    positive = ("filters",)
    choices = {"padding": ("same", "valid")}


class Fire(_BlockLayer):
    """SqueezeNet's `fire` as a layer: (B, H, W, C) to (B, H, W, expand1x1 + expand3x3). arXiv:1602.07360."""

    function = staticmethod(blocks.fire)
    positive = ("squeeze", "expand1x1", "expand3x3")
    choices = {"bypass": blocks.BYPASSES}


class PointwiseHead(_BlockLayer):
    """`pointwise_head` as a layer: (B, H, W, C) to (B, classes). arXiv:1312.4400."""

    function = staticmethod(blocks.pointwise_head)
    positive = ("classes",)


class InceptionModule(_BlockLayer):
    """`inception_module` as a layer: (B, H, W, C) to (B, H, W, sum of the branches' channels). arXiv:1409.4842."""

    function = staticmethod(inception.inception_module)
    positive = (
        *("conv1x1_filters", "conv3x3_filters", "conv5x5_filters", "reduce3x3", "reduce5x5", "pool_projection"),
        "branch5x5_kernel_size",
    )


class InceptionV3Module(_BlockLayer):
    """`inception_v3_module` of kind "a", "b" or "c" as a layer: (B, H, W, C) to (B, H, W, C'). arXiv:1512.00567."""

    function = staticmethod(inception.inception_v3_module)
    positive = ("pool_projection", "width")
    choices = {"kind": inception.MODULE_KINDS}


class InceptionReduction(_BlockLayer):
    """`inception_reduction`, 35 to 17 (kind "a") or 17 to 8 ("b"), as a layer. arXiv:1512.00567.

    Input (B, H, W, C), output (B, (H - 3) // 2 + 1, (W - 3) // 2 + 1, C + 480 or C + 512).
    """

    function = staticmethod(inception.inception_reduction)
    choices = {"kind": inception.REDUCTION_KINDS}
