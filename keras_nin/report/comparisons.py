"""Measurements in comparison, as text: layers with the roofline, a benchmark with an earlier one, and layer shapes."""

from collections.abc import Mapping
from typing import Any

from keras_nin import schemas
from keras_nin.benchmark import roofline, sweep_results
from keras_nin.benchmark.comparison import RunComparison
from keras_nin.benchmark.records import Profile
from keras_nin.benchmark.sweep import SweepPoint
from keras_nin.benchmark.sweep_results import SweepRow
from keras_nin.report.rendering import render_text

_MAX_CHANGED_LAYERS = 10


def format_roofline(profile: Profile) -> str:
    """Return the layers of a profile with peaks on the roofline, and the 1x1 layers next to the other kinds."""
    efficiencies = roofline.compute_efficiency(profile)
    if not efficiencies:
        return f"{profile.file}: no roofline, because no layer has MACs, a time and a measured peak."
    placed = [efficiency.layer for efficiency in efficiencies]
    missing = [layer.name for layer in profile.layers if layer.macs and layer not in placed]
    cached = sum(efficiency.bound == roofline.CACHE for efficiency in efficiencies)
    kinds = roofline.summarize_efficiency(efficiencies)
    return render_text("comparisons.j2", "roofline", profile, efficiencies, kinds, missing, cached)


def format_run_comparison(comparison: RunComparison) -> str:
    """Return two benchmarks side by side: the files, and the layers that changed."""
    return render_text("comparisons.j2", "runs", comparison, _MAX_CHANGED_LAYERS)


def format_sweep(rows: Mapping[SweepPoint, SweepRow], host: Mapping[str, Any]) -> str:
    """Return the table of a sweep over layer shapes, and its findings.

    Args:
        rows: what was measured, by point.
        host: the machine.
    """
    ordered, failed = [rows[point] for point in sorted(rows)], [row for row in rows.values() if row.error]
    return render_text("comparisons.j2", "sweep", ordered, failed, host, sweep_results.format_findings(rows))


def sweep_to_json(rows: Mapping[SweepPoint, SweepRow], host: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sweep as a JSON-ready dictionary (schema ``keras_nin.sweep/1``); arguments as in `format_sweep`."""
    return {
        "schema": schemas.SWEEP,
        "host": host,
        "rows": [_sweep_row_to_json(rows[point]) for point in sorted(rows)],
        "findings": list(sweep_results.format_findings(rows)),
    }


def _sweep_row_to_json(row: SweepRow) -> dict[str, Any]:
    measured = ("gmacs_per_s", "kernel_us", "kernel_name", "runs", "converged", "load", "turn", "error")
    return {
        **{key: getattr(row.point.layer, key) for key in ("size", "cin", "cout", "kernel")},
        "scheme": row.point.scheme,
        "threads": row.point.threads,
        "macs": row.point.layer.macs,
        "us": {"median": row.us, "low": row.low_us, "high": row.high_us},
        **{key: getattr(row, key) for key in measured},
    }
