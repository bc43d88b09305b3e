"""The rows of a sweep, and the CSV file that keeps them."""

import csv
import dataclasses
import io

from keras_nin import files
from keras_nin.benchmark.grid import Layer, Point
from keras_nin.errors import InputError


@dataclasses.dataclass(frozen=True)
class Row:
    """What measuring a `Point` gave.

    Attributes:
        point: where in the grid.
        us, low_us, high_us: median of a whole run, and its 95 % confidence interval where known.
        kernel_us: typical time inside the runtime's kernels; None where it has no profiler.
        kernel_name: of the longest of these kernels.
        runs: how many runs the median is over.
        converged: whether the interval is within 1 %.
        load: the machine's load average when the group began.
        turn: which group of the sweep it was in, counted from 0; points of one turn were measured interleaved.
        error: why there are no times; None where there are.
    """

    point: Point
    us: float | None = None
    low_us: float | None = None
    high_us: float | None = None
    kernel_us: float | None = None
    kernel_name: str | None = None
    runs: int = 0
    converged: bool = False
    load: float | None = None
    turn: int = 0
    error: str | None = None

    @property
    def gmacs_per_s(self):
        """10^9 MACs a second, inside the kernels where that is known, else of a whole run; None without times."""
        us = self.kernel_us or self.us
        return self.point.layer.macs / us / 1000 if us else None


_POINT = ("size", "cin", "cout", "kernel", "scheme", "threads")
_VALUES = tuple(field.name for field in dataclasses.fields(Row) if field.name != "point")
_COMPUTED = ("macs", "gmacs_per_s")
_IDENTITY = ("cpu", "cores", "litert", "keras_nin")
COLUMNS = (*_POINT, *_VALUES, *_COMPUTED, *_IDENTITY)
_INTEGERS, _TEXTS = ("runs", "turn"), ("kernel_name", "error")


def identity(host):
    """Return who measured, by the CSV's columns: a host as `keras_nin.tflite.host.host` gives it, and our version."""
    import keras_nin

    return {name: str(host[name]) for name in _IDENTITY[:-1]} | {"keras_nin": keras_nin.__version__}


def to_csv(rows, who):
    """Return `Row`s as CSV text, sorted by point.

    Args:
        rows: of one machine.
        who: what `identity` returned.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=lambda row: row.point):
        layer, rate = row.point.layer, row.gmacs_per_s
        values = dataclasses.asdict(layer) | {"scheme": row.point.scheme, "threads": row.point.threads}
        values |= {name: _cell(getattr(row, name)) for name in _VALUES}
        writer.writerow(values | {"macs": layer.macs, "gmacs_per_s": _cell(rate)} | who)
    return out.getvalue()


def _cell(value):
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else value


def read(path, who):
    """Return the `Row`s of a CSV file by their points; an empty dictionary where there is no file.

    Raises:
        InputError: the file is no such CSV, is damaged, or has rows of another machine or another version.
    """
    if not path.exists():
        return {}
    text = files.read_bytes(path).decode(errors="replace")
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise InputError(f"Expected {str(path)!r} to be the CSV of a sweep. Received: other columns. Use another --out")
    rows = {}
    for record in reader:
        row = _row(path, reader.line_num, record)
        theirs = {name: record[name] for name in _IDENTITY}
        if theirs != who:
            raise InputError(
                f"Expected rows of this machine and these versions in {str(path)!r}, since times of others do not "
                f"compare. Received: {', '.join(theirs.values())}; here: {', '.join(who.values())}. Use another --out, "
                "or --force to begin anew"
            )
        rows[row.point] = row
    return rows


def _row(path, line, record):
    try:
        layer = Layer(*(int(record[name]) for name in _POINT[:4]))
        values = {name: _value(name, record[name]) for name in _VALUES}
        return Row(Point(layer, record["scheme"], int(record["threads"])), **values)
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"Expected the row of a sweep in line {line} of {str(path)!r}. Received: a damaged one. Mend or remove it, "
            "or use --force to begin anew"
        ) from None


def _value(name, text):
    if name == "converged":
        return {"True": True, "False": False}[text]
    if name in _INTEGERS:
        return int(text)
    if text == "":
        return None
    return text if name in _TEXTS else float(text)
