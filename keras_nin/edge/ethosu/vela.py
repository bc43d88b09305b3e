"""Vela, Arm's compiler for Ethos-U: how it is found and run, and how its debug database and its log are read."""

import csv
import importlib.util
import itertools
import os
import pathlib
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keras_nin import files
from keras_nin.child_process import ProcessResult, describe_status, run_process
from keras_nin.edge.ethosu.records import MEMORIES, PASSTHROUGH, EthosUFinding, VelaOperation
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
        expected = f"Expected {' '.join(command)!r} to be Vela, Arm's compiler for Ethos-U"
        printed = (result.stdout + result.stderr).strip()[:200]
        raise InputError(f"{expected}. Received: {printed!r} as its version", status=result.status)
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
        try:
            if result.status == 0:
                return _read_output(folder / "out", result)
            reason = _failure_reason(result, timeout)
        except (FileNotFoundError, csv.Error):
            reason = f"Vela {tool.version} succeeded without the files that Vela 5.2 writes"
    message = f"Vela does not compile {model.source} for {accelerator}: {reason}"
    raise InputError(message, path=model.path, status=result.status)


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


def _failure_reason(result: ProcessResult, timeout: float) -> str:
    if result.status is None:
        return f"it did not finish within {timeout:g} s"
    lines = [line.strip() for output in (result.stdout, result.stderr) for line in output.splitlines()]
    last_line = next((line[:500] for line in reversed(lines) if line and not line.startswith("Warning: No ")), "")
    if result.status < 0:
        return f"Vela was {describe_status(result.status)}{f'; last output: {last_line}' if last_line else ''}"
    message = _EXCEPTION.fullmatch(last_line)
    return f"Vela {describe_status(result.status)}: {(message and message['text']) or 'no output'}"


# The debug database: the operations that Vela generated, and which operator of the file each comes from. Vela's
# per-layer CSV does not name the operators: two that write into one concatenation have the same name there, and neither
# it nor the database escapes quotation marks in a name. The database has numbers for all of them.

_TABLE = re.compile(r'<table name="(\w+)">\n<!\[CDATA\[\n([^\n]*)\n(.*?)\]\]>\n</table>', re.DOTALL)
_FREE_TEXT_COLUMN = "name"  # may hold anything, including quotation marks
_SOURCE_COLUMNS = ("id", "ext_key")
_OPERATION_COLUMNS = ("id", "source_id", "operator", "name", "op_cycles", "npu_cycles", "mac_count")
_DETAIL_COLUMNS = ("id",)
_OPTIMISED_COLUMNS = ("source_id", "operator")
_PURPOSES = ("Lut", "FeatureMap", "Weights", "Scales")
_Row = dict[str, str]


def parse_operations(text: str, operator_count: int) -> tuple[VelaOperation, ...]:
    """Return the operations of a debug database, in the order in which they run."""
    tables = {name: (header, body) for name, header, body in _TABLE.findall(text)}
    sources = {row["id"]: _parse_number(row, "ext_key") for row in _parse_rows(tables, "source", _SOURCE_COLUMNS)}
    uses = Counter(sources.values())
    details = {row["id"]: row for row in _parse_rows(tables, "perf_debug", _DETAIL_COLUMNS)}
    rows = _parse_rows(tables, "perf", _OPERATION_COLUMNS)
    if [row["id"] for row in rows] != list(details):  # a name may have looked like the rest of a row
        raise _database_error(f"{len(rows):,} operations, details of {len(details):,}")
    # Operators of other subgraphs are numbered from 0 again: an index counts where it belongs to one source only.
    known = {id_: index for id_, index in sources.items() if uses[index] == 1 and index < operator_count}
    return tuple(_parse_operation(row, known.get(row["source_id"]), details[row["id"]]) for row in rows)


def parse_cpu_operators(text: str, operator_count: int) -> frozenset[int]:
    """Return the indexes of the main subgraph's operators that Vela leaves to the CPU.

    Its table of operations lacks those of a file with several subgraphs, such as the WHILE of an LSTM and its body."""
    tables = {name: (header, body) for name, header, body in _TABLE.findall(text)}
    indexes: dict[str, int] = {}
    for row in _parse_rows(tables, "source", _SOURCE_COLUMNS):
        index = _parse_number(row, "ext_key")
        if indexes and index <= max(indexes.values()):
            break  # the numbers begin again: the next subgraph
        indexes[row["id"]] = index
    optimised = _parse_rows(tables, "optimised", _OPTIMISED_COLUMNS)
    on_cpu = {indexes.get(row["source_id"], operator_count) for row in optimised if row["operator"] == PASSTHROUGH}
    return frozenset(index for index in on_cpu if index < operator_count)


def _parse_operation(row: _Row, source: int | None, details: _Row) -> VelaOperation:
    def sum_bytes(column: str, direction: str) -> int:
        return sum(_parse_number(details, f"{column}{purpose}_{direction}", 0) for purpose in _PURPOSES)

    return VelaOperation(
        id=row["id"],
        source=source,
        operator=row["operator"],
        name=row["name"],
        cycles=_parse_number(row, "op_cycles"),
        npu_cycles=_parse_number(row, "npu_cycles"),
        macs=_parse_number(row, "mac_count"),
        access_cycles=_by_memory(lambda column: _parse_number(row, f"{column}_ac", 0)),
        read=_by_memory(lambda column: sum_bytes(column, "read")),
        written=_by_memory(lambda column: sum_bytes(column, "write")),
    )


def _by_memory(count: Callable[[str], int]) -> dict[str, int]:
    """Return a number for each memory, by its name, from that in the database; zeros are left out."""
    return {name: number for name, (database, _) in MEMORIES.items() if (number := count(database))}


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
            continue
        for line in lines:
            if default := _DEFAULTS.fullmatch(line):
                defaults[default["what"]] = default["value"]
            else:
                others.setdefault(_QUOTED.sub("''", line), []).append(line)
    findings = []
    if defaults:  # a configuration file by its base name
        names = {what: value.rpartition("/")[2].strip("[]'\"") for what, value in defaults.items()}
        values = ", ".join(f"{what} {name}" for what, name in names.items())
        arguments = ", ".join(f"`{_ARGUMENTS[what]}`" for what in defaults if what in _ARGUMENTS)
        message = f"Vela's defaults: {values}; name those of your chip with {arguments}"
        findings.append(EthosUFinding("assumed", message))
    # Vela goes from the outputs to the inputs; the layers are in the file's order here.
    order = {name: position for position, name in enumerate(itertools.chain(*layers_of_tensor.values()))}
    for reason, layers in reasons.items():
        in_order = sorted(layers, key=lambda name: order.get(name, len(order)))
        findings.append(EthosUFinding("cpu", reason, tuple(in_order)))
    for lines in others.values():
        more = f" (and {format_count(len(lines) - 1, 'similar line')})" if len(lines) > 1 else ""
        findings.append(EthosUFinding("vela", f"{lines[0]}{more}"))
    return tuple(findings)


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
