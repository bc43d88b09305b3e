"""Numbers, units, machines and tables as text: the one format of each in everything that keras-nin prints."""

import io
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

_COLUMN_GAP = "   "
_KIB, _MIB = 2**10, 2**20
_NAMES_SHOWN = 5
_NAME_LIMIT, _CELL_LIMIT, TEXT_LIMIT = 200, 500, 4000  # characters
# What Markdown takes for more than text, but for the marks at the start of a line.
_MARKUP = re.compile(
    r"[`*|$~]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|\\(?=[!-/:-@\[-`{-~]|$)|<(?=[A-Za-z/!?])|&(?=#?\w+;)"
)
_ENTITIES = "$~<&"  # no implementation of Markdown knows a backslash before all of them
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_FORMULA = re.compile(r"(?:^|(?<=;))(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")  # also where a semicolon separates cells
_JOINERS = "\u200c\u200d"  # make one sign of two emoji, or keep two letters apart


def format_bytes(count: float) -> str:
    """Return a size in KiB, or in MiB from one MiB on: ``"959.1 KiB"``."""
    return f"{count / _MIB:,.2f} MiB" if count >= _MIB else f"{count / _KIB:,.1f} KiB"


def format_us(us: float) -> str:
    """Return a time in us, or in ms from one millisecond on: ``"28.5 us"``, ``"1.235 ms"``."""
    return f"{us / 1000:,.3f} ms" if us >= 1000 else f"{us:,.1f} us"


def format_percent(share: float | None, digits: int = 1) -> str:
    """Return a share of 1 as ``"99.2%"``; ``"-"`` for None."""
    return "-" if share is None else f"{share:.{digits}%}"


def format_ratio_percent(part: float, whole: float) -> str:
    """Return what `part` is of `whole` as ``"40.5%"``; ``"none"`` where `whole` is 0."""
    return format_percent(part / whole) if whole else "none"


def format_count(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: ``"1 thread"``, ``"2,500 runs"``; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def format_names(names: Sequence[str], shown: int = _NAMES_SHOWN, separator: str = ", ") -> str:
    """Return the first `shown` names, and how many more there are: ``"conv1, conv2 and 7 more"``."""
    more = len(names) - shown
    listed = separator.join(printable(name, _CELL_LIMIT) for name in names[:shown])
    return listed + (f" and {more:,} more" if more > 0 else "")


def format_indexes(indexes: Sequence[int], noun: str = "operator") -> str:
    """Return rising indexes with their noun: ``"operators 3, 5"``; of more than five their range and number.

    ``"operators 3 to 9"`` are all of these, ``"7 operators from 3 to 40"`` some of them.
    """
    count = len(indexes)
    if count <= _NAMES_SHOWN:
        return f"{noun if count == 1 else noun + 's'} {', '.join(map(str, indexes))}"
    first, last = indexes[0], indexes[-1]
    is_whole = last - first == count - 1
    return f"{noun}s {first} to {last}" if is_whole else f"{count:,} {noun}s from {first} to {last}"


def format_host(host: Mapping[str, Any]) -> str:
    """Return a machine, as `tflite.host.describe_host` describes it, in one line, as far as `host` has its keys."""
    cores, litert = host.get("cores"), host.get("litert")
    counted = isinstance(cores, int) and format_count(cores, "core")
    parts = (host.get("cpu"), counted, host.get("system"), litert and f"LiteRT {litert}")
    return ", ".join(printable(part) for part in parts if part) or "unknown machine"


def format_conditions(host: Mapping[str, Any], threads: int, runs: int, batch: int = 1) -> str:
    """Return the conditions of a median latency, without which none is shown: runs, threads, batch and machine."""
    counts = f"{format_count(runs, 'run')} on {format_count(threads, 'thread')}, batch {batch}"
    return f"Median of {counts}; {format_host(host)}"


def format_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = (), title: str | None = None
) -> str:
    """Return a table as plain text, never cut to a terminal's width; `right` has headings of right-aligned columns.

    A cell is a printable line; of a longer one than anybody reads, the middle is left out.
    """
    from rich.cells import cell_len

    lines = [[printable(cell, _CELL_LIMIT) for cell in line] for line in (columns, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        padded = []
        for cell, width, column in zip(line, widths, columns, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if column in right else cell + space)
        text.append(f" {_COLUMN_GAP.join(padded)}".rstrip())
    rule = " " + "─" * (sum(widths) + len(_COLUMN_GAP) * (len(widths) - 1))
    return "\n".join([*([] if title is None else [printable(title, _CELL_LIMIT)]), text[0], rule, *text[1:]])


def format_markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()) -> str:
    """Return a table as Markdown; arguments as in `format_table`. Cells are text, unless they are `Markdown`."""
    head, *body = ([_format_markdown_cell(cell) for cell in line] for line in (columns, *rows))
    rule = ["---:" if column in right else "---" for column in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))


class Markdown(str):
    """Text that is Markdown already: what is markup in it is meant."""

    __slots__ = ()


def format_link(text: str, url: str) -> Markdown:
    """Return a link as Markdown."""
    return Markdown(f"[{escape_markdown(text)}]({url})")


def _format_markdown_cell(cell: str) -> str:
    if isinstance(cell, Markdown):
        return cell.replace("|", "\\|")
    return escape_markdown(printable(" ".join(cell.splitlines()), TEXT_LIMIT))


def escape_markdown(text: str) -> str:
    """Return a printable line that Markdown shows as `text`; marks that begin a line, such as "#", stay."""
    return _MARKUP.sub(_escape_mark, escape_unprintable(text))


def _escape_mark(match: re.Match[str]) -> str:
    char, before = match[0], match.string[: match.start()]
    if char in _ENTITIES or (char == "|" and before.endswith("\\")):  # some would take "\\\\|" for the end of a cell
        return f"&#{ord(char)};"
    return f"\\{char}"


def format_csv(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return CSV with a head, an empty cell for None.

    Text is printable and no formula: an apostrophe is put before what a spreadsheet would compute.
    """
    import csv

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([escape_csv(value) if isinstance(value, str) else value for value in row] for row in rows)
    return out.getvalue()


def escape_csv(text: str) -> str:
    """Return the text of a cell as `format_csv` writes it; numbers stay."""
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub("'", escape_unprintable(text))


def escape_unprintable(text: str, encoding: str = "utf-8") -> str:
    r"""Return `text` with control characters, and characters that `encoding` lacks, escaped as in ``\x1b``.

    Names come from users and files: printed as they are, they could recolor a terminal, break a table or reverse what
    follows. Letters of any language and emoji stay.
    """
    if not text.isprintable():
        neighbors = zip(" " + text, text, text[1:] + " ", strict=False)
        text = "".join(
            char if char.isprintable() or _joins(before, char, after) else char.encode("unicode_escape").decode()
            for before, char, after in neighbors
        )
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _joins(before: str, char: str, after: str) -> bool:
    return char in _JOINERS and not before.isascii() and not after.isascii() and (before + after).isprintable()


def printable(value: object, limit: int = _NAME_LIMIT) -> str:
    """Return a name, or any value from a file or a user, as one printable line of at most `limit` characters.

    Characters are escaped as in `escape_unprintable`; an ellipsis stands for the middle of what is longer. The time
    does not depend on the length of a text. For a value in quotes, pass its `repr`.
    """
    if isinstance(value, int) and value.bit_length() > 4 * limit:
        value = hex(value)  # in time that grows with the number of digits, not with its square
    try:
        text = str(value)
    except ValueError:  # a container of such numbers, which Python does not convert
        text = type(value).__name__
    if len(text) > 2 * limit:
        text = text[:limit] + text[-limit:]
    text = escape_unprintable(text)
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def format_message(text: str) -> str:
    """Return the text of an error as one printable line, a value in it that nobody would read shortened."""
    if len(text) > 2 * TEXT_LIMIT:
        text = text[:TEXT_LIMIT] + text[-TEXT_LIMIT:]
    words = (printable(word) if len(word) > _NAME_LIMIT else word for word in text.split())
    return printable(" ".join(words), TEXT_LIMIT)


def format_value(value: object, limit: int = _NAME_LIMIT) -> str:
    """Return the `repr` of a value for a message, as `printable` has it."""
    try:
        return printable(repr(value), limit)
    except ValueError:
        return printable(value, limit)


def fit_encoding(text: str, encoding: str) -> str:
    """Return `text` as `encoding` can write it: rules as hyphens, other missing characters escaped."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("─", "-").encode(encoding, "backslashreplace").decode(encoding)
    return text


def wrap(line: str, width: int, indent: str = "  ") -> list[str]:
    """Return `line` as printable lines of at most `width` characters, all but the first indented."""
    return textwrap.wrap(escape_unprintable(line), width, subsequent_indent=indent, break_on_hyphens=False)


def format_duration(seconds: float) -> str:
    """Return a duration as "40 s", "12 min" or "1.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
