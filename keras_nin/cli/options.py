"""Options that several commands share, and what their values mean."""

import ast
import importlib
import math

import click

from keras_nin.errors import InputError
from keras_nin.export.schemes import ROUNDING_REACH

SEED = click.IntRange(0, 2**32 - 1)
COUNT = click.IntRange(min=1)


class Number(click.FloatRange):
    """A number in a range; "nan" is none."""

    name = "number"

    def convert(self, value, param, ctx):
        """Return the number, or fail with the option's name."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class Shape(click.ParamType):
    """H,W,C as a tuple of three positive integers."""

    name = "H,W,C"

    def convert(self, value, param, ctx):
        """Return the tuple, or fail with the option's name."""
        parts = [part.strip() for part in value.replace("x", ",").split(",")]
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
            self.fail(f"expected three positive numbers such as 224,224,3, received {value!r}", param, ctx)
        return tuple(int(part) for part in parts)


class Counts(click.ParamType):
    """N[,N...] as a tuple of different positive integers."""

    name = "N[,N...]"

    def __init__(self, example):
        self._example = example

    def convert(self, value, param, ctx):
        """Return the tuple, or fail with the option's name."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
            self.fail(f"expected positive numbers such as {self._example}, received {value!r}", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in parts))


class Size(click.ParamType):
    """A size such as 256KiB as a number of bytes."""

    name = "size"

    def convert(self, value, param, ctx):
        """Return the number of bytes, or fail with the option's name."""
        from keras_nin.audit.budget import parse_bytes

        return parse_bytes(value, param.opts[0]) if isinstance(value, str) else value


def limits_callback(module):
    """Return a callback that reads what is required with a module's `parse`, before the slow part of a command."""

    def read(ctx, param, value):
        if not value:
            return ()
        parse = importlib.import_module(module).parse
        return tuple(limit for text in value for limit in parse(text))

    return read


_OWN_OPTIONS = {"weights": "--weights", "input_shape": "--input-shape", "seed": "--seed", "model": "MODEL"}


def builder_arguments(pairs):
    """Return the dictionary of ``KEY=VALUE`` words; a value is a Python literal, a list of words, or a word.

    Raises:
        InputError: a word without "=", or a key that has an option of its own.
    """
    arguments = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise InputError(f"Expected `--set` as KEY=VALUE. Received: {pair!r}")
        key = key.strip().replace("-", "_")
        if key in _OWN_OPTIONS:
            raise InputError(f"Expected `--set` to give another argument. Received: {pair!r}. Use {_OWN_OPTIONS[key]}")
        arguments[key] = _literal(value)
    return arguments


def _literal(value):
    lowered = {"true": True, "false": False, "none": None}
    if value.lower() in lowered:
        return lowered[value.lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value.split(",") if "," in value else value


def _known_preset(ctx, param, value):
    """Refuse the name of an unknown preset before the slow part of a command starts."""
    if value is not None:
        from keras_nin import data

        data.get_preset(value)
    return value


def _stack(*decorators):
    def decorate(function):
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


shape_option = click.option("--input-shape", type=Shape(), help="Input size, where it is not the model's default.")
set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Argument of the zoo's builder, such as pool_rounding=ceil or classes=10. Repeatable.",
)
model_options = _stack(
    click.option(
        "--weights", metavar="NAME|PATH", help="Weights of the model. [default: those that ship, else random]"
    ),
    shape_option,
    set_option,
    click.option("--seed", type=SEED, metavar="N", default=0, show_default=True, help="Seed of whatever is random."),
)
temporary_export_options = _stack(
    model_options,
    click.option(
        "--calibration",
        metavar="DATASET|DIR|FILE.npz|random",
        help="Images that calibrate a MODEL. [default: the dataset of weights that ship, where at hand; else noise]",
    ),
    click.option("--calibration-count", type=COUNT, metavar="N", help="How many of them. [default: 100; of noise 8]"),
    click.option(
        "--io",
        type=click.Choice(["int8", "uint8", "float32"]),
        help="Input and output of a MODEL in integers. [default: int8]",
    ),
    click.option("--allow-float", is_flag=True, help="Let a MODEL's operators that int8 lacks compute in float."),
)
preprocessing_options = _stack(
    click.option("--labels", metavar="FILE", help="Labels of a flat folder of images: name,label in each line."),
    click.option(
        "--preprocessing",
        metavar="PRESET",
        callback=_known_preset,
        help="How pixels become input: raw, unit, symmetric, standardize, torch, caffe, keras_caffe. "
        "[default: the model's own]",
    ),
    click.option(
        "--crop",
        type=Number(0, 1, min_open=True),
        metavar="FRACTION",
        help="Part of the short side that the centre crop takes.",
    ),
)
data_option = click.option(
    "--data", metavar="DATASET|DIR|FILE.npz", help="Labelled images. [default: the model's own dataset]"
)
count_option = click.option(
    "--test-count", type=COUNT, metavar="N", help="Use N images of the test split, chosen by --seed. [default: all]"
)
limit_options = _stack(
    click.option("--min-top1-match", type=Number(0, 1), metavar="SHARE", default=0.90, show_default=True,
                 help="Smallest share of images on which file and model agree."),
    click.option("--max-drop", type=Number(-100, 100), metavar="POINTS", default=2.5, show_default=True,
                 help="Largest loss of top-1 accuracy, in points."),
    click.option("--max-rms", type=Number(0), metavar="STEPS",
                 help="Largest rms difference of a class or channel, in steps, of a file with rounded weights or "
                 "values. [default: 8 times what rounding makes likely, from the file's operators]"),
    click.option("--max-error", type=Number(0), metavar="STEPS",
                 help="Largest difference of an output, in steps. [default: 0.06 for float32, else not judged]"),
    click.option("--max-closing", type=Number(0), metavar="STEPS",
                 help="Largest error of a closing softmax or sigmoid itself, in steps. [default: what its table "
                 "explains, 2 for 8 bits]"),
    click.option("--max-weight", type=Number(0), metavar="STEPS", default=ROUNDING_REACH + 1.0, show_default=True,
                 help="Largest difference of a weight from the model's, in steps of 8 bits over its channel."),
    click.option("--min-snr", type=Number(), metavar="DB",
                 help="Smallest signal to noise of the outputs, in dB. [default: not judged]"),
)  # fmt: skip
threads_option = click.option("--threads", type=COUNT, metavar="N", default=1, show_default=True, help="Threads.")
force_option = click.option("--force", is_flag=True, help="Replace files that are there with other content.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, the rest on stderr.")
