"""A benchmark as CSV with raw numbers, and as Markdown."""

import csv
import dataclasses
import io

from keras_nin.benchmark.records import LayerTime, Statistics
from keras_nin.tables import markdown_table, printable

OVERHEAD = "runtime overhead"
_FILE = ("file", "cpu", "threads", "runs")
_WHOLE = tuple(f"{field.name}_us" for field in dataclasses.fields(Statistics))
_TIMES = ("typical_us", "median_us", "mean_us", "p90_us")
_LAYER = tuple(field.name for field in dataclasses.fields(LayerTime) if field.name not in ("us", "operators"))
_SHOWN = ("layer", "us", "share", "MACs", "GMAC/s", "bytes", "kind", "role", "kernel")
_NUMBERS = _SHOWN[1:6]


def csv_text(benchmark):
    """Return a row for every layer and the runtime's overhead of every profile; of profiles without layers the total.

    Columns are the keys of the JSON, times in us; what is not known is empty.
    """
    layered = any(profile.layers for profile in benchmark.profiles)
    columns = (*_FILE, "method", *_LAYER, "operators", *_TIMES) if layered else (*_FILE, *_WHOLE)
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for profile in benchmark.profiles:
        writer.writerows(_layer_rows(profile) if layered else [_common(profile) | _times(profile.total)])
    return out.getvalue()


def _common(profile):
    return dict(zip(_FILE, (profile.file, profile.host["cpu"], profile.threads, profile.runs), strict=True))


def _times(us):
    return {f"{name}_us": value for name, value in dataclasses.asdict(us).items()} if us else {}


def _layer_rows(profile):
    common = _common(profile) | {"method": profile.method}
    for layer in profile.layers:
        fields = {name: getattr(layer, name) for name in _LAYER}
        yield common | fields | {"operators": " ".join(map(str, layer.operators))} | _times(layer.us)
    if profile.overhead_us is not None:
        share = profile.overhead_us / profile.total.median
        yield common | {"name": OVERHEAD, "kind": "other", "typical_us": profile.overhead_us, "share": share}


def markdown(benchmark, ratios=()):
    """Return a heading and a table for every profile, then the ratios of files that were measured in turns."""
    parts = [_profile(profile) for profile in benchmark.profiles]
    if ratios:
        rows = [
            [each.file, each.base, str(each.threads), f"{each.ratio:.3f}", f"{each.low:.3f} to {each.high:.3f}"]
            for each in ratios
        ]
        columns = ("file", "against", "threads", "time ratio", "95 % interval")
        parts.append(markdown_table(columns, rows, right=columns[2:4]))
    warnings = [f"- {printable(warning)}" for warning in benchmark.warnings]
    return "\n\n".join([*parts, *(["\n".join(warnings)] if warnings else [])])


def _profile(profile):
    total, host = profile.total, profile.host
    interval = "" if total.low is None else f" (95 % interval {total.low:,.1f} to {total.high:,.1f})"
    threads = f"{profile.threads} thread{'s' if profile.threads > 1 else ''}"
    notes = "".join(f" {printable(note)}." for note in profile.notes)
    lines = [
        f"**{printable(profile.file)}**: median {total.median:,.1f} us{interval}, {profile.runs:,} runs, {threads}, "
        f"{printable(host['cpu'])}, LiteRT {host['litert']}.{notes}"
    ]
    if profile.layers:
        rows = [_row(layer) for layer in profile.layers]
        overhead = profile.overhead_us
        rows.append([OVERHEAD, f"{overhead:,.1f}", f"{overhead / total.median:.1%}", *[""] * (len(_SHOWN) - 3)])
        lines += [f"Layers by {profile.method}:", markdown_table(_SHOWN, rows, right=_NUMBERS)]
    return "\n\n".join(lines)


def _row(layer):
    return [
        layer.name,
        "" if layer.us is None else f"{layer.us.typical:,.1f}",
        "" if layer.share is None else f"{layer.share:.1%}",
        "" if layer.macs is None else f"{layer.macs:,}",
        "" if layer.gmacs_per_s is None else f"{layer.gmacs_per_s:.2f}",
        f"{layer.bytes:,}",
        layer.kind,
        layer.role or "",
        layer.kernel or "",
    ]
