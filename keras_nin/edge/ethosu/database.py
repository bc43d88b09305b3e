"""Vela's debug database: the operations that it made, and which operator of the file each comes from.

Its per-layer CSV names no operators: two that write into one concatenation bear one name there, and neither it nor the
database quotes what a name holds. The database has numbers for all of them.
"""

import re
from collections import Counter

from keras_nin.edge.ethosu.memories import MEMORIES
from keras_nin.edge.ethosu.records import Operation
from keras_nin.errors import InputError

_TABLE = re.compile(r'<table name="(\w+)">\n<!\[CDATA\[\n([^\n]*)\n(.*?)\]\]>\n</table>', re.DOTALL)
_FREE = "name"  # the column that may hold anything, quotation marks too
_SOURCE = ("id", "ext_key")
_OPERATIONS = ("id", "source_id", "operator", "name", "op_cycles", "npu_cycles", "mac_count")
_DETAILS = ("id",)
_PURPOSES = ("Lut", "FeatureMap", "Weights", "Scales")


def operations(text, operators):
    """Return the `Operation` records of a debug database, in the order in which they run.

    Args:
        text: the database (XML), as Vela 5.2 writes it.
        operators: how many operators the file has.

    Raises:
        InputError: it is not such a database.
    """
    tables = {name: (header, body) for name, header, body in _TABLE.findall(text)}
    numbers = _operator_numbers(_rows(tables, "source", _SOURCE), operators)
    details = {row["id"]: row for row in _rows(tables, "perf_debug", _DETAILS)}
    rows = _rows(tables, "perf", _OPERATIONS)
    if [row["id"] for row in rows] != list(details):  # a name may have looked like the rest of a row
        raise _unexpected(f"{len(rows):,} operations, details of {len(details):,}")
    return tuple(_operation(row, numbers.get(row["source_id"]), details[row["id"]]) for row in rows)


def _operator_numbers(rows, operators):
    """Return the operator's index by the source's id, of those indexes that one source has alone."""
    found = {row["id"]: _number(row, "ext_key") for row in rows}
    uses = Counter(found.values())
    # Those of other subgraphs are numbered from 0 again.
    return {id_: index for id_, index in found.items() if uses[index] == 1 and index < operators}


def _operation(row, source, details):
    memories = {memory.name: memory.database for memory in MEMORIES}
    return Operation(
        id=row["id"],
        source=source,
        operator=row["operator"],
        name=row["name"],
        cycles=_number(row, "op_cycles"),
        npu_cycles=_number(row, "npu_cycles"),
        macs=_number(row, "mac_count"),
        access_cycles=_known((name, _number(row, f"{column}_ac", 0)) for name, column in memories.items()),
        read=_known((name, _moved(details, column, "read")) for name, column in memories.items()),
        written=_known((name, _moved(details, column, "write")) for name, column in memories.items()),
    )


def _known(pairs):
    return {name: value for name, value in pairs if value}


def _moved(details, column, direction):
    return sum(_number(details, f"{column}{purpose}_{direction}", 0) for purpose in _PURPOSES)


def _number(row, column, default=None):
    """Return the whole number in a column; `default`, where there is one, for a column that is empty or missing."""
    value = row.get(column) or ""
    if not value and default is not None:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise _unexpected(f"{value!r} as {column}")
    return int(value)


def _rows(tables, table, needed):
    """Return the rows of a table as dictionaries; every character of the table belongs to one of them."""
    if table not in tables:
        raise _unexpected(f"no table {table!r}")
    header, body = tables[table]
    columns = [column.strip('"') for column in header.split(",")]
    missing = [column for column in needed if column not in columns]
    if missing:
        raise _unexpected(f"a table {table!r} without {', '.join(missing)}")
    fields = [r'(".*?"|[^",\n]*)' if column == _FREE else r'("[^"\n]*"|[^",\n]*)' for column in columns]
    row = re.compile(",".join(fields) + "\n", re.DOTALL)
    rows, end = [], 0
    while end < len(body):
        match = row.match(body, end)
        if match is None:
            raise _unexpected(f"{body[end : end + 60]!r} in table {table!r}")
        rows.append(dict(zip(columns, (value.strip('"') for value in match.groups()), strict=True)))
        end = match.end()
    return rows


def _unexpected(received):
    return InputError(f"Expected a debug database of Vela 5.2. Received: {received}")
