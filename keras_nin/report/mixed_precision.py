"""The search of the scheme mixed as text: the points, which was chosen, and the sensitivity of each operator."""

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from keras_nin.export.mixed_precision import MATCH, parse_target
from keras_nin.formatting import format_count, format_host, format_names, format_percent, format_table, format_us

if TYPE_CHECKING:
    from keras_nin.export.mixed_precision import MixedPoint, MixedSearch
    from keras_nin.export.parity import Parity

POINT_COLUMNS = (
    "", "in float32", "top-1 match", "expected at least", "top-1 drop (pp)", "SNR (dB)", "latency", "of int8", "bytes",
    "front",
)  # fmt: skip
SENSITIVITY_COLUMNS = ("operator", "", "only it int8: SNR (dB)", "only it float32: SNR (dB)", "int8", "float32")
_MOST_SENSITIVE = 10


def mixed_lines(search: "MixedSearch", name: str, parity: "Parity") -> Iterator[str]:
    """Yield the tables of a search, what was chosen, and whether the test images confirm it.

    Args:
        name: of the file.
        parity: its comparison with the model on the test images.
    """
    images = format_count(search.images, "calibration image")
    yield f"\n{name}: files tried for the target {search.target}, each run on {images}"
    yield format_points(search)
    yield f"Latency in turns, {format_count(search.threads, 'thread')}; {format_host(search.host)}"
    if search.sensitivities:
        yield f"\n{format_sensitivities(search)}"
    chosen = search.choice
    yield f"\nChosen: {describe_operators(search.operators, chosen.float_operators)} in float32."
    if chosen.float_operators and all(search.points[0].check(limit).passed for limit in parse_target(search.target)):
        yield "The file in int8 reaches the target too, and is smaller, but slower on this machine."
    if chosen.float_operators:
        yield "On an Edge TPU or Ethos-U they run on the CPU, and so do the casts around them: see keras-nin fit."
    yield from _confirmation(search, parity)


def _confirmation(search: "MixedSearch", parity: "Parity") -> Iterator[str]:
    values = {"match": parity.top1_match, "snr": parity.logits_snr_db or parity.snr_db}
    if parity.model_top1 is not None and parity.file_top1 is not None:
        values["top1_drop"] = 100 * (parity.model_top1 - parity.file_top1)
    for limit in parse_target(search.target):
        value = values.get(limit.name)
        if value is None:
            continue
        kept = value >= limit.low if limit.low is not None else limit.high is not None and value <= limit.high
        shown = format_percent(value) if limit.item == MATCH else f"{value:.1f} {'dB' if limit.name == 'snr' else 'pp'}"
        verdict = "confirmed" if kept else "NOT confirmed; it was chosen on the calibration images alone"
        yield f"Target {limit.name} {limit}: {shown} on {format_count(parity.images, 'test image')}, {verdict}."


def format_points(search: "MixedSearch") -> str:
    """Return the table of the points, in the order in which operators were lifted; the chosen one has an arrow."""
    rows = [
        _point_row(search, point, "->" if number == search.chosen else "") for number, point in enumerate(search.points)
    ]
    shown = [column for column in range(len(POINT_COLUMNS)) if column < 2 or any(row[column] for row in rows)]
    columns = [POINT_COLUMNS[column] for column in shown]
    return format_table(columns, [[row[column] for column in shown] for row in rows], right=POINT_COLUMNS[2:-1])


def _point_row(search: "MixedSearch", point: "MixedPoint", mark: str) -> list[str]:
    return [
        mark,
        describe_operators(search.operators, point.float_operators),
        "" if point.match is None else format_percent(point.match),
        "" if point.expected_match is None else format_percent(point.expected_match),
        "" if point.top1_drop_pp is None else f"{point.top1_drop_pp:.1f}",
        _decibels(point.snr_db),
        "" if point.latency_us is None else format_us(point.latency_us),
        "" if point.slowdown is None else f"{point.slowdown:.2f}x",
        f"{point.bytes:,}",
        "yes" if point.on_front else "",
    ]


def format_sensitivities(search: "MixedSearch") -> str:
    """Return the table of the operators that add the most noise alone in int8."""
    ordered = sorted(
        search.sensitivities, key=lambda row: float("inf") if row.only_int8_db is None else row.only_int8_db
    )
    rows = [
        [row.name, row.op, _decibels(row.only_int8_db), _decibels(row.only_float_db)]
        + ["" if us is None else format_us(us) for us in (row.int8_us, row.float_us)]
        for row in ordered[:_MOST_SENSITIVE]
    ]
    title = f"The {len(rows)} most sensitive of {format_count(len(ordered), 'operator')}; the record has all."
    return format_table(SENSITIVITY_COLUMNS, rows, right=SENSITIVITY_COLUMNS[2:], title=title)


def _decibels(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f}"


def describe_operators(operators: Sequence[str], chosen: Collection[str]) -> str:
    """Return some operators as ranges in the order of the network: ``"conv1 to pool1, conv10"``."""
    if not chosen:
        return "none"
    if len(chosen) == len(operators):
        return f"all {len(operators)}"
    ranges: list[list[str]] = []
    before = False
    for name in operators:
        if name in chosen:
            if not before:
                ranges.append([name])
            ranges[-1].append(name)
        before = name in chosen
    texts = [first if len(names) == 1 else f"{first} to {names[-1]}" for first, *names in ranges]
    return f"{format_names(texts)} ({len(chosen)} of {len(operators)})"
