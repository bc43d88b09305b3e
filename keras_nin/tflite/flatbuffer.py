"""A bounds-checked reader of flatbuffers: hostile bytes end in an `InputError`, never in a crash or a long wait.

The format: https://flatbuffers.dev/internals/. A table is a signed offset to its vtable, then its fields; the vtable
holds the byte offset of every field slot, 0 where the field is absent. Vectors, strings and tables are reached by
unsigned offsets relative to where the offset itself stands.
"""

import pathlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras_nin.errors import InputError

# Vectors may be shared, so a small file could ask for endless decoding. What writers share (vtables, a few strings)
# stays far below both limits. A table counts as some bytes more, so that the time that a small file takes is small too.
_MAX_DECODED_PER_BYTE = 4
_BYTES_PER_TABLE = 64
_MAX_TABLES = 1 << 18
_SMALL_FILE = 1 << 16


class FlatbufferReader:
    """The bytes of one file, and how much may still be decoded of them.

    Args:
        data: the content of the file.
        path: where it was read from, for errors; None for bytes.
    """

    def __init__(self, data: bytes, path: pathlib.Path | None = None) -> None:
        self.data = data
        self.path = path
        self._vtables: dict[int, tuple[int, ...]] = {}
        self._tables_left = _MAX_TABLES
        self._bytes_left = _MAX_DECODED_PER_BYTE * len(data) + _SMALL_FILE

    def fail(self, problem: str) -> InputError:
        """Return the `InputError` for this file."""
        source = "the bytes given" if self.path is None else repr(str(self.path))
        message = f"Expected a valid .tflite file. Received: {source}, where {problem}"
        return InputError(message, path=self.path, received=problem)

    def check(self, position: int, size: int, what: str) -> None:
        """Raise `InputError` unless the `size` bytes from `position` lie inside the file."""
        if position < 0 or position + size > len(self.data):
            raise self.fail(f"{what} at byte {position} reaches past the end ({len(self.data)} bytes)")

    def unpack(self, code: str, position: int, what: str = "a value") -> Any:
        """Return the little-endian scalar of the `struct` format `code` at `position`."""
        self.check(position, struct.calcsize("<" + code), what)
        return struct.unpack_from("<" + code, self.data, position)[0]

    def root(self, identifier: bytes) -> "FlatbufferTable":
        """Return the root table of a file that carries the 4-byte `identifier`."""
        if bytes(self.data[4:8]) != identifier:
            raise self.fail(f"the mark {identifier.decode()!r} at byte 4 is missing")
        return FlatbufferTable(self, self.unpack("I", 0, "the root"))

    def follow(self, position: int) -> int:
        """Return where the unsigned offset at `position` points to."""
        return position + self.unpack("I", position, "an offset")

    def spend(self, size: int) -> None:
        """Count `size` bytes as decoded; `InputError` where the file is decoded over and over."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise self.fail("the same bytes are referred to again and again")

    def fields(self, position: int) -> tuple[int, ...]:
        """Return the field offsets of the table at `position`, one per slot of its vtable."""
        self._tables_left -= 1
        if self._tables_left < 0:
            raise self.fail(f"there are more than {_MAX_TABLES} tables")
        self.spend(_BYTES_PER_TABLE)
        vtable = position - self.unpack("i", position, "a table")
        if vtable not in self._vtables:
            size = self.unpack("H", vtable, "a vtable")
            self.check(vtable, size, "a vtable")
            if size < 4 or size % 2:
                raise self.fail(f"the vtable at byte {vtable} has the impossible size {size}")
            self.spend(size)
            self._vtables[vtable] = struct.unpack_from(f"<{size // 2 - 2}H", self.data, vtable + 4)
        return self._vtables[vtable]


class FlatbufferTable:
    """One table; fields are read by slot number, and an absent field gives its default or None."""

    __slots__ = ("_fields", "_position", "reader")

    def __init__(self, reader: FlatbufferReader, position: int) -> None:
        self.reader = reader
        self._position = position
        self._fields = reader.fields(position)

    def field_position(self, slot: int) -> int | None:
        """Return the byte where a field is, or None."""
        offset = self._fields[slot] if slot < len(self._fields) else 0
        return self._position + offset if offset else None

    def scalar(self, slot: int, code: str, default: Any = 0) -> Any:
        """Return the number of `struct` format `code`, or `default`."""
        position = self.field_position(slot)
        return default if position is None else self.reader.unpack(code, position)

    def table(self, slot: int) -> "FlatbufferTable | None":
        """Return the table that the field refers to, or None."""
        position = self.field_position(slot)
        return None if position is None else FlatbufferTable(self.reader, self.reader.follow(position))

    def tables(self, slot: int) -> "list[FlatbufferTable]":
        """Return the field's vector of tables as a list; empty where it is absent."""
        first, count = self.span(slot, 4) or (0, 0)
        self.reader.spend(4 * count)
        return [FlatbufferTable(self.reader, self.reader.follow(first + 4 * item)) for item in range(count)]

    def span(self, slot: int, item_size: int = 1) -> tuple[int, int] | None:
        """Return (first byte, number of items) of the field's vector, checked but not decoded, or None."""
        position = self.field_position(slot)
        if position is None:
            return None
        start = self.reader.follow(position)
        count = self.reader.unpack("I", start, "a vector")
        self.reader.check(start + 4, count * item_size, "a vector's content")
        return start + 4, count

    def vector(self, slot: int, code: str) -> tuple[Any, ...] | None:
        """Return the field's vector of numbers of `struct` format `code` as a tuple, or None."""
        size = struct.calcsize("<" + code)
        span = self.span(slot, size)
        if span is None:
            return None
        first, count = span
        self.reader.spend(size * count)
        return struct.unpack_from(f"<{count}{code}", self.reader.data, first)

    def string(self, slot: int) -> str:
        """Return the field's string, empty where it is absent; bytes that are not UTF-8 appear escaped."""
        first, size = self.span(slot) or (0, 0)
        self.reader.spend(size)
        return bytes(self.reader.data[first : first + size]).decode("utf-8", "backslashreplace")


Layouts = Mapping[str, Sequence[str]]


def check_structure(data: bytes, path: pathlib.Path | None, root: str, layouts: Layouts, unions: Layouts) -> None:
    """Raise `InputError` unless every table, vector and string of a file lies inside it, whether it is read or not.

    Runtimes follow all offsets without looking. Each table is looked at once, so that the time is linear in the file.

    Args:
        data, path: of the file; the root of a valid file is at its first offset.
        root: name of the table there.
        layouts: of every table with fields the kind of each slot: ``"4"`` for a number of 4 bytes, ``"[4]"`` for a
            vector of them, ``"string"``, ``"Tensor"`` and ``"[Tensor]"`` for tables, ``"BuiltinOptions?"`` for a table
            of a union, and ``"-"`` for a slot not in use.
        unions: the tables of each union, by their code.
    """
    reader = FlatbufferReader(data, path)
    check = _StructureCheck(reader, layouts, unions)
    pending = [(reader.follow(0), root)]
    seen = set(pending)
    while pending:
        for table in check.follow_fields(*pending.pop()):
            if table not in seen:
                seen.add(table)
                pending.append(table)


class _StructureCheck:
    def __init__(self, reader: FlatbufferReader, layouts: Layouts, unions: Layouts) -> None:
        self._reader, self._layouts, self._unions = reader, layouts, unions
        self._plans: dict[tuple[str, tuple[int, ...]], tuple[int, list[tuple[int, str, int]]]] = {}

    def _plan(self, name: str, fields: tuple[int, ...]) -> tuple[int, list[tuple[int, str, int]]]:
        """Return how far the fields of a table reach, and (offset, kind, offset of its code) of those to follow."""
        extent, followed = 4, []
        for slot, (offset, kind) in enumerate(zip(fields, self._layouts.get(name, ()), strict=False)):
            if offset and kind != "-":
                extent = max(extent, offset + (int(kind) if kind.isdigit() else 4))
                if not kind.isdigit():
                    followed.append((offset, kind, fields[slot - 1]))
        return extent, followed

    def follow_fields(self, position: int, name: str) -> Iterator[tuple[int, str]]:
        """Check what the fields of a table refer to; yield (position, name) of the tables among it."""
        reader, fields = self._reader, self._reader.fields(position)
        plan = self._plans.get((name, fields))
        if plan is None:
            plan = self._plans[name, fields] = self._plan(name, fields)
        reader.check(position, plan[0], f"a {name}")
        for offset, kind, code_offset in plan[1]:
            target = reader.follow(position + offset)
            if kind[0] == "[":
                yield from self._follow_vector(target, kind[1:-1])
            elif kind == "string":
                size = reader.unpack("I", target, "a string")
                reader.check(target + 4, size + 1, "a string")
                if reader.data[target + 4 + size]:
                    raise reader.fail(f"the string at byte {target} has no end")
            elif kind[-1] == "?":
                names = self._unions[kind[:-1]]
                code = reader.unpack("B", position + code_offset) if code_offset else 0
                if 0 < code < len(names):  # later versions of the schema have more
                    yield target, names[code]
            else:
                yield target, kind

    def _follow_vector(self, start: int, item: str) -> Iterator[tuple[int, str]]:
        reader = self._reader
        count = reader.unpack("I", start, "a vector")
        if item.isdigit():
            reader.check(start + 4, count * int(item), "a vector's content")
            return
        reader.check(start + 4, count * 4, "a vector's content")
        reader.spend(4 * count)
        for number, offset in enumerate(struct.unpack_from(f"<{count}I", reader.data, start + 4)):
            yield start + 4 + 4 * number + offset, item
