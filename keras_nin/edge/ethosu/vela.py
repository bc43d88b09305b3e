"""Run Vela, Arm's compiler for Ethos-U, as the tool it is."""

import csv
import importlib.util
import os
import re
import shutil
import signal
import sys
from collections import Counter
from dataclasses import dataclass

from keras_nin import files
from keras_nin.edge import process
from keras_nin.edge.ethosu.records import MEMORIES, EthosUFinding, VelaOperation
from keras_nin.errors import InputError

VELA_SECONDS = 600.0
_STARTING_SECONDS = 60.0
_NAME = "network"  # the file's own name could be an option, or lack the ending that Vela looks at
_VERSION = re.compile(r"\d+\.\d+\.\d+\S*")
# "ethosu.vela.errors.CliOptionError: 'Error: ...'", as Python prints an exception of Vela's own.
_EXCEPTION = re.compile(r"""(?:ethosu\.[\w.]+: )?(['"]?)(?:Error: )?(?P<text>.*)\1""")
_MISSING = "Expected Vela, Arm's compiler for Ethos-U. Received: none installed. Use: pip install 'keras-nin[ethosu]'"


@dataclass(frozen=True)
class VelaTool:
    """Vela as it is installed: the words that start it, and its version."""

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class VelaOptions:
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
class VelaOutput:
    """What Vela made of a file: the compiled file, its summary by column, its debug database, and what it printed."""

    data: bytes
    summary: dict
    database: str
    log: str


def find_vela():
    """Return the `Tool` of this Python's environment, else that on PATH.

    Raises:
        InputError: there is none, or what bears its name is another program.
    """
    command = _vela_command()
    if command is None:
        raise InputError(_MISSING)
    with files.temporary_folder() as folder:
        ran = _run_vela([*command, "--version"], folder, _STARTING_SECONDS)
    version = _VERSION.fullmatch(ran.out.strip())
    if ran.status != 0 or not version:
        said = (ran.out + ran.err).strip()[:200]
        raise InputError(
            f"Expected {' '.join(command)!r} to be Vela, Arm's compiler for Ethos-U. Received: {said!r} as its version"
        )
    return VelaTool(tuple(command), version[0])


def _vela_command():
    # Only the top package is imported to look for the part in it.
    if importlib.util.find_spec("ethosu") and importlib.util.find_spec("ethosu.vela"):
        return [sys.executable, "-m", "ethosu.vela"]
    script = shutil.which("vela")
    return [os.path.abspath(script)] if script else None


def compile_with_vela(tool, content, accelerator, options, limit, source):
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
        ran = _run_vela([*tool.command, path.name, *words], folder, limit)
        if ran.status != 0:
            raise _refusal_error(source, accelerator, _failure_reason(ran, limit))
        try:
            return _read_output(folder / "out", ran)
        except (FileNotFoundError, csv.Error):
            reason = f"Vela {tool.version} ended well without the files that Vela 5.2 writes"
            raise _refusal_error(source, accelerator, reason) from None


def _run_vela(command, folder, limit):
    try:
        return process.run(command, folder, limit)
    except OSError as error:
        raise InputError(f"Expected {command[0]!r} to start. Received: {error.strerror}") from None


def _read_output(folder, ran):
    (summary,) = list(folder.glob(f"{_NAME}_summary_*.csv")) or [folder / "summary"]
    with open(summary, newline="", encoding="utf-8", errors="replace") as lines:
        rows = list(csv.DictReader(lines))
    return VelaOutput(
        data=(folder / f"{_NAME}_vela.tflite").read_bytes(),
        summary=rows[0] if rows else {},
        database=(folder / f"{_NAME}_debug.xml").read_text(encoding="utf-8", errors="replace"),
        log="\n".join(filter(None, [ran.out, ran.err])),
    )


def _refusal_error(source, accelerator, reason):
    return InputError(f"Expected a file that Vela compiles for {accelerator}. Received: {source!r}: {reason}")


def _failure_reason(ran, limit):
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


# MERGED Vela's debug database: the operations that it made, and which operator of the file each comes from.
# MERGED
# MERGED Its per-layer CSV names no operators: two that write into one concatenation bear one name there, and neither it nor the
# MERGED database quotes what a name holds. The database has numbers for all of them.

_TABLE = re.compile(r'<table name="(\w+)">\n<!\[CDATA\[\n([^\n]*)\n(.*?)\]\]>\n</table>', re.DOTALL)
_FREE = "name"  # the column that may hold anything, quotation marks too
_SOURCE = ("id", "ext_key")
_OPERATIONS = ("id", "source_id", "operator", "name", "op_cycles", "npu_cycles", "mac_count")
_DETAILS = ("id",)
_PURPOSES = ("Lut", "FeatureMap", "Weights", "Scales")


def parse_operations(text, operators):
    """Return the `Operation` records of a debug database, in the order in which they run.

    Args:
        text: the database (XML), as Vela 5.2 writes it.
        operators: how many operators the file has.

    Raises:
        InputError: it is not such a database.
    """
    tables = {name: (header, body) for name, header, body in _TABLE.findall(text)}
    numbers = _operator_numbers(_parse_rows(tables, "source", _SOURCE), operators)
    details = {row["id"]: row for row in _parse_rows(tables, "perf_debug", _DETAILS)}
    rows = _parse_rows(tables, "perf", _OPERATIONS)
    if [row["id"] for row in rows] != list(details):  # a name may have looked like the rest of a row
        raise _database_error(f"{len(rows):,} operations, details of {len(details):,}")
    return tuple(_parse_operation(row, numbers.get(row["source_id"]), details[row["id"]]) for row in rows)


def _operator_numbers(rows, operators):
    """Return the operator's index by the source's id, of those indexes that one source has alone."""
    found = {row["id"]: _parse_number(row, "ext_key") for row in rows}
    uses = Counter(found.values())
    # Those of other subgraphs are numbered from 0 again.
    return {id_: index for id_, index in found.items() if uses[index] == 1 and index < operators}


def _parse_operation(row, source, details):
    memories = {memory.name: memory.database for memory in MEMORIES}
    return VelaOperation(
        id=row["id"],
        source=source,
        operator=row["operator"],
        name=row["name"],
        cycles=_parse_number(row, "op_cycles"),
        npu_cycles=_parse_number(row, "npu_cycles"),
        macs=_parse_number(row, "mac_count"),
        access_cycles=_nonzero((name, _parse_number(row, f"{column}_ac", 0)) for name, column in memories.items()),
        read=_nonzero((name, _bytes_moved(details, column, "read")) for name, column in memories.items()),
        written=_nonzero((name, _bytes_moved(details, column, "write")) for name, column in memories.items()),
    )


def _nonzero(pairs):
    return {name: value for name, value in pairs if value}


def _bytes_moved(details, column, direction):
    return sum(_parse_number(details, f"{column}{purpose}_{direction}", 0) for purpose in _PURPOSES)


def _parse_number(row, column, default=None):
    """Return the whole number in a column; `default`, where there is one, for a column that is empty or missing."""
    value = row.get(column) or ""
    if not value and default is not None:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise _database_error(f"{value!r} as {column}")
    return int(value)


def _parse_rows(tables, table, needed):
    """Return the rows of a table as dictionaries; every character of the table belongs to one of them."""
    if table not in tables:
        raise _database_error(f"no table {table!r}")
    header, body = tables[table]
    columns = [column.strip('"') for column in header.split(",")]
    missing = [column for column in needed if column not in columns]
    if missing:
        raise _database_error(f"a table {table!r} without {', '.join(missing)}")
    fields = [r'(".*?"|[^",\n]*)' if column == _FREE else r'("[^"\n]*"|[^",\n]*)' for column in columns]
    row = re.compile(",".join(fields) + "\n", re.DOTALL)
    rows, end = [], 0
    while end < len(body):
        match = row.match(body, end)
        if match is None:
            raise _database_error(f"{body[end : end + 60]!r} in table {table!r}")
        rows.append(dict(zip(columns, (value.strip('"') for value in match.groups()), strict=True)))
        end = match.end()
    return rows


def _database_error(received):
    return InputError(f"Expected a debug database of Vela 5.2. Received: {received}")


# MERGED What Vela prints, as findings: warnings by what they are about, and whatever else it says as it stands.

_UNSUPPORTED = re.compile(r"Warning \(supported operators\) operator: (?P<op>\S+), ofm: '(?P<tensor>.*)'")
# The name of the operator's own tensor, in brackets: with it no two reasons would be the same.
_TENSOR = re.compile(r"(?<=DataType )(\w+) \(.*\)$")
_DEFAULTS = re.compile(
    r"Warning: No (?P<what>[\w ]+) specified\. Using a default of (?P<value>.+?)\. Compilation may be .*"
)
_SUMMARY_STARTS = "Network summary for "
_SUMMARY = re.compile(
    r"(Accelerator (configuration|clock)|System configuration|Memory mode|Design peak .+|Total .+ used"
    r"|(CPU|NPU) operators|(Average|Input|Weight|Output|Total) .+ bandwidth|Neural network macs)\s"
)
_QUOTED = re.compile(r"'[^']*'")
_HINTS = {"configuration file": "--config", "system configuration": "--system-config", "memory mode": "--memory-mode"}
_LIST = "[]'\""


def parse_messages(log, computed):
    """Return the `Finding`s of what Vela printed; every line is in one of them, or part of its summary.

    Args:
        log: the text.
        computed: dictionary from the name of a tensor to the names of the layers that compute it, in the file's order.
    """
    reasons, assumed, others = {}, {}, {}
    for lines in _paragraphs(log):
        unsupported = _UNSUPPORTED.fullmatch(lines[0])
        if unsupported:
            reason = _unsupported_reason(lines[1:])
            names = computed.get(unsupported["tensor"], (unsupported["tensor"],))
            reasons.setdefault(reason, {}).update(dict.fromkeys(names))
            continue
        for line in lines:
            default = _DEFAULTS.fullmatch(line)
            if default:
                assumed[default["what"]] = default["value"]
            else:
                others.setdefault(_QUOTED.sub("''", line), []).append(line)
    return (*_default_findings(assumed), *_cpu_findings(reasons, computed), *_other_findings(others))


def _paragraphs(log):
    """Return the lines of each message: an unsupported operator's go on to the next empty line, others are single."""
    found, in_summary, open_ = [], False, False
    for line in map(str.rstrip, log.splitlines()):
        in_summary = in_summary or line.startswith(_SUMMARY_STARTS)
        if not line or (in_summary and (line.startswith(_SUMMARY_STARTS) or _SUMMARY.match(line))):
            open_ = False
        elif open_ and not _UNSUPPORTED.fullmatch(line):
            found[-1].append(line)
        else:
            found.append([line])
            open_ = bool(_UNSUPPORTED.fullmatch(line))
    return found


def _unsupported_reason(lines):
    text = "; ".join(_TENSOR.sub(r"\1", line) for line in lines)
    return text.removeprefix("Reason: ") or "Vela gives no reason"


def _default_findings(assumed):
    """Yield one finding for all that Vela took its own defaults for; the file of the sections by its name alone."""
    if assumed:
        values = ", ".join(f"{what} {value.rpartition('/')[2].strip(_LIST)}" for what, value in assumed.items())
        hints = ", ".join(_HINTS[what] for what in assumed if what in _HINTS)
        yield EthosUFinding("assumed", f"Vela's defaults: {values}; give those of the chip with {hints}")


def _cpu_findings(reasons, computed):
    """Yield a finding for each reason; Vela goes from the outputs to the inputs, the findings in the file's order."""
    order = {name: place for place, name in enumerate(name for names in computed.values() for name in names)}
    for reason, names in reasons.items():
        yield EthosUFinding("cpu", reason, tuple(sorted(names, key=lambda name: order.get(name, len(order)))))


def _other_findings(others):
    for lines in others.values():
        more = f" (and {len(lines) - 1:,} more such lines)" if len(lines) > 1 else ""
        yield EthosUFinding("vela", f"{lines[0]}{more}")
