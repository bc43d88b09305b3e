"""Layers and a model that a user wrote, in a file of her own, as `--import custom.py` takes it."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="own_models")
class ChannelScale(keras.layers.Layer):
    """Multiplies each channel by a trained factor."""

    def build(self, input_shape):
        self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="factor")

    def call(self, inputs):
        return inputs * self.factor


@keras.saving.register_keras_serializable(package="own_models")
class SquareReLU(keras.layers.Layer):
    """relu(x) * relu(x) / 4, which holds no weights."""

    def call(self, inputs):
        return ops.square(ops.relu(inputs)) / 4.0


@keras.saving.register_keras_serializable(package="own_models")
class DigitNet(keras.Model):
    """A subclassed network: its graph is what `call` does."""

    def __init__(self, width=16, classes=10, **kwargs):
        super().__init__(**kwargs)
        self.width, self.classes = width, classes
        self.stem = keras.layers.Conv2D(width, 3, strides=2, padding="same", activation="relu", name="stem")
        self.reduce = keras.layers.Conv2D(width // 2, 1, activation="relu", name="reduce")
        self.expand = keras.layers.Conv2D(width, 3, padding="same", name="expand")
        self.pool = keras.layers.MaxPooling2D(name="pool")
        self.flatten = keras.layers.Flatten(name="flatten")
        self.head = keras.layers.Dense(classes, activation="softmax", name="head")

    def call(self, inputs):
        x = self.stem(inputs)
        x = ops.relu(x + self.expand(self.reduce(x)))
        return self.head(self.flatten(self.pool(x)))

    def get_config(self):
        return {**super().get_config(), "width": self.width, "classes": self.classes}
