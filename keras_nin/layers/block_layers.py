"""The blocks as Keras layers. Each builds the graph of the block's function inside, so there is one definition."""

import keras

from keras_nin.layers import blocks, inception


class _BlockLayer(keras.layers.Layer):
    """A layer whose computation is the functional graph that `function` builds, held in `inner` once built."""

    function = None

    def __init__(self, *, name=None, trainable=True, dtype=None, **arguments):
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        self.arguments = arguments
        self.inner = None

    def build(self, input_shape):
        x = keras.Input(tuple(input_shape)[1:])
        self.inner = keras.Model(x, type(self).function(x, **self.arguments), name="inner")
        super().build(input_shape)

    def call(self, inputs, training=None):
        return self.inner(inputs, training=training)

    def compute_output_shape(self, input_shape):
        if self.inner is None:
            self.build(input_shape)
        return self.inner.compute_output_shape(input_shape)

    def get_config(self):
        return {**super().get_config(), **self.arguments}


@keras.saving.register_keras_serializable(package="keras_nin")
class Conv1x1(_BlockLayer):
    """1x1 convolution with its non-linearity: `conv1x1` as a layer.

    Input (B, H, W, C), output (B, ceil(H / strides), ceil(W / strides), filters). arXiv:1312.4400.

    Raises:
        InputError: `filters` is no positive integer, or (when built) the input is no map.
    """

    function = staticmethod(blocks.conv1x1)

    def __init__(self, filters, strides=1, activation="relu", use_bias=True, batch_norm=False, **kwargs):
        super().__init__(
            filters=blocks.check_positive("filters", filters),
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
        InputError: `filters` holds anything but positive integers, or (when built) the input is no map.
    """

    function = staticmethod(blocks.mlpconv)

    def __init__(self, filters, kernel_size, strides=1, padding="same", activation="relu", batch_norm=False, **kwargs):
        super().__init__(
            filters=[blocks.check_positive("filters", width) for width in filters],
            kernel_size=kernel_size,
            strides=strides,
            padding=blocks.one_of("padding", padding, ("same", "valid")),
            activation=activation,
            batch_norm=batch_norm,
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="keras_nin")
class Fire(_BlockLayer):
    """SqueezeNet's fire module, with an optional bypass: `fire` as a layer.

    Input (B, H, W, C), output (B, H, W, expand1x1 + expand3x3). arXiv:1602.07360.

    Raises:
        InputError: a width is no positive integer, `bypass` is unknown, or (when built) a simple bypass does not fit.
    """

    function = staticmethod(blocks.fire)

    def __init__(self, squeeze, expand1x1, expand3x3, bypass=None, activation="relu", batch_norm=False, **kwargs):
        super().__init__(
            squeeze=blocks.check_positive("squeeze", squeeze),
            expand1x1=blocks.check_positive("expand1x1", expand1x1),
            expand3x3=blocks.check_positive("expand3x3", expand3x3),
            bypass=blocks.one_of("bypass", bypass, blocks.BYPASSES),
            activation=activation,
            batch_norm=batch_norm,
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="keras_nin")
class PointwiseHead(_BlockLayer):
    """A 1x1 layer to the classes, then global average pooling: `pointwise_head` as a layer.

    Input (B, H, W, C), output (B, classes). arXiv:1312.4400.

    Raises:
        InputError: `classes` is no positive integer, or (when built) the input is no map.
    """

    function = staticmethod(blocks.pointwise_head)

    def __init__(self, classes, activation="relu", classifier_activation="softmax", zero_padding=0, **kwargs):
        super().__init__(
            classes=blocks.check_positive("classes", classes),
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
        InputError: a width is no positive integer, or (when built) the input is no map.
    """

    function = staticmethod(inception.inception_module)

    def __init__(
        self,
        conv1x1_filters,
        conv3x3_filters,
        conv5x5_filters,
        reduce3x3=None,
        reduce5x5=None,
        pool_projection=None,
        activation="relu",
        batch_norm=False,
        **kwargs,
    ):
        optional = {"reduce3x3": reduce3x3, "reduce5x5": reduce5x5, "pool_projection": pool_projection}
        for what, width in optional.items():
            if width is not None:
                blocks.check_positive(what, width)
        super().__init__(
            conv1x1_filters=blocks.check_positive("conv1x1_filters", conv1x1_filters),
            conv3x3_filters=blocks.check_positive("conv3x3_filters", conv3x3_filters),
            conv5x5_filters=blocks.check_positive("conv5x5_filters", conv5x5_filters),
            **optional,
            activation=activation,
            batch_norm=batch_norm,
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="keras_nin")
class InceptionV3Module(_BlockLayer):
    """Inception v3 module of kind "a", "b" or "c": `inception_v3_module` as a layer.

    Input (B, H, W, C), output (B, H, W, C'). arXiv:1512.00567.

    Raises:
        InputError: an unknown kind, or a width is no positive integer.
    """

    function = staticmethod(inception.inception_v3_module)

    def __init__(self, kind, pool_projection=192, width=128, **kwargs):
        super().__init__(
            kind=blocks.one_of("kind", kind, inception.MODULE_KINDS),
            pool_projection=blocks.check_positive("pool_projection", pool_projection),
            width=blocks.check_positive("width", width),
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

    def __init__(self, kind, **kwargs):
        super().__init__(kind=blocks.one_of("kind", kind, inception.REDUCTION_KINDS), **kwargs)
