"""Options that several commands share, and the command class that maps Python arguments to them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keras_nin.cli.main import CONFIG_KEY
from keras_nin.errors import InputError, with_flags
from keras_nin.export.schemes import RANGES, ROUNDING_REACH, ROUNDINGS, Tuning

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

QUIET_KEY, SOURCE_KEY = "keras_nin.quiet", "keras_nin.config_source"  # of the contexts' `meta`
_PATHS = re.compile(r"MODEL|FILE|DIR|PATH|json|^[AB]$")  # metavariables and names of paths
Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]


class Command(click.Command):
    """A command whose `InputError`s name options instead of Python arguments, and that knows --debug."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.context_settings = {"show_default": True, **self.context_settings}
        for param in self.params:
            if param.type is click.STRING and _PATHS.search(param.metavar or str(param.name).upper()):
                param.type = PathOrName()
        text = "Print errors, failed checks and --json alone."
        quiet = click.Option(["--quiet", "-q"], is_flag=True, is_eager=True, expose_value=False, help=text)
        quiet.callback = lambda ctx, param, value: ctx.meta.update({QUIET_KEY: value})
        self.params.append(quiet)
        text = "Show the traceback of an unexpected error."
        self.params.append(click.Option(["--debug"], is_flag=True, expose_value=False, help=text))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words of the command line; what they leave open is from the config, else the default."""
        with self._naming_options(ctx):
            if not ctx.resilient_parsing and not set(ctx.help_option_names) & set(args):
                from keras_nin.cli.config import find_config

                config = find_config(ctx.meta.get(CONFIG_KEY))
                if config is not None:
                    ctx.default_map = {**(ctx.default_map or {}), **config.defaults(self)}
                    ctx.meta[SOURCE_KEY] = config.source
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with self._naming_options(ctx):
            return super().invoke(ctx)

    @contextlib.contextmanager
    def _naming_options(self, ctx: click.Context) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            failure = click.ClickException(self.with_flags(error) + _describe_source(ctx, error.argument))
            failure.exit_code = error.exit_status  # pyright: ignore[reportAttributeAccessIssue]
            raise failure from error
        except click.BadParameter as error:
            source = _describe_source(ctx, error.param and error.param.name)
            if not source:
                raise
            raise click.BadParameter(error.message + source, error.ctx, error.param, error.param_hint) from error

    def with_flags(self, text: object) -> str:
        """Return a text with Python arguments in backticks as the command line calls them."""
        return with_flags(str(text), {
            str(param.name): max(param.opts, key=len) if isinstance(param, click.Option) else
            param.metavar or str(param.name).upper()
            for param in self.params
        })  # fmt: skip


def _describe_source(ctx: click.Context, name: str | None) -> str:
    """Return where the value of a parameter is from, where that is a config file."""
    from_config = name is not None and ctx.get_parameter_source(name) is click.core.ParameterSource.DEFAULT_MAP
    return f" ({ctx.meta[SOURCE_KEY]})" if from_config and SOURCE_KEY in ctx.meta else ""


def with_own_flags(text: object) -> str:
    """Return a text with Python arguments in backticks as the running command calls them."""
    command = click.get_current_context().command
    assert isinstance(command, Command)
    return command.with_flags(text)


def is_set(context: click.Context, name: str) -> bool:
    """Whether the command line gave a parameter."""
    sources = click.core.ParameterSource
    return context.get_parameter_source(name) not in (sources.DEFAULT, sources.DEFAULT_MAP)


class PathOrName(click.ParamType):
    """A path, or for an argument a model's name: text that a shell completes."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return what stands for files, and the models that begin with what is there."""
        from click.shell_completion import CompletionItem

        from keras_nin import models

        names = models.list_models() if isinstance(param, click.Argument) and incomplete else []
        return [
            CompletionItem(incomplete, type="file"),  # first: in bash it drops what comes before
            *(CompletionItem(name) for name in names if name.startswith(incomplete)),
        ]


class Number(click.FloatRange):
    """A number in a range; "nan" is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail with the option's name."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class ParsedText(click.ParamType):
    """What a function makes of a text; it returns None where the text is not as `expected`."""

    name = "text"

    def __init__(self, parse: Callable[[str], Any], expected: str) -> None:
        self._parse, self._expected = parse, expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value, or fail with the option's name."""
        parsed = self._parse(value) if isinstance(value, str) else value
        if parsed is None:
            self.fail(f"expected {self._expected}, received {value!r}", param, ctx)
        return parsed


def _parse_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _parse_scale(text: str) -> float | None:
    """Return a factor such as 1/255 or 0.0039."""
    dividend, _, divisor = text.partition("/")
    numbers = _parse_number(dividend), _parse_number(divisor or "1")
    return numbers[0] / numbers[1] if numbers[0] and numbers[1] else None


def _parse_constants(text: str) -> tuple[float, ...] | None:
    """Return comma-separated numbers."""
    numbers = [_parse_number(part) for part in text.split(",")]
    return None if None in numbers else tuple(number for number in numbers if number is not None)


def _parse_share(text: str) -> float | None:
    """Return a share such as 5% or 0.05."""
    share = _parse_number(text.strip().removesuffix("%"))
    if share is None or not 0 <= share < math.inf:
        return None
    return share / 100 if text.strip().endswith("%") else share


def _parse_count_or_all(text: str) -> int | str | None:
    counts = _parse_counts(text)
    return "all" if text == "all" else counts[0] if counts and len(counts) == 1 else None


def _parse_counts(text: str) -> tuple[int, ...] | None:
    """Return comma-separated positive integers of at most 18 digits."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,18}", part) and int(part) > 0 for part in parts):
        return None
    return tuple(map(int, parts))


def _parse_shape(text: str) -> tuple[int, ...] | None:
    sides = _parse_counts(text.replace("x", ","))
    return sides if sides and len(sides) == 3 else None


def _parse_different_counts(text: str) -> tuple[int, ...] | None:
    counts = _parse_counts(text)
    return counts and tuple(dict.fromkeys(counts))


def _parse_size(text: str) -> int:
    from keras_nin.limits import parse_byte_count

    return parse_byte_count(text, argument="max_arena")


def split_words(context: click.Context, param: click.Parameter, value: Sequence[str]) -> tuple[str, ...]:
    """Return the words of comma-separated values."""
    return tuple(word.strip() for text in value for word in text.split(",") if word.strip())


def join_limits(context: click.Context, param: click.Parameter, value: Sequence[str]) -> str | None:
    """Return the limits of a repeatable option as one text."""
    return ",".join(value) or None


def parse_builder_arguments(
    context: click.Context, param: click.Parameter, value: Sequence[str]
) -> dict[str, Any] | None:
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
    return arguments or None


def _parse_literal(text: str) -> Any:
    import ast

    lowered = {"true": True, "false": False, "none": None}
    if text.lower() in lowered:
        return lowered[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text.split(",") if "," in text else text


def check_task(context: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse an unknown task before the slow part of a command starts."""
    if value is None:
        return None
    from keras_nin.heads import TASKS

    for part in value.split(","):
        if part.rpartition("=")[2].strip() not in TASKS:
            raise click.BadParameter(f"expected one of {', '.join(TASKS)}, received {part!r}", context, param)
    return value


def counts(example: str) -> ParsedText:
    """Return the type of comma-separated positive integers, without repeats."""
    return ParsedText(_parse_different_counts, f"positive numbers such as {example}")


COUNT_OR_ALL = ParsedText(_parse_count_or_all, "a positive number, or all")
COUNT, SEED = click.IntRange(min=1), click.IntRange(0, 2**32 - 1)
NUMBER = ParsedText(_parse_number, "a number")
SHARE = ParsedText(_parse_share, "a share such as 5% or 0.05")
SCALE = ParsedText(_parse_scale, "a factor such as 1/255 or 0.0078")
CONSTANTS = ParsedText(_parse_constants, "a number, or one per channel such as 0.485,0.456,0.406")
SHAPE = ParsedText(_parse_shape, "three positive numbers such as 224,224,3")
SIZE = ParsedText(_parse_size, "a size")


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
        record: its class, as ``"module:Class"``; imported when the command runs.
        decorators: the options, named like the fields.
        optional: whether the argument is None, and the module is not imported, where none of the options is set.
    """

    def decorate(function: Function) -> Function:
        params: list[click.Parameter] = getattr(stack(*decorators)(lambda: None), "__click_params__", [])
        fields = [str(param.name) for param in params]

        @functools.wraps(function)
        def wrapper(*arguments: Any, **values: Any) -> Any:
            options = {field: values.pop(field) for field in fields if field in values}
            context = click.get_current_context()
            values[name] = None
            is_file = str(values.get("model", "")).endswith(".tflite") or all(
                str(model).endswith(".tflite") for model in values.get("models", [""])
            )
            default = click.core.ParameterSource.DEFAULT
            configured = any(context.get_parameter_source(field) is not default for field in fields)
            # What a config says of exports does not apply to files; on the command line it is a mistake.
            if not optional or any(is_set(context, field) for field in fields) or (configured and not is_file):
                module, _, attribute = record.partition(":")
                values[name] = getattr(importlib.import_module(module), attribute)(**options)
            return function(*arguments, **values)

        return stack(*decorators)(wrapper)  # type: ignore[return-value]

    return decorate


DATASET = "DATASET|DIR|FILE.npz"
# fmt: off
weights_option = click.option("--weights", metavar="NAME|PATH",
                              help="Weights of the model; imagenet: downloaded; he: random, but numerically like "
                              "trained ones. [default: bundled ones, else random]")
input_shape_option = click.option("--input-shape", type=SHAPE, metavar="H,W,C",
                                  help="Input size, where the network leaves it open.")
set_option = click.option("--set", "builder_arguments", multiple=True, callback=parse_builder_arguments,
                          metavar="KEY=VALUE", help="Argument of the model's builder, such as pool_rounding=ceil or "
                          "classes=10. Repeatable.")
seed_option = click.option("--seed", type=SEED, metavar="N", default=0,
                           help="Seed of random weights, noise and draws.")
import_option = click.option("--import", "imports", multiple=True, metavar="MODULE|FILE.py",
                             help="Python code that defines the custom layers of a saved model; it is run. Repeatable.")
model_options = stack(weights_option, input_shape_option, set_option, seed_option, import_option)
labels_option = click.option("--labels", metavar="FILE", help="Labels of a flat folder of images: name,label per line.")
preprocessing_options = fold(
    "preprocessing", "keras_nin.data.preprocessing:parse_preprocessing",
    click.option("--preprocessing", metavar="PRESET|FILE.json|none", help="How pixels become input: raw, unit, "
                 "symmetric, standardize, torch, caffe, keras_caffe; constants in a file; or none, for arrays as they "
                 "are. [default: the model's own]"),
    click.option("--scale", type=SCALE, metavar="FACTOR", help="Multiply pixels, 0 to 255, by this first, such as "
                 "1/255. [default: the preset's, else 1]"),
    click.option("--mean", type=CONSTANTS, metavar="X[,X,X]", help="Then subtract this, one number or one per channel. "
                 "[default: the preset's, else 0]"),
    click.option("--std", type=CONSTANTS, metavar="X[,X,X]", help="Then divide by this. [default: the preset's, else "
                 "1]"),
    click.option("--channels", type=click.Choice(["rgb", "bgr"]), help="Order in which the network takes the channels, "
                 "and --mean and --std have them. [default: the preset's, else rgb]"),
    optional=True,
)
crop_option = click.option("--crop", type=Number(0, 1, min_open=True), metavar="FRACTION",
                           help="Share of the short side that the center crop keeps.")
image_options = stack(labels_option, preprocessing_options, crop_option)
_temporary_export = functools.partial(
    fold, "export", "keras_nin.workflows.conversion:ExportOptions", model_options,
    click.option("--calibration", metavar=f"{DATASET}|random",
                 help="Images that calibrate a MODEL. [default: those of its bundled weights, else noise]"),
    click.option("--calibration-count", type=COUNT, metavar="N", help="Number of them. [default: 100, or 8 of noise]"),
    click.option("--io", type=click.Choice(["int8", "uint8", "float32"]),
                 help="Input and output type of an exported MODEL. [default: int8]"),
    click.option("--allow-float", is_flag=True, help="Let operators of a MODEL that int8 lacks compute in float."),
    optional=True,
)
temporary_export_options = _temporary_export(preprocessing_options, crop_option)
micro_export_options = _temporary_export()  # its preprocessing is that of a file's test images too
data_option = click.option("--data", "test", metavar=DATASET,
                           help="Labeled test images. [default: the model's own dataset]")
test_count_option = click.option("--test-count", type=COUNT_OR_ALL, metavar="N|all",
                                 help="Number of test images, drawn by --seed. [default: all; int16 files, which run "
                                 "in slow kernels, a sample]")
task_option = click.option("--task", metavar="[OUTPUT=]TASK,...", callback=check_task, help="What an output means: "
                           "classification, binary, multilabel, regression, segmentation. [default: from its shape, "
                           "activation and labels]")
tuning_options = fold(
    "tuning", "keras_nin.export.schemes:Tuning",
    click.option("--ranges", type=click.Choice(RANGES), default=Tuning().ranges,
                 help="int8 ranges of activations: minimum and maximum, or least mean squared error."),
    click.option("--rounding", type=click.Choice(ROUNDINGS), default=Tuning().rounding,
                 help="int8 weights: rounded to nearest, or so that outputs change least."),
    click.option("--bias-correction/--no-bias-correction", default=Tuning().bias_correction,
                 help="Compensate in int8 biases for the mean error of rounded weights."),
)
limit_options = fold(
    "limits", "keras_nin.export.parity:ParityLimits",
    click.option("--min-top1-match", type=Number(0, 1), metavar="SHARE", default=0.90,
                 help="Smallest share of images with the model's top-1 class; of other outputs, of equal decisions."),
    click.option("--max-drop", type=Number(-100, 100), metavar="PP", default=2.5,
                 help="Largest top-1 drop, in percentage points; of other outputs, of their score."),
    click.option("--max-rms", type=Number(0), metavar="LSB",
                 help="Largest RMS difference of a class or channel, in quantization steps of the output. [default: 8 "
                 "times what rounding explains, from the file's operators]"),
    click.option("--max-error", type=Number(0), metavar="LSB",
                 help="Largest difference of an output. [default: 0.06 for float32, else not checked]"),
    click.option("--max-closing", type=Number(0), metavar="LSB",
                 help="Largest error of a final softmax or sigmoid itself. [default: what its table explains, 2 for 8 "
                 "bits]"),
    click.option("--max-weight", type=Number(0), metavar="LSB", default=ROUNDING_REACH + 1.0,
                 help="Largest difference of a weight from the model's, in 8-bit steps of its channel."),
    click.option("--min-snr", type=NUMBER, metavar="DB",
                 help="Smallest signal-to-noise ratio of the outputs, in dB. [default: not checked]"),
)
require_option = functools.partial(click.option, "--require", multiple=True, callback=join_limits,
                                   metavar="ITEM=LIMIT,...", help="Exit status 1 where a limit fails. Repeatable.")
timeout_option = functools.partial(click.option, "--timeout", type=Number(0, min_open=True), metavar="SECONDS")
plot_option = functools.partial(click.option, "--plot", metavar="FILE.png")
max_arena_option = click.option("--max-arena", type=SIZE, metavar="SIZE", default="2MiB",
                                help="Largest arena to try.")
threads_option = click.option("--threads", type=COUNT, metavar="N", default=1,
                              help="Threads of the runtime.")
device_options = stack(
    click.option("--on", "device", metavar="URL|NAME",
                 help="Run the file on a device: ssh://[user@]host[:port], an emulated ARM CPU "
                 "(qemu://cortex-a53|cortex-a72|cortex-a76|max), or a name in devices.toml. [default: this machine]"),
    click.option("--python", metavar="PATH", help="The interpreter on the device. [default: python3]"),
)
force_option = click.option("--force", is_flag=True, help="Replace existing files with different content.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, the rest on stderr.")
# fmt: on
