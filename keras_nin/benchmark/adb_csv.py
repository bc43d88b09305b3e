"""What LiteRT's `benchmark_model` writes: its log, and the profile of the operators as CSV."""

import re

from keras_nin.errors import InputError

_REGULAR = "Operator-wise Profiling Info for Regular Benchmark Runs"
_INITIAL = "Profiling Info for Benchmark Initialization"
_RUN_ORDER = "Run Order"
_DELEGATE = "Delegate/"
# The columns in the middle; the first and the last are text, in which commas may be. Older versions have no `start`.
_NUMBERS = ("start", "first", "avg_ms", "%", "cdf%", "mem KB", "times called")
_HEADERS = (_NUMBERS, _NUMBERS[1:])
_NUMBER = r"-?(?:[0-9.]+(?:e[+-]?[0-9]+)?|nan|inf)%?"
_STATISTICS = re.compile(r"\bcount=(?P<count>\d+)\s+(?P<rest>\S.*)")
_TIMES = re.compile(
    r"Inference timings in us: Init: (?P<init>[\d.e+]+), First inference: (?P<first>[\d.e+]+), "
    r"Warmup \(avg\): (?P<warm_up>[\d.e+]+), Inference \(avg\): (?P<average>[\d.e+]+)"
)
_MEMORY = re.compile(
    r"Memory footprint delta from the start of the tool \(MB\): init=(?P<init>\S+) overall=(?P<all>\S+)"
)


def kernels(text):
    """Return what the runtime executed in a run, in order, from the text of ``--profiling_output_csv_file``.

    Returns:
        List of ``{"kind", "name", "index", "us": {"median", "mean", "p90", "typical"}}`` as `join.layers` takes them.
        The tool gives means alone: the median and the 90th percentile are None.

    Raises:
        InputError: there is no profile of regular runs in the text, or a line of it is no row of the table.
    """
    rows = _rows(text)
    found = [_kernel(row) for row in rows]
    if not found:
        raise InputError("Expected a profile of benchmark_model as CSV. Received: one without operators")
    # The operator that stands for a delegate holds the time of all its kernels: with both, the kernels say more.
    delegated = any(kernel["kind"] == "delegate" for kernel in found)
    return [each for each, row in zip(found, rows, strict=True) if not (delegated and _stands_for_a_delegate(row))]


def _rows(text):
    """Return the rows of the tables in order of execution, each as a dictionary by its columns."""
    if _REGULAR not in text:
        raise InputError(f"Expected a profile of benchmark_model as CSV. Received: one without {_REGULAR!r}")
    rows, pattern, inside = [], None, False
    for line in text.split(_REGULAR, 1)[1].split(_INITIAL, 1)[0].splitlines():
        line = line.strip()
        if line.startswith("="):
            inside = _RUN_ORDER in line
        elif not line:
            inside = False
        elif inside and line.startswith("node type"):
            pattern = _pattern([word.strip() for word in line.split(",")])
        elif inside:
            match = pattern and pattern.fullmatch(line)
            if not match:
                raise InputError(f"Expected rows of benchmark_model's profile. Received: {line[:200]!r}")
            rows.append(match.groupdict())
    return rows


def _pattern(columns):
    """Return the regular expression of a row under the header with these columns."""
    numbers = tuple(columns[1:-1])
    if numbers not in _HEADERS or columns[-1] != "name":
        raise InputError(f"Expected the columns of benchmark_model's profile. Received: {', '.join(columns)[:200]!r}")
    names = {"avg_ms": "average", "times called": "called"}
    middle = "".join(f",\\s*(?P<{names[each]}>{_NUMBER})" if each in names else f",\\s*{_NUMBER}" for each in numbers)
    return re.compile(f"(?P<type>.*?){middle},\\s*(?P<name>.*)")


def _kernel(row):
    us = float(row["average"]) * 1000 * max(1, int(float(row["called"])))
    delegated = row["name"].startswith(_DELEGATE)
    # Commas in names may be tabs; the kernel's own name ends before the index.
    name, _, index = row["name"].removeprefix(_DELEGATE).replace("\t", ",").rpartition(":")
    return {
        "kind": "delegate" if delegated else "operator",
        "name": name if delegated and name else row["type"],
        "index": int(index) if index.isdigit() else -1,
        "us": {"median": None, "mean": us, "p90": None, "typical": us},
    }


def _stands_for_a_delegate(row):
    return not row["name"].startswith(_DELEGATE) and ("Delegate" in row["type"] or row["type"] == "DELEGATE")


def log(text):
    """Return the statistics of a run of `benchmark_model` from what it printed.

    Returns:
        Dictionary: "runs"; "median_us", "mean_us", "min_us"; "load_us" and "first_us"; "bytes", by how much the tool's
        memory grew, None where it does not say.

    Raises:
        InputError: it printed no statistics, or none with a median (those of versions before that had it).
    """
    statistics = [match for match in map(_STATISTICS.search, text.splitlines()) if match]
    times = _TIMES.search(text)
    if not statistics or not times:
        raise InputError(f"Expected the log of benchmark_model. Received: {_last(text)!r}")
    values = {**_values(statistics[-1]["rest"]), "count": int(statistics[-1]["count"])}
    if "median" not in values and values["count"] > 1:
        raise InputError(
            "Expected a benchmark_model that prints the median. Received: a version that prints "
            f"{', '.join(values)}. Use a newer one"
        )
    only = values.get("curr", float(times["average"]))  # all that is printed of one run
    memory = _MEMORY.search(text)
    return {
        "runs": values["count"],
        "median_us": values.get("median", only),
        "mean_us": values.get("avg", only),
        "min_us": values.get("min", only),
        "load_us": float(times["init"]),
        "first_us": float(times["first"]),
        "bytes": round(float(memory["all"]) * 2**20) if memory else None,
    }


def _values(text):
    pairs = (word.partition("=") for word in text.split())
    return {name: float(value) for name, separator, value in pairs if separator and re.fullmatch(_NUMBER, value)}


def _last(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing"
