"""Networks as engineers bring them, and labels that they know: a depthwise classifier, a U-Net with two outputs."""

import keras
import numpy as np
from export_networks import ExportNetwork
from keras import layers as kl


def _normalized(model):
    """Return a model with BatchNormalization that does something."""
    generator = np.random.default_rng(5)
    for layer in model.layers:
        if isinstance(layer, kl.BatchNormalization):
            for weight in layer.weights:
                weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    return model


def _pixels(count, seed):
    """Blocks of color, so that images differ in more than noise."""
    blocks = np.random.default_rng(seed).uniform(0, 255, (count, 4, 4, 3))
    return np.kron(blocks, np.ones((1, 4, 4, 1))).astype(np.float32) * np.float32([1, 0.6, 0.2])


def depthwise(mean=(120.0, 70.0, 25.0)):
    """Pixels from 0 to 255, normalized inside; depthwise layers with BatchNormalization, and a softmax."""
    keras.utils.set_random_seed(3)
    image = x = keras.Input((16, 16, 3), name="image")
    x = kl.Normalization(mean=mean, variance=[4000.0, 1500.0, 200.0], name="normalization")(x)
    x = kl.Conv2D(8, 3, strides=2, use_bias=False, name="stem")(x)
    x = kl.ReLU(6.0, name="stem_relu")(kl.BatchNormalization(name="stem_norm")(x))
    x = kl.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = kl.ReLU(6.0, name="depthwise_relu")(kl.BatchNormalization(name="depthwise_norm")(x))
    x = kl.Conv2D(16, 1, activation="relu", name="pointwise")(x)
    x = kl.GlobalAveragePooling2D(name="pool")(x)
    model = _normalized(keras.Model(image, kl.Dense(6, activation="softmax", name="classes")(x), name="depthwise"))
    calibration, test = _pixels(96, 1), _pixels(24, 2)
    labels = model.predict(test, verbose=0).argmax(1)
    return ExportNetwork(model, calibration, test, labels)


def unet():
    """A mask of three classes and a number, from one image of 0 to 1."""
    keras.utils.set_random_seed(4)
    image = keras.Input((16, 16, 3), name="image")
    fine = kl.Conv2D(8, 3, padding="same", activation="relu", name="fine")(kl.Rescaling(4.0, name="scale")(image))
    coarse = kl.Conv2D(12, 3, padding="same", activation="relu", name="coarse")(kl.MaxPooling2D(name="down")(fine))
    up = kl.Conv2DTranspose(8, 2, strides=2, activation="relu", name="up")(coarse)
    joined = kl.Conv2D(8, 3, padding="same", activation="relu", name="joined")(kl.Concatenate(name="skip")([fine, up]))
    mask = kl.Conv2D(3, 1, activation="softmax", name="mask")(joined)
    age = kl.Dense(1, name="age")(kl.GlobalAveragePooling2D(name="pool")(coarse))
    model = keras.Model(image, [mask, age], name="unet")
    generator = np.random.default_rng(1)
    classes = generator.integers(0, 3, (120, 4, 4))
    colors = np.float32([[0.8, 0.2, 0.1], [0.2, 0.6, 0.1], [0.4, 0.3, 0.3]])[np.kron(classes, np.ones((1, 4, 4), int))]
    images = np.clip(colors + generator.normal(0, 0.03, colors.shape), 0, 1).astype(np.float32)
    labels = {"mask": np.kron(classes, np.ones((1, 4, 4), int)).astype(np.uint8), "age": colors[..., 0].mean((1, 2))}
    model.compile(keras.optimizers.Adam(0.01), {"mask": "sparse_categorical_crossentropy", "age": "mse"})
    model.fit(images[:96], {name: values[:96] for name, values in labels.items()}, epochs=15, verbose=0)
    return ExportNetwork(model, images[:96], images[96:], {name: values[96:] for name, values in labels.items()})
