"""What the translation of foreign weights asks of a network: its variables, flattened maps, and what is normalised."""

import dataclasses

from keras_nin.errors import InputError

# Layers that let a flattened map through element by element.
_ELEMENTWISE = ("Dropout", "Activation", "ReLU", "LeakyReLU", "ELU", "Identity", "GaussianNoise")


@dataclasses.dataclass(frozen=True)
class Network:
    """A model as the translation sees it.

    Attributes:
        name: the model's.
        shapes: of every weight, by layer and variable.
        flattened: (H, W, C) of the map behind every Dense that takes a flattened one, by the layer's name.
        convolutions: by the name of a BatchNormalization, that of the linear convolution without bias whose output it
            alone takes.
        epsilons: of every BatchNormalization, by the layer's name.
    """

    name: str
    shapes: dict
    flattened: dict
    convolutions: dict
    epsilons: dict


def network(model):
    """Return the `Network` of a model of plain layers.

    Raises:
        InputError: layers in layers, or a layer with weights other than Dense on a flattened map.
    """
    shapes, flattened, convolutions, epsilons = {}, {}, {}, {}
    for layer in model.layers:
        if not layer.weights:
            continue
        shapes[layer.name] = {weight.name: tuple(weight.shape) for weight in layer.weights}
        if len(shapes[layer.name]) < len(layer.weights) or hasattr(layer, "layers"):
            raise InputError(
                f"Expected a network of plain layers for weights by name. Received: {model.name}, whose layer "
                f"{layer.name!r} holds layers. Use .weights.h5 or .keras"
            )
        size = _flattened_size(layer)
        if size is not None:
            flattened[layer.name] = size
        if type(layer).__name__ == "BatchNormalization":
            epsilons[layer.name] = layer.epsilon
            convolution = _producer(layer)
            if _takes_all_of(layer, convolution):
                convolutions[layer.name] = convolution.name
    return Network(model.name, shapes, flattened, convolutions, epsilons)


def _producer(layer):
    """Return the layer whose output `layer` takes; None where there are several, or none."""
    tensor = layer.input
    return None if isinstance(tensor, list | tuple | dict) else tensor._keras_history.operation


def _flattened_size(layer):
    before = _producer(layer)
    while type(before).__name__ in _ELEMENTWISE:
        before = _producer(before)
    if type(before).__name__ != "Flatten" or len(before.input.shape) != 4 or before.input.shape[1:3] == (1, 1):
        return None
    if type(layer).__name__ != "Dense":
        raise InputError(
            f"Expected only Dense on a flattened map for weights of others. Received: {type(layer).__name__} "
            f"{layer.name!r}"
        )
    return tuple(before.input.shape[1:])


def _takes_all_of(layer, convolution):
    """Return whether a normalisation can take the place of what a linear layer before it lacks."""
    import keras

    return (
        type(convolution).__name__ in ("Conv2D", "Dense")
        and convolution.activation is keras.activations.linear
        and not convolution.use_bias
        and len(convolution._outbound_nodes) == 1
        and layer.axis in (-1, len(layer.input.shape) - 1)
    )
