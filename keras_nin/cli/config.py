"""Options of commands from `[tool.keras-nin]` in pyproject.toml, or from a TOML file that `--config` names."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

import click

from keras_nin import files
from keras_nin.cli.main import COMMANDS
from keras_nin.errors import InputError, suggest_names

PYPROJECT = "pyproject.toml"
_OWN = ("json", "debug", "help")  # of a single run of a command

_MAX_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Config:
    """The options of each command by its name, and where they are from, such as ``"[tool.keras-nin] of 'a.toml'"``."""

    source: str
    path: pathlib.Path
    tables: Mapping[str, Any]

    def defaults(self, command: click.Command) -> dict[str, Any]:
        """Return the values of a command's parameters by name, as click takes them for its `default_map`.

        Raises:
            InputError: a table of no command, an option that the command does not have, or a value of another kind.
        """
        for name in self.tables:
            if name not in COMMANDS:
                raise self._error("commands of keras-nin", name, COMMANDS)
        table = self.tables.get(command.name or "", {})
        if not isinstance(table, dict):
            raise InputError(f"Expected a table of options as {command.name!r} in {self.source}. Received: {table!r}")
        known = {
            name.removeprefix("--"): param
            for param in command.params
            for name in (param.opts if isinstance(param, click.Option) else ())
            if name.startswith("--") and name.removeprefix("--") not in _OWN
        }
        values = {}
        for key, value in table.items():
            option = known.get(key.replace("_", "-"))
            if not isinstance(option, click.Option):
                raise self._error(f"options of keras-nin {command.name}", key, known)
            if (converted := self._to_words(option, value)) is not None:
                values[str(option.name)] = converted
        return values

    def _to_words(self, option: click.Option, value: Any) -> Any:
        """Return a TOML value as the command line would give it; None for a flag that is off.

        Raises:
            InputError: a flag with another value than true or false, another option with one, or a date or a table.
        """
        words = value if isinstance(value, list) else [value]
        fits = option.is_flag == isinstance(value, bool)
        if not fits or not all(isinstance(word, str | int | float) for word in words):
            expected = "true or false" if option.is_flag else "text, a number or a list of them"
            message = f"Expected `{option.name}` in {self.source} as {expected}. Received: {value!r}"
            raise InputError(message, argument=option.name, path=self.path)
        if option.is_flag:
            return value if option.is_bool_flag else option.flag_value if value else None
        texts = [str(word) for word in words]
        return texts if option.multiple else ",".join(texts)

    def _error(self, what: str, received: str, known: Mapping[str, object]) -> InputError:
        message = f"Expected {what} in {self.source}. Received: {received!r}. {suggest_names(received, known)}"
        return InputError(message, argument="config", path=self.path, received=received)


def find_config(path: str | None) -> Config | None:
    """Return the config of a TOML file, or of the nearest pyproject.toml with one, from the working directory upwards.

    Raises:
        InputError: a file that is missing or no TOML, or a working directory that was removed.
    """
    if path is not None:
        return _read_config(pathlib.Path(path))
    try:
        folder = pathlib.Path.cwd()
    except FileNotFoundError:
        raise InputError("The working directory no longer exists. Change to another one") from None
    for candidate in (parent / PYPROJECT for parent in (folder, *folder.parents)):
        if candidate.is_file() and (config := _read_config(candidate)) is not None:
            return config
    return None


def _read_config(path: pathlib.Path) -> Config | None:
    try:
        document: Any = tomllib.loads(files.read_bytes(path, _MAX_BYTES).decode())
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"Expected a TOML file. Received: {os.fspath(path)!r}: {error}", path=path) from None
    if path.name != PYPROJECT:
        return Config(repr(os.fspath(path)), path, document)
    tool = document.get("tool", {})
    table = tool.get("keras-nin") if isinstance(tool, dict) else None
    return None if table is None else Config(f"[tool.keras-nin] of {os.fspath(path)!r}", path, table)
