"""What every model of the zoo has in common: its record, and the frame around its graph."""

import dataclasses
from collections.abc import Callable, Mapping

from keras_nin.errors import InputError


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model's row in the registry.

    Attributes:
        name: the name to build it by.
        builder: function that returns the keras.Model.
        title: one line on what it is.
        paper: where it comes from, with its arXiv id where it has one.
        input_shape: default (H, W, C).
        classes: number of classes; None for a network that ends in a map.
        params, macs: parameters, and multiply-accumulates of one image, at the defaults. Declared as arithmetic;
            a test holds the built model to them.
        dataset: name of the dataset that it is made for; None where none is at hand.
        preprocessing: name of the preset in `keras_nin.data.preprocessing` that it expects.
        weights: names of the weights that ship.
        layer_names: layer names that weight files of others use, as `foreign_names` reads them.
    """

    name: str
    builder: Callable
    title: str
    paper: str
    input_shape: tuple[int, int, int]
    classes: int | None
    params: int
    macs: int
    dataset: str | None = None
    preprocessing: str = "unit"
    weights: tuple[str, ...] = ()
    layer_names: Mapping = dataclasses.field(default_factory=dict)


def check_input_shape(input_shape, default):
    """Return `input_shape` as (H, W, C), `default` where it is None; `InputError` where it is no such shape."""
    if input_shape is None:
        return default
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise InputError(f"Expected `input_shape` to be (height, width, channels), all positive. Received: {shape}")
    return shape


def assemble_model(
    graph, *, variant, name, input_shape, weights=None, include_top=True, layer_names: Mapping | None = None
):
    """Return the keras.Model that `graph` (a function from tensor to tensor) makes of an input of `input_shape`.

    Args:
        graph: the network as a function on a tensor (B, H, W, C).
        variant: the zoo's name of the model, under which weights may ship.
        name: the model's own name; None takes the zoo's.
        input_shape: (H, W, C).
        weights: None (random), the name of weights that ship, or a path; see `weight_files.load_weights`.
        include_top: whether the network has its top; without it, a file may hold the weights of one.
        layer_names: layer names that weight files of others use, as `foreign_names` reads them.

    Raises:
        InputError: the input is too small for the network, or the weights do not fit.
    """
    import keras

    from keras_nin.models import weight_files

    inputs = keras.Input(input_shape, name="input")
    try:
        outputs = graph(inputs)
    except InputError as error:
        raise InputError(f"{variant} with input {'x'.join(map(str, input_shape))}: {error}") from None
    except ValueError as error:
        if "negative" not in str(error).lower() and "zero" not in str(error).lower():
            raise
        raise InputError(
            f"Expected an input large enough for {variant}. Received: {'x'.join(map(str, input_shape))}"
        ) from None
    model = keras.Model(inputs, outputs, name=name or variant)
    if weights is not None:
        path = weight_files.find_weights(variant, weights)
        weight_files.load_weights(model, path, layer_names=layer_names, partial=not include_top)
    return model
