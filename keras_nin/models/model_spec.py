"""What every model of the zoo has in common: its row of the registry, its builder, and how it is assembled."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import pathlib
import re
import tomllib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from keras_nin.errors import InputError, expected_error

if TYPE_CHECKING:
    import keras

    from keras_nin.models.downloads import DownloadableWeights
    from keras_nin.models.third_party import LayerNames

Shape: TypeAlias = tuple[int, int, int]
Weights: TypeAlias = str | os.PathLike[str] | None
MODEL_SUFFIXES = (".keras", ".h5")
RANDOM, HE = "random", "he"  # weights that are no file


def random_kind(label: str) -> str | None:
    """Return "random" or "he" for the label of random weights, such as "he (seed 0)"; None for other weights."""
    kind, separator, _ = label.partition(" (seed ")
    return kind if separator and kind in (RANDOM, HE) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model's row of the registry. Each family adds what its variants differ in.

    Attributes:
        name: the name to build it by.
        family: function of this row and of keyword arguments that returns the keras.Model.
        title, paper: one line on what it is, and where it comes from, with its arXiv id where it has one.
        input_shape: default (H, W, C).
        classes: number of classes; None for a network that ends in a map.
        params, macs: parameters, and multiply-accumulates of one image, at the defaults. A test holds the built model
            to them.
        dataset: name of the dataset that it is made for; None where none is at hand.
        preprocessing: name of the preset in `keras_nin.data.preprocessing` that it expects.
        bundled_weights: their names.
    """

    name: str
    family: Callable[..., keras.Model]
    title: str
    paper: str
    input_shape: Shape
    classes: int | None = None
    params: int
    macs: int
    dataset: str | None = None
    preprocessing: str = "unit"
    bundled_weights: tuple[str, ...] = ()

    @property
    def layer_names(self) -> LayerNames:
        """Layer names in third-party weight files, as `keras_nin.models.third_party` reads them."""
        tables = [table for table in read_table("layer_names.toml").values() if self.name in table["models"]]
        return {theirs: ours for table in tables for theirs, ours in table["names"].items()}

    @property
    def arguments(self) -> set[str]:
        """Names of the keyword arguments that `build` takes."""
        return set(list(inspect.signature(self.family).parameters)[1:])

    @property
    def downloads(self) -> dict[str, DownloadableWeights]:
        """The weights that can be downloaded, by their names."""
        from keras_nin.models.downloads import list_downloads

        return list_downloads(self.name)

    def describe_weights(self) -> str:
        """Return which weights there are: ``"imagenet (download)"``."""
        names = [*self.bundled_weights, *(f"{name} (download)" for name in self.downloads)]
        return ", ".join(names) or "not bundled"

    def build(self, **arguments: Any) -> keras.Model:
        """Return the model, not compiled; with downloadable weights, the publisher's network.

        The arguments that these weights need are set where the caller does not set them.
        """
        from keras_nin.models import downloads

        download = downloads.find_download(self.name, arguments.get("weights"))
        if download is not None:
            downloads.check_classes(download, self.classes, arguments)
            arguments = {**download.arguments, **arguments, "weights": downloads.fetch_weights(download)}
        return self.family(self, **arguments)

    def assemble(
        self,
        graph: Callable[[keras.KerasTensor], Any],
        input_shape: Shape | None,
        weights: Weights,
        name: str | None,
        include_top: bool = True,
    ) -> keras.Model:
        """Return the keras.Model of a graph, a function from the input tensor to one or several output tensors."""
        import keras

        from keras_nin.models import weight_files

        shape = self.input_shape if input_shape is None else tuple(input_shape)
        if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
            raise expected_error("input_shape", "to be (height, width, channels), all positive", shape)
        size = "x".join(map(str, shape))
        inputs: Any = keras.Input(shape, name="input")
        try:
            outputs = graph(inputs)
        except InputError as error:
            raise InputError(f"{self.name} with input {size}: {error}", argument=error.argument) from None
        except ValueError as error:
            if "negative" not in str(error).lower() and "zero" not in str(error).lower():
                raise
            message = f"Expected an input large enough for {self.name}. Received: {size}"
            raise InputError(message, argument="input_shape") from None
        model = keras.Model(inputs, outputs, name=name or self.name)
        if weights is not None:  # without the top, a file may hold the weights of one
            path = weight_files.find_weights(self.name, weights)
            weight_files.load_weights(model, path, layer_names=self.layer_names, partial=not include_top)
        return model


Spec = TypeVar("Spec", bound=ModelSpec)
Arguments = ParamSpec("Arguments")


@functools.cache
def read_table(name: str) -> dict[str, Any]:
    """Return the content of a .toml file beside this module."""
    return tomllib.loads((pathlib.Path(__file__).parent / name).read_text(encoding="utf-8"))


def read_specs(
    family: Callable[Concatenate[Spec, Arguments], keras.Model], spec_class: type[Spec]
) -> tuple[tuple[Spec, ...], list[Callable[Arguments, keras.Model]]]:
    """Return the rows of a family in zoo.toml, and the builder of each."""
    table = read_table("zoo.toml")[family.__name__]
    specs = {}
    for builder, row in table["models"].items():
        similar = {**table["models"].get(row.get("like"), {})}
        similar.pop("bundled_weights", None)  # a variant has weights of its own
        fields = table.get("common", {}) | similar | row
        fields.pop("like", None)
        specs[builder] = spec_class(family=family, **{key: _as_tuples(value) for key, value in fields.items()})
    return tuple(specs.values()), [_make_builder(name, family, spec) for name, spec in specs.items()]


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _make_builder(
    name: str, family: Callable[Concatenate[Spec, Arguments], keras.Model], spec: Spec
) -> Callable[Arguments, keras.Model]:
    """Return the function `name` that builds a variant, documented by its family, with the variant's defaults.

    The family documents the arguments that are its own; one whose default is None takes the attribute of `spec`.
    """

    def build(*args: Arguments.args, **kwargs: Arguments.kwargs) -> keras.Model:
        return spec.build(*args, **kwargs)

    signature = inspect.signature(family)
    parameters = [
        parameter.replace(default=getattr(spec, key, None)) if parameter.default is None else parameter
        for key, parameter in list(signature.parameters.items())[1:]
    ]
    build.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportFunctionMemberAccess]
    head, _, section = inspect.cleandoc(family.__doc__ or "").partition("\n\nArgs:\n")
    common = read_table("zoo.toml")["documentation"]
    entries = common["arguments"] | dict(re.findall(r"^    (\w+): ((?:.*\n?)(?:     .*\n?)*)", section, re.MULTILINE))
    arguments = "".join(f"    {key.name}: {entries[key.name].rstrip()}\n" for key in parameters)
    summary, _, details = head.partition("\n")
    text = f"{summary}\n\nThe variant: {spec.title} ({spec.paper}).\n{details}".rstrip()
    build.__doc__ = f"{text}\n\nArgs:\n{arguments}\n{common['returns']}"
    build.__name__ = build.__qualname__ = name
    build.__module__ = family.__module__
    return build
