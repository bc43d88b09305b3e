"""What every model of the zoo has in common: its record, its builder's signature, and how it is assembled."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias

from keras_nin.errors import InputError

if TYPE_CHECKING:
    import keras

Arguments = ParamSpec("Arguments")
Shape: TypeAlias = tuple[int, int, int]
Weights: TypeAlias = str | os.PathLike[str] | None
# From a third-party layer name to ours; see `keras_nin.models.third_party`.
LayerNames: TypeAlias = Mapping[str, str | tuple[str, ...] | None]


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
        weights: names of the bundled weights.
        layer_names: layer names in third-party weight files, as `keras_nin.models.third_party` reads them.
    """

    name: str
    builder: Callable[..., keras.Model]
    title: str
    paper: str
    input_shape: Shape
    classes: int | None
    params: int
    macs: int
    dataset: str | None = None
    preprocessing: str = "unit"
    weights: tuple[str, ...] = ()
    layer_names: LayerNames = dataclasses.field(default_factory=dict)


def variant_of(
    family: Callable[Concatenate[str, Arguments], keras.Model], row: object
) -> Callable[[Callable[..., keras.Model]], Callable[Arguments, keras.Model]]:
    """Return a decorator that gives a builder the signature and the documentation of its family.

    Args:
        family: function of the variant's name and keyword arguments. Its docstring documents them under "Args:",
            first the variant.
        row: the variant. Its attributes are the defaults of the arguments of the same names whose default is None.
    """

    def decorate(builder: Callable[..., keras.Model]) -> Callable[Arguments, keras.Model]:
        signature = inspect.signature(family)
        parameters = [
            parameter.replace(default=getattr(row, name))
            if parameter.default is None and hasattr(row, name)
            else parameter
            for name, parameter in list(signature.parameters.items())[1:]
        ]
        builder.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportFunctionMemberAccess]
        _, _, arguments = inspect.cleandoc(family.__doc__ or "").partition("Args:\n")
        _, _, arguments = arguments.partition("\n")  # without the variant, which takes one line
        builder.__doc__ = f"{inspect.cleandoc(builder.__doc__ or '')}\n\nArgs:\n{arguments}"
        return builder

    return decorate


def check_input_shape(input_shape: Sequence[int] | None, default: Shape) -> Shape:
    """Return `input_shape` as (H, W, C), `default` where it is None; `InputError` where it is no such shape."""
    if input_shape is None:
        return default
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise InputError(
            f"Expected `input_shape` to be (height, width, channels), all positive. Received: {shape}",
            argument="input_shape",
            received=input_shape,
        )
    return shape


def assemble_model(
    graph: Callable[[keras.KerasTensor], Any],
    *,
    variant: str,
    name: str | None,
    input_shape: Shape,
    weights: Weights = None,
    include_top: bool = True,
    layer_names: LayerNames | None = None,
) -> keras.Model:
    """Return the keras.Model that `graph` makes of an input of `input_shape`.

    Args:
        graph: the network as a function on a tensor (B, H, W, C); it returns a tensor or a list of them.
        variant: the zoo's name of the model, under which its weights are bundled.
        name: the model's own name; None takes the zoo's.
        input_shape: (H, W, C).
        weights: None (random), the name of bundled weights, or a path; see `weight_files.load_weights`.
        include_top: whether the network has its top; without it, a file may hold the weights of one.
        layer_names: layer names in third-party weight files, as `keras_nin.models.third_party` reads them.

    Raises:
        InputError: the input is too small for the network, or the weights do not fit.
    """
    import keras

    from keras_nin.models import weight_files

    inputs: Any = keras.Input(input_shape, name="input")
    size = "x".join(map(str, input_shape))
    try:
        outputs = graph(inputs)
    except InputError as error:
        raise InputError(f"{variant} with input {size}: {error}", argument=error.argument) from None
    except ValueError as error:
        if "negative" not in str(error).lower() and "zero" not in str(error).lower():
            raise
        raise InputError(
            f"Expected an input large enough for {variant}. Received: {size}", argument="input_shape"
        ) from None
    model = keras.Model(inputs, outputs, name=name or variant)
    if weights is not None:
        path = weight_files.find_weights(variant, weights)
        weight_files.load_weights(model, path, layer_names=layer_names, partial=not include_top)
    return model
