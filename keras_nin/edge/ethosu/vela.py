"""Run Vela, Arm's compiler for Ethos-U, as the tool it is."""

import csv
import importlib.util
import os
import re
import shutil
import signal
import sys
from dataclasses import dataclass

from keras_nin import files
from keras_nin.edge import process
from keras_nin.errors import InputError

SECONDS = 600.0
_STARTING_SECONDS = 60.0
_NAME = "network"  # the file's own name could be an option, or lack the ending that Vela looks at
_VERSION = re.compile(r"\d+\.\d+\.\d+\S*")
# "ethosu.vela.errors.CliOptionError: 'Error: ...'", as Python prints an exception of Vela's own.
_EXCEPTION = re.compile(r"""(?:ethosu\.[\w.]+: )?(['"]?)(?:Error: )?(?P<text>.*)\1""")
_MISSING = "Expected Vela, Arm's compiler for Ethos-U. Received: none installed. Use: pip install 'keras-nin[ethosu]'"


@dataclass(frozen=True)
class Tool:
    """Vela as it is installed: the words that start it, and its version."""

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class Options:
    """What Vela takes from its user: names of sections of its configuration files, and the files (.ini)."""

    system_config: str | None = None
    memory_mode: str | None = None
    config: tuple[str, ...] = ()

    def words(self):
        """Return the options as words of Vela's command line."""
        named = {"--system-config": self.system_config, "--memory-mode": self.memory_mode}
        words = [f"{option}={value}" for option, value in named.items() if value is not None]
        # Vela runs elsewhere; what is no file here may be one of its own, such as Arm/vela.ini.
        configs = [os.path.abspath(path) if os.path.exists(path) else path for path in self.config]
        return words + [f"--config={path}" for path in configs]


@dataclass(frozen=True)
class Compiled:
    """What Vela made of a file: the compiled file, its summary by column, its debug database, and what it printed."""

    data: bytes
    summary: dict
    database: str
    log: str


def find():
    """Return the `Tool` of this Python's environment, else that on PATH.

    Raises:
        InputError: there is none, or what bears its name is another program.
    """
    command = _command()
    if command is None:
        raise InputError(_MISSING)
    with files.temporary_folder() as folder:
        ran = _run([*command, "--version"], folder, _STARTING_SECONDS)
    version = _VERSION.fullmatch(ran.out.strip())
    if ran.status != 0 or not version:
        said = (ran.out + ran.err).strip()[:200]
        raise InputError(
            f"Expected {' '.join(command)!r} to be Vela, Arm's compiler for Ethos-U. Received: {said!r} as its version"
        )
    return Tool(tuple(command), version[0])


def _command():
    # Only the top package is imported to look for the part in it.
    if importlib.util.find_spec("ethosu") and importlib.util.find_spec("ethosu.vela"):
        return [sys.executable, "-m", "ethosu.vela"]
    script = shutil.which("vela")
    return [os.path.abspath(script)] if script else None


def compile_for(tool, content, accelerator, options, limit, source):
    """Return the `Compiled` of a .tflite file.

    Args:
        tool: `Tool`.
        content: the file, as bytes.
        accelerator: one of `accelerators.ACCELERATORS`.
        options: `Options`.
        limit: seconds.
        source: what to call the file in errors.

    Raises:
        InputError: Vela refuses the file or the options, crashes, or takes too long.
    """
    with files.temporary_folder() as folder:
        path = folder / f"{_NAME}.tflite"
        path.write_bytes(content)
        words = [f"--accelerator-config={accelerator}", "--output-dir=out", "--enable-debug-db", *options.words()]
        ran = _run([*tool.command, path.name, *words], folder, limit)
        if ran.status != 0:
            raise _refused(source, accelerator, _reason(ran, limit))
        try:
            return _results(folder / "out", ran)
        except (FileNotFoundError, csv.Error):
            reason = f"Vela {tool.version} ended well without the files that Vela 5.2 writes"
            raise _refused(source, accelerator, reason) from None


def _run(command, folder, limit):
    try:
        return process.run(command, folder, limit)
    except OSError as error:
        raise InputError(f"Expected {command[0]!r} to start. Received: {error.strerror}") from None


def _results(folder, ran):
    (summary,) = list(folder.glob(f"{_NAME}_summary_*.csv")) or [folder / "summary"]
    with open(summary, newline="", encoding="utf-8", errors="replace") as lines:
        rows = list(csv.DictReader(lines))
    return Compiled(
        data=(folder / f"{_NAME}_vela.tflite").read_bytes(),
        summary=rows[0] if rows else {},
        database=(folder / f"{_NAME}_debug.xml").read_text(encoding="utf-8", errors="replace"),
        log="\n".join(filter(None, [ran.out, ran.err])),
    )


def _refused(source, accelerator, reason):
    return InputError(f"Expected a file that Vela compiles for {accelerator}. Received: {source!r}: {reason}")


def _reason(ran, limit):
    if ran.status is None:
        return f"it was not done after {limit:g} s"
    if ran.status < 0:
        ended = f"Vela was killed by signal {-ran.status} ({signal.strsignal(-ran.status)})"
        said = _last_line(ran.err) or _last_line(ran.out)
        return f"{ended}; its last words: {said}" if said else ended
    said = _last_line(ran.err) or _last_line(ran.out)
    return f"Vela ended with status {ran.status}: {_EXCEPTION.fullmatch(said)['text'] or 'it says nothing'}"


def _last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Warning: No ")]
    return lines[-1][:500] if lines else ""
