"""Options that several commands share, and what their values mean."""

import ast

import click

from keras_nin.errors import InputError


class Shape(click.ParamType):
    """H,W,C as a tuple of three positive integers."""

    name = "H,W,C"

    def convert(self, value, param, ctx):
        """Return the tuple, or fail with the option's name."""
        parts = value.replace("x", ",").split(",")
        if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
            self.fail(f"expected three positive numbers such as 224,224,3, received {value!r}", param, ctx)
        return tuple(int(part) for part in parts)


def builder_arguments(pairs):
    """Return the dictionary of ``KEY=VALUE`` words; a value is a Python literal, a list of words, or a word.

    Raises:
        InputError: a word without "=".
    """
    arguments = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise InputError(f"Expected `--set` as KEY=VALUE. Received: {pair!r}")
        arguments[key.strip().replace("-", "_")] = _literal(value)
    return arguments


def _literal(value):
    lowered = {"true": True, "false": False, "none": None}
    if value.lower() in lowered:
        return lowered[value.lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value.split(",") if "," in value else value


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
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of whatever is random."),
)
preprocessing_options = _stack(
    click.option("--labels", metavar="FILE", help="Labels of a flat folder of images: name,label in each line."),
    click.option(
        "--preprocessing",
        metavar="PRESET",
        help="How pixels become input: raw, unit, symmetric, standardize, torch, caffe, keras_caffe. "
        "[default: the model's own]",
    ),
    click.option("--crop", type=float, metavar="FRACTION", help="Part of the short side that the centre crop takes."),
)
data_option = click.option(
    "--data", metavar="DATASET|DIR|FILE.npz", help="Labelled images. [default: the model's own dataset]"
)
count_option = click.option(
    "--test-count", type=int, metavar="N", help="Use N images of the test split, chosen by --seed. [default: all]"
)
limit_options = _stack(
    click.option("--min-agreement", type=click.FloatRange(0, 1), default=0.90, show_default=True,
                 help="Smallest share of images on which file and model agree."),
    click.option("--max-drop", type=float, default=2.5, show_default=True,
                 help="Largest loss of top-1 accuracy, in points."),
)  # fmt: skip
threads_option = click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads.")
force_option = click.option("--force", is_flag=True, help="Replace files that are there with other content.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, the rest on stderr.")
