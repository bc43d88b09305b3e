"""Vela, Arm's compiler for Ethos-U: how it is found and run, and how its debug database and its log are read."""

import csv
import importlib.util
import os
import pathlib
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from keras_nin import files
from keras_nin.child_process import ProcessResult, describe_status, run_process
from keras_nin.edge.ethosu.records import MEMORIES, EthosUFinding, VelaOperation
from keras_nin.errors import InputError
from keras_nin.formatting import format_count
from keras_nin.tflite.records import TFLiteModel

VELA_SECONDS = 600.0
_VERSION_SECONDS = 60.0
_NAME = "network"  # the file's own name could look like an option, or lack the ending that Vela expects
_VERSION = re.compile(r"\d+\.\d+\.\d+\S*")
# "ethosu.vela.errors.CliOptionError: 'Error: ...'", as Python prints an exception of Vela.
_EXCEPTION = re.compile(r"""(?:ethosu\.[\w.]+: )?(['"]?)(?:Error: )?(?P<text>.*)\1""")


@dataclass(frozen=True)
class VelaTool:
    """An installed Vela: the command that starts it, and its version."""

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class VelaOptions:
    """Options of Vela: names of sections of its configuration files, and the files (.ini); None takes its defaults."""

    system_config: str | None = None
    memory_mode: str | None = None
    config: tuple[str, ...] = ()

    def to_arguments(self) -> list[str]:
        """Return the options as arguments of Vela's command line."""
        named = {"--system-config": self.system_config, "--memory-mode": self.memory_mode}
        arguments = [f"{option}={value}" for option, value in named.items() if value is not None]
        # Vela runs in another folder; a path that does not exist here may name one of its own files (Arm/vela.ini).
        configs = [os.path.abspath(path) if os.path.exists(path) else path for path in self.config]
        return arguments + [f"--config={path}" for path in configs]


@dataclass(frozen=True)
class VelaOutput:
    """What Vela wrote: the compiled file, its summary by column, its debug database, and what it printed."""

    compiled: bytes
    summary: dict[str, str]
    database: str
    log: str


def find_vela() -> VelaTool:
    """Return the Vela of this Python's environment, else the one on PATH."""
    command = _vela_command()
    if command is None:
        raise InputError("Vela, Arm's compiler for Ethos-U, is not installed. Run: pip install 'keras-nin[ethosu]'")
    with files.temporary_folder() as folder:
        result = run_process([*command, "--version"], timeout=_VERSION_SECONDS, folder=folder)
    version = _VERSION.fullmatch(result.stdout.strip())
    if result.status != 0 or not version:
        printed = (result.stdout + result.stderr).strip()[:200]
        raise InputError(
            f"Expected {' '.join(command)!r} to be Vela, Arm's compiler for Ethos-U. Received: {printed!r} as its "
            "version",
            status=result.status,
        )
    return VelaTool(tuple(command), version[0])


def _vela_command() -> list[str] | None:
    # find_spec imports only the top package to look for a module in it.
    if importlib.util.find_spec("ethosu") and importlib.util.find_spec("ethosu.vela"):
        return [sys.executable, "-m", "ethosu.vela"]
    script = shutil.which("vela")
    return [os.path.abspath(script)] if script else None


def compile_with_vela(
    tool: VelaTool, model: TFLiteModel, accelerator: str, options: VelaOptions, timeout: float
) -> VelaOutput:
    """Compile a .tflite file with Vela."""
    with files.temporary_folder() as folder:
        path = folder / f"{_NAME}.tflite"
        path.write_bytes(model.content)
        arguments = [f"--accelerator-config={accelerator}", "--output-dir=out", "--enable-debug-db"]
        command = [*tool.command, path.name, *arguments, *options.to_arguments()]
        result = run_process(command, timeout=timeout, folder=folder)
        if result.status != 0:
            raise _refusal_error(model, accelerator, _failure_reason(result, timeout), result.status)
        try:
            return _read_output(folder / "out", result)
        except (FileNotFoundError, csv.Error):
            reason = f"Vela {tool.version} succeeded without the files that Vela 5.2 writes"
            raise _refusal_error(model, accelerator, reason, 0) from None


def _read_output(folder: pathlib.Path, result: ProcessResult) -> VelaOutput:
    (summary,) = list(folder.glob(f"{_NAME}_summary_*.csv")) or [folder / "summary"]
    with open(summary, newline="", encoding="utf-8", errors="replace") as lines:
        rows = list(csv.DictReader(lines))
    return VelaOutput(
        compiled=(folder / f"{_NAME}_vela.tflite").read_bytes(),
        summary=rows[0] if rows else {},
        database=(folder / f"{_NAME}_debug.xml").read_text(encoding="utf-8", errors="replace"),
        log="\n".join(filter(None, [result.stdout, result.stderr])),
    )


def _refusal_error(model: TFLiteModel, accelerator: str, reason: str, status: int | None) -> InputError:
    return InputError(
        f"Vela does not compile {model.source} for {accelerator}: {reason}", path=model.path, status=status
    )


def _failure_reason(result: ProcessResult, timeout: float) -> str:
    if result.status is None:
        return f"it did not finish within {timeout:g} s"
    last_line = _last_line(result.stderr) or _last_line(result.stdout)
    if result.status < 0:
        ended = f"Vela was {describe_status(result.status)}"
        return f"{ended}; last output: {last_line}" if last_line else ended
    message = _EXCEPTION.fullmatch(last_line)
    return f"Vela {describe_status(result.status)}: {(message and message['text']) or 'no output'}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Warning: No ")]
    return lines[-1][:500] if lines else ""


# The debug database: the operations that Vela generated, and which operator of the file each comes from. Vela's
# per-layer CSV does not name the operators: two that write into one concatenation have the same name there, and neither
# it nor the database escapes quotation marks in a name. The database has numbers for all of them.

_TABLE = re.compile(r'<table name="(\w+)">\n<!\[CDATA\[\n([^\n]*)\n(.*?)\]\]>\n</table>', re.DOTALL)
_FREE_TEXT_COLUMN = "name"  # may hold anything, including quotation marks
_SOURCE_COLUMNS = ("id", "ext_key")
_OPERATION_COLUMNS = ("id", "source_id", "operator", "name", "op_cycles", "npu_cycles", "mac_count")
_DETAIL_COLUMNS = ("id",)
_PURPOSES = ("Lut", "FeatureMap", "Weights", "Scales")
_Row = dict[str, str]


def parse_operations(text: str, operator_count: int) -> tuple[VelaOperation, ...]:
    """Return the operations of a debug database, in the order in which they run."""
    tables = {name: (header, body) for name, header, body in _TABLE.findall(text)}
    sources = _parse_sources(_parse_rows(tables, "source", _SOURCE_COLUMNS), operator_count)
    details = {row["id"]: row for row in _parse_rows(tables, "perf_debug", _DETAIL_COLUMNS)}
    rows = _parse_rows(tables, "perf", _OPERATION_COLUMNS)
    if [row["id"] for row in rows] != list(details):  # a name may have looked like the rest of a row
        raise _database_error(f"{len(rows):,} operations, details of {len(details):,}")
    return tuple(_parse_operation(row, sources.get(row["source_id"]), details[row["id"]]) for row in rows)


def _parse_sources(rows: Iterable[_Row], operator_count: int) -> dict[str, int]:
    """Return the operator's index by the source's id, for the indexes that belong to one source only."""
    indexes = {row["id"]: _parse_number(row, "ext_key") for row in rows}
    uses = Counter(indexes.values())
    # Operators of other subgraphs are numbered from 0 again.
    return {id_: index for id_, index in indexes.items() if uses[index] == 1 and index < operator_count}


def _parse_operation(row: _Row, source: int | None, details: _Row) -> VelaOperation:
    columns = {memory.name: memory.database for memory in MEMORIES}
    return VelaOperation(
        id=row["id"],
        source=source,
        operator=row["operator"],
        name=row["name"],
        cycles=_parse_number(row, "op_cycles"),
        npu_cycles=_parse_number(row, "npu_cycles"),
        macs=_parse_number(row, "mac_count"),
        access_cycles=_nonzero((name, _parse_number(row, f"{column}_ac", 0)) for name, column in columns.items()),
        read=_nonzero((name, _sum_bytes(details, column, "read")) for name, column in columns.items()),
        written=_nonzero((name, _sum_bytes(details, column, "write")) for name, column in columns.items()),
    )


def _nonzero(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    return {name: value for name, value in pairs if value}


def _sum_bytes(details: _Row, column: str, direction: str) -> int:
    return sum(_parse_number(details, f"{column}{purpose}_{direction}", 0) for purpose in _PURPOSES)


def _parse_number(row: _Row, column: str, default: int | None = None) -> int:
    """Return the whole number in a column, or `default` for one that is empty or missing."""
    value = row.get(column) or ""
    if not value and default is not None:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise _database_error(f"{value!r} as {column}")
    return int(value)


def _parse_rows(tables: Mapping[str, tuple[str, str]], name: str, required: Sequence[str]) -> list[_Row]:
    """Return the rows of a table; every character of the table belongs to one of them."""
    if name not in tables:
        raise _database_error(f"no table {name!r}")
    header, body = tables[name]
    columns = [column.strip('"') for column in header.split(",")]
    missing = [column for column in required if column not in columns]
    if missing:
        raise _database_error(f"a table {name!r} without {', '.join(missing)}")
    fields = [r'(".*?"|[^",\n]*)' if column == _FREE_TEXT_COLUMN else r'("[^"\n]*"|[^",\n]*)' for column in columns]
    pattern = re.compile(",".join(fields) + "\n", re.DOTALL)
    rows, end = [], 0
    while end < len(body):
        match = pattern.match(body, end)
        if match is None:
            raise _database_error(f"{body[end : end + 60]!r} in table {name!r}")
        rows.append(dict(zip(columns, (value.strip('"') for value in match.groups()), strict=True)))
        end = match.end()
    return rows


def _database_error(received: str) -> InputError:
    return InputError(f"Expected a debug database of Vela 5.2. Received: {received}")


# The log: warnings grouped by what they are about, and every other line as it stands.

_UNSUPPORTED = re.compile(r"Warning \(supported operators\) operator: (?P<op>\S+), ofm: '(?P<tensor>.*)'")
# The name of the operator's own tensor, in parentheses: with it no two reasons would be equal.
_TENSOR = re.compile(r"(?<=DataType )(\w+) \(.*\)$")
_DEFAULTS = re.compile(
    r"Warning: No (?P<what>[\w ]+) specified\. Using a default of (?P<value>.+?)\. Compilation may be .*"
)
_SUMMARY_START = "Network summary for "
_SUMMARY = re.compile(
    r"(Accelerator (configuration|clock)|System configuration|Memory mode|Design peak .+|Total .+ used"
    r"|(CPU|NPU) operators|(Average|Input|Weight|Output|Total) .+ bandwidth|Neural network macs)\s"
)
_QUOTED = re.compile(r"'[^']*'")
_ARGUMENTS = {"configuration file": "config", "system configuration": "system_config", "memory mode": "memory_mode"}
NO_REASON = "Vela gives no reason"


def parse_log(log: str, layers_of_tensor: Mapping[str, Sequence[str]]) -> tuple[EthosUFinding, ...]:
    """Return what Vela printed as findings; every line is in one of them, or belongs to Vela's summary."""
    reasons: dict[str, dict[str, None]] = {}
    defaults: dict[str, str] = {}
    others: dict[str, list[str]] = {}
    for lines in _split_messages(log):
        if unsupported := _UNSUPPORTED.fullmatch(lines[0]):
            layers = layers_of_tensor.get(unsupported["tensor"], (unsupported["tensor"],))
            reason = "; ".join(_TENSOR.sub(r"\1", line) for line in lines[1:]).removeprefix("Reason: ") or NO_REASON
            reasons.setdefault(reason, {}).update(dict.fromkeys(layers))
        else:
            for line in lines:
                if default := _DEFAULTS.fullmatch(line):
                    defaults[default["what"]] = default["value"]
                else:
                    others.setdefault(_QUOTED.sub("''", line), []).append(line)
    return (*_default_findings(defaults), *_cpu_findings(reasons, layers_of_tensor), *_other_findings(others))


def _split_messages(log: str) -> list[list[str]]:
    """Return the lines of each message: that of an unsupported operator ends at an empty line, others are one line."""
    messages: list[list[str]] = []
    in_summary = is_open = False
    for line in map(str.rstrip, log.splitlines()):
        in_summary = in_summary or line.startswith(_SUMMARY_START)
        if not line or (in_summary and (line.startswith(_SUMMARY_START) or _SUMMARY.match(line))):
            is_open = False
        elif is_open and not _UNSUPPORTED.fullmatch(line):
            messages[-1].append(line)
        else:
            messages.append([line])
            is_open = bool(_UNSUPPORTED.fullmatch(line))
    return messages


def _default_findings(defaults: Mapping[str, str]) -> Iterator[EthosUFinding]:
    """Yield one finding for all options that Vela took its defaults for; a configuration file by its base name."""
    if defaults:
        names = {what: value.rpartition("/")[2].strip("[]'\"") for what, value in defaults.items()}
        values = ", ".join(f"{what} {name}" for what, name in names.items())
        arguments = ", ".join(f"`{_ARGUMENTS[what]}`" for what in defaults if what in _ARGUMENTS)
        yield EthosUFinding("assumed", f"Vela's defaults: {values}; name those of your chip with {arguments}")


def _cpu_findings(
    reasons: Mapping[str, Mapping[str, None]], layers_of_tensor: Mapping[str, Sequence[str]]
) -> Iterator[EthosUFinding]:
    """Yield one finding per reason, its layers in the file's order; Vela goes from the outputs to the inputs."""
    names = [name for layers in layers_of_tensor.values() for name in layers]
    order = {name: position for position, name in enumerate(names)}
    for reason, layers in reasons.items():
        yield EthosUFinding("cpu", reason, tuple(sorted(layers, key=lambda name: order.get(name, len(order)))))


def _other_findings(others: Mapping[str, Sequence[str]]) -> Iterator[EthosUFinding]:
    for lines in others.values():
        more = f" (and {format_count(len(lines) - 1, 'similar line')})" if len(lines) > 1 else ""
        yield EthosUFinding("vela", f"{lines[0]}{more}")
