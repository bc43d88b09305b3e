"""Commands as `commands.toml` declares them, the types of their options, and their Python arguments as flags."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import math
import pathlib
import tomllib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from keras_nin.errors import InputError, with_flags

_TABLE = tomllib.loads(pathlib.Path(__file__).with_name("commands.toml").read_text(encoding="utf-8"))
COMMANDS: dict[str, dict[str, Any]] = _TABLE["commands"]
_BOUNDS = ("min", "max", "min_open", "max_open", "example")


class Command(click.Command):
    """A command whose `InputError`s name options instead of Python arguments, and that knows --debug."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        text = "Show the traceback of an unexpected error."
        self.params.append(click.Option(["--debug"], is_flag=True, expose_value=False, help=text))

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
            raise click.ClickException(self.with_flags(error)) from error

    def with_flags(self, text: object) -> str:
        """Return a text with Python arguments in backticks as the command line calls them."""
        return with_flags(str(text), {
            str(param.name): max(param.opts, key=len) if isinstance(param, click.Option) else
            param.metavar or str(param.name).upper()
            for param in self.params
        })  # fmt: skip


def with_own_flags(text: object) -> str:
    """Return a text with Python arguments in backticks as the running command calls them."""
    command = click.get_current_context().command
    assert isinstance(command, Command)
    return command.with_flags(text)


def is_set(context: click.Context, name: str) -> bool:
    """Whether the user gave a parameter."""
    sources = click.core.ParameterSource
    return context.get_parameter_source(name) not in (sources.DEFAULT, sources.DEFAULT_MAP)


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


def _parse_share(text: str) -> float | None:
    """Return a share such as 5% or 0.05."""
    share = _parse_number(text.strip().removesuffix("%"))
    if share is None or not 0 <= share < math.inf:
        return None
    return share / 100 if text.strip().endswith("%") else share


def _parse_counts(text: str) -> tuple[int, ...] | None:
    """Return comma-separated positive integers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
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
    lowered = {"true": True, "false": False, "none": None}
    if text.lower() in lowered:
        return lowered[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text.split(",") if "," in text else text


def check_preset(context: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse an unknown preset before the slow part of a command starts."""
    if value is not None:
        from keras_nin import data

        data.get_preset(value)
    return value


_TYPES: dict[str, Callable[..., click.ParamType]] = {
    "int": click.IntRange,
    "count": functools.partial(click.IntRange, min=1),
    "seed": functools.partial(click.IntRange, 0, 2**32 - 1),
    "integer": lambda: click.INT,
    "float": lambda: click.FLOAT,
    "number": Number,
    "unlimited number": lambda: ParsedText(_parse_number, "a number"),
    "share": lambda: ParsedText(_parse_share, "a share such as 5% or 0.05"),
    "shape": lambda: ParsedText(_parse_shape, "three positive numbers such as 224,224,3"),
    "size": lambda: ParsedText(_parse_size, "a size"),
    "counts": lambda example: ParsedText(_parse_different_counts, f"positive numbers such as {example}"),
}
_CALLBACKS = {"words": split_words, "limits": join_limits}


def load_command(name: str) -> Command:
    """Return a command of the table; the function that runs it is imported when it is called."""
    table = COMMANDS[name]
    function = f"keras_nin.cli.{table['module']}:{name.replace('-', '_')}_command"
    records: list[tuple[dict[str, Any], list[str]]] = []
    params = [param for entry in table["params"] for param in _make_params(entry, records)]

    def call(**values: Any) -> Any:
        for group, fields in records:
            options = {field: values.pop(field) for field in fields if field in values}
            is_needed = not group.get("optional") or any(
                is_set(click.get_current_context(), field) for field in options
            )
            values[group["argument"]] = _resolve(group["record"])(**options) if is_needed else None
        return _resolve(function)(**values)

    cls = _resolve(table["class"]) if "class" in table else Command
    return cls(name, params=params, help=table["help"], epilog=f"Example: {table['example']}", callback=call)


def _make_params(
    entry: str | dict[str, Any], records: list[tuple[dict[str, Any], list[str]]]
) -> Iterator[click.Parameter]:
    """Yield the parameters of an entry of `params`; groups that make a record are added to `records`."""
    if isinstance(entry, str) and entry in _TABLE["groups"]:
        group = _TABLE["groups"][entry]
        params = [param for part in group["params"] for param in _make_params(part, records)]
        if "record" in group:
            records.append((group, [param.name or "" for param in params]))
        yield from params
    else:
        shared = entry if isinstance(entry, str) else entry.get("use")
        own = {} if isinstance(entry, str) else entry
        yield _make_param((_TABLE["options"][shared] if shared else {}) | own)


def _make_param(entry: dict[str, Any]) -> click.Parameter:
    bounds = {key: entry[key] for key in _BOUNDS if key in entry}
    keys: dict[str, Any] = {"show_default": "default" in entry}
    keys |= {key: value for key, value in entry.items() if key not in bounds and key != "use"}
    kind = keys.pop("type", None)
    if "choices" in keys:
        keys["type"] = click.Choice(keys.pop("choices"))
    elif kind in _CALLBACKS:
        keys |= {"multiple": True, "callback": _CALLBACKS[kind]}
    elif kind is not None:
        keys["type"] = _TYPES[kind](**bounds)
    if isinstance(keys.get("callback"), str):
        keys["callback"] = functools.partial(_call_back, keys["callback"])
    if "argument" in keys:
        del keys["show_default"]
        return click.Argument([keys.pop("argument")], **keys)
    return click.Option([*keys.pop("flags").split(), *keys.pop("name", "").split()], **keys)


def _call_back(reference: str, *arguments: Any) -> Any:
    return _resolve(reference)(*arguments)


def _resolve(reference: str) -> Any:
    """Return what ``"module:name"`` names."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
