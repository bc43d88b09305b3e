"""Options that several commands share, and the command class that maps Python arguments to them."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from keras_nin.errors import InputError, with_flags
from keras_nin.export.schemes import RANGES, ROUNDING_REACH, ROUNDINGS, Tuning

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]

SEED = click.IntRange(0, 2**32 - 1)
COUNT = click.IntRange(min=1)
DATASET = "DATASET|DIR|FILE.npz"


class Command(click.Command):
    """A command whose `InputError`s name options instead of Python arguments, and that knows --debug."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        debug = click.Option(
            ["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an unexpected error."
        )
        self.params.append(debug)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words of the command line."""
        with self._naming_options():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with self._naming_options():
            return super().invoke(ctx)

    @contextlib.contextmanager
    def _naming_options(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise click.ClickException(with_flags(str(error), self.flags())) from error

    def flags(self) -> dict[str, str]:
        """Return what the command line calls each argument."""
        return {
            param.name or "": max(param.opts, key=len) if isinstance(param, click.Option) else _metavar(param)
            for param in self.params
        }


def _metavar(param: click.Parameter) -> str:
    return param.metavar or (param.name or "").upper()


def is_set(context: click.Context, name: str) -> bool:
    """Whether the user gave a parameter."""
    sources = click.core.ParameterSource
    return context.get_parameter_source(name) not in (sources.DEFAULT, sources.DEFAULT_MAP)


class Number(click.FloatRange):
    """A number in a range; "nan" is none."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail with the option's name."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class Shape(click.ParamType):
    """H,W,C as a tuple of three positive integers."""

    name = "H,W,C"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the tuple, or fail with the option's name."""
        sides = _positive_integers(value.replace("x", ","))
        if len(sides) != 3:
            self.fail(f"expected three positive numbers such as 224,224,3, received {value!r}", param, ctx)
        return sides


class Counts(click.ParamType):
    """N[,N...] as a tuple of different positive integers."""

    name = "N[,N...]"

    def __init__(self, example: str) -> None:
        self._example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the tuple, or fail with the option's name."""
        if isinstance(value, tuple):
            return value
        counts = _positive_integers(value)
        if not counts:
            self.fail(f"expected positive numbers such as {self._example}, received {value!r}", param, ctx)
        return tuple(dict.fromkeys(counts))


def _positive_integers(text: str) -> tuple[int, ...]:
    """Return the positive integers of a comma-separated text; empty where one is none."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        return ()
    return tuple(map(int, parts))


class Size(click.ParamType):
    """A size such as 256KiB as a number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes, or fail with the option's name."""
        if not isinstance(value, str):
            return value
        from keras_nin.limits import parse_byte_count

        return parse_byte_count(value, argument=param.name if param and param.name else "size")


def split_words(context: click.Context, param: click.Parameter, value: Sequence[str]) -> tuple[str, ...]:
    """Return the words of comma-separated values."""
    return tuple(word.strip() for text in value for word in text.split(",") if word.strip())


def join_limits(context: click.Context, param: click.Parameter, value: Sequence[str]) -> str | None:
    """Return the limits of a repeatable option as one text."""
    return ",".join(value) or None


def parse_builder_arguments(context: click.Context, param: click.Parameter, value: Sequence[str]) -> dict[str, Any]:
    """Return the dictionary of KEY=VALUE words; a value is a Python literal, a list of words, or a word."""
    arguments = {}
    for pair in value:
        key, separator, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not separator or not key:
            raise click.BadParameter(f"expected KEY=VALUE, received {pair!r}", context, param)
        if key in ("weights", "input_shape", "seed", "model"):
            own = "MODEL" if key == "model" else f"--{key.replace('_', '-')}"
            raise click.BadParameter(f"use {own} instead of {pair!r}", context, param)
        arguments[key] = _parse_literal(text)
    return arguments


def _parse_literal(text: str) -> Any:
    lowered = {"true": True, "false": False, "none": None}
    if text.lower() in lowered:
        return lowered[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text.split(",") if "," in text else text


def _check_preset(context: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse an unknown preset before the slow part of a command starts."""
    if value is not None:
        from keras_nin import data

        data.get_preset(value)
    return value


def stack(*decorators: Decorator) -> Decorator:
    """Return one decorator that adds several options, in this order."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def fold(name: str, record: str, *decorators: Decorator, optional: bool = False) -> Decorator:
    """Return a decorator that adds options and passes their values as one record.

    Args:
        name: of the argument that takes the record.
        record: the record's class, as ``"module:Class"``; imported when the command runs.
        decorators: the options; each has the name of a field, or of a record that was folded before.
        optional: whether the argument is None, and the module is not imported, where none of the options is set.
    """

    def decorate(function: Function) -> Function:
        fields = [param.name for param in _params(*decorators)]

        @functools.wraps(function)
        def wrapper(*arguments: Any, **values: Any) -> Any:
            module, _, attribute = record.partition(":")
            options = {field: values.pop(field) for field in fields if field in values}
            values[name] = None
            context = click.get_current_context()
            if not optional or any(is_set(context, field) for field in options):
                values[name] = getattr(importlib.import_module(module), attribute)(**options)
            return function(*arguments, **values)

        return stack(*decorators)(wrapper)  # type: ignore[return-value]

    return decorate


def _params(*decorators: Decorator) -> list[click.Parameter]:
    def probe() -> None: ...

    return getattr(stack(*decorators)(probe), "__click_params__", [])


shape_option = click.option("--input-shape", type=Shape(), help="Input size, where the network leaves it open.")
set_option = click.option(
    "--set",
    "builder_arguments",
    multiple=True,
    callback=parse_builder_arguments,
    metavar="KEY=VALUE",
    help="Argument of the model's builder, such as pool_rounding=ceil or classes=10. Repeatable.",
)
seed_option = click.option(
    "--seed", type=SEED, metavar="N", default=0, show_default=True, help="Seed of random weights, noise and draws."
)
model_options = stack(
    click.option("--weights", metavar="NAME|PATH", help="Weights of the model. [default: bundled ones, else random]"),
    shape_option,
    set_option,
    seed_option,
)
_export_options = (
    click.option(
        "--calibration",
        metavar=f"{DATASET}|random",
        help="Images that calibrate a MODEL. [default: those of its bundled weights, else noise]",
    ),
    click.option("--calibration-count", type=COUNT, metavar="N", help="Number of them. [default: 100, or 8 of noise]"),
    click.option(
        "--io",
        type=click.Choice(["int8", "uint8", "float32"]),
        help="Input and output type of an exported MODEL. [default: int8]",
    ),
    click.option("--allow-float", is_flag=True, help="Let operators of a MODEL that int8 lacks compute in float."),
)
temporary_export_options = fold(
    "export", "keras_nin.workflows.conversion:ExportOptions", model_options, *_export_options, optional=True
)
labels_option = click.option("--labels", metavar="FILE", help="Labels of a flat folder of images: name,label per line.")
preprocessing_options = stack(
    labels_option,
    click.option(
        "--preprocessing",
        metavar="PRESET",
        callback=_check_preset,
        help="How pixels become input: raw, unit, symmetric, standardize, torch, caffe, keras_caffe. "
        "[default: the model's own]",
    ),
    click.option(
        "--crop",
        type=Number(0, 1, min_open=True),
        metavar="FRACTION",
        help="Share of the short side that the center crop keeps.",
    ),
)
test_option = click.option(
    "--data", "test", metavar=DATASET, help="Labeled test images. [default: the model's own dataset]"
)
count_option = click.option(
    "--test-count", type=COUNT, metavar="N", help="Number of test images, drawn by --seed. [default: all]"
)
tuning_options = fold(
    "tuning",
    "keras_nin.export.schemes:Tuning",
    click.option(
        "--ranges",
        type=click.Choice(RANGES),
        default=Tuning().ranges,
        show_default=True,
        help="int8 ranges of activations: minimum and maximum, or least mean squared error.",
    ),
    click.option(
        "--rounding",
        type=click.Choice(ROUNDINGS),
        default=Tuning().rounding,
        show_default=True,
        help="int8 weights: rounded to nearest, or so that outputs change least.",
    ),
    click.option(
        "--bias-correction/--no-bias-correction",
        default=Tuning().bias_correction,
        show_default=True,
        help="Compensate in int8 biases for the mean error of rounded weights.",
    ),
)
limit_options = fold(
    "limits",
    "keras_nin.export.parity:ParityLimits",
    click.option("--min-top1-match", type=Number(0, 1), metavar="SHARE", default=0.90, show_default=True,
                 help="Smallest share of images with the model's top-1 class."),
    click.option("--max-drop", type=Number(-100, 100), metavar="PP", default=2.5, show_default=True,
                 help="Largest top-1 drop, in percentage points."),
    click.option("--max-rms", type=Number(0), metavar="LSB",
                 help="Largest RMS difference of a class or channel, in quantization steps of the output. [default: 8 "
                 "times what rounding explains, from the file's operators]"),
    click.option("--max-error", type=Number(0), metavar="LSB",
                 help="Largest difference of an output. [default: 0.06 for float32, else not checked]"),
    click.option("--max-closing", type=Number(0), metavar="LSB",
                 help="Largest error of a final softmax or sigmoid itself. [default: what its table explains, 2 for 8 "
                 "bits]"),
    click.option("--max-weight", type=Number(0), metavar="LSB", default=ROUNDING_REACH + 1.0, show_default=True,
                 help="Largest difference of a weight from the model's, in 8-bit steps of its channel."),
    click.option("--min-snr", type=Number(), metavar="DB",
                 help="Smallest signal-to-noise ratio of the outputs, in dB. [default: not checked]"),
)  # fmt: skip
require_option = functools.partial(
    click.option, "--require", callback=join_limits, multiple=True, metavar="ITEM=LIMIT,..."
)
timeout_option = functools.partial(
    click.option, "--timeout", type=Number(0, min_open=True), metavar="SECONDS", show_default=True
)
plot_option = functools.partial(click.option, "--plot", metavar="FILE.png")
max_arena_option = click.option(
    "--max-arena", type=Size(), metavar="SIZE", default="2MiB", show_default=True, help="Largest arena to try."
)
threads_option = click.option(
    "--threads", type=COUNT, metavar="N", default=1, show_default=True, help="Threads of the runtime."
)
force_option = click.option("--force", is_flag=True, help="Replace existing files with different content.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, the rest on stderr.")
