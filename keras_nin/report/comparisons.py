"""Comparisons as text: layers with the roofline, two benchmarks, layer shapes, and outputs on several devices."""

from collections.abc import Iterator, Mapping
from typing import Any

from keras_nin import schemas
from keras_nin.benchmark import roofline, sweep_results
from keras_nin.benchmark.certification import HOST, KERNEL_NAMES, Certificate, CertifiedRun, CertifyResult
from keras_nin.benchmark.comparison import RunComparison
from keras_nin.benchmark.records import Profile
from keras_nin.benchmark.sweep import SweepPoint
from keras_nin.benchmark.sweep_results import SweepRow
from keras_nin.formatting import format_count, format_host
from keras_nin.report.rendering import Table, render_text

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


def format_certify(result: CertifyResult) -> str:
    """Return for each file the matrix of devices and kernels, and what differs where."""
    parts = [
        "\n".join([certificate_heading(file), str(certificate_table(file, result.kernels)), *certificate_lines(file)])
        for file in result.files
    ]
    return "\n\n".join([*parts, "\n".join(certified_device_lines(result))])


def certificate_heading(file: Certificate) -> str:
    """Return the file, its images and how many operators were compared."""
    counts = f"{format_count(file.images, 'image')} of {file.data}, {format_count(file.operators, 'operator')}"
    return f"{file.file}: {counts} compared"


def certificate_table(file: Certificate, kernels: tuple[str, ...]) -> Table:
    """Return the matrix of devices and kernels."""
    devices = dict.fromkeys(run.device for run in file.runs)
    rows = [
        (device, *(_format_run(file.run(device, name), name == kernels[0]) for name in kernels)) for device in devices
    ]
    return Table(("device", *(KERNEL_NAMES[name] for name in kernels)), (), tuple(rows))


def _format_run(run: CertifiedRun, is_first: bool) -> str:
    if run.error is not None:
        return "not run"
    if run.device == HOST and is_first:
        return "baseline"
    if run.bit_exact:
        return "bit-exact"
    changes = "" if run.top1_changes is None else f", top-1 changes {run.top1_changes}"
    return f"{_format_steps(run.max_lsb)}{changes}"


def _format_steps(steps: float | None) -> str:
    return "differs" if steps is None else f"{steps:.3g} LSB"


def certificate_lines(file: Certificate) -> Iterator[str]:
    """Yield a line for each run that differs, with the first operator that does, and for each that failed."""
    for run in file.runs:
        name = f"{run.device}, {KERNEL_NAMES[run.kernels]}"
        if run.error is not None:
            yield f"{name}: not run: {run.error}"
            continue
        outputs = "outputs are bit-exact"
        if not run.bit_exact:
            images = f"{run.differing_images} of {format_count(file.images, 'image')}"
            outputs = f"outputs differ on {images}, max abs diff {_format_steps(run.max_lsb)}"
        first = run.first_operator
        if first is not None:
            others = f", the first of {first.count} operators that differ" if first.count > 1 else ""
            operator = f"operator {first.index} {first.op} {first.name} ({_format_steps(first.max_lsb)})"
            yield f"{name}: {outputs}; {operator}{others}"
        elif not run.bit_exact:
            yield f"{name}: {outputs}; which operator is the first to differ is unknown"


def certified_device_lines(result: CertifyResult) -> Iterator[str]:
    """Yield what the figures mean, and the devices."""
    yield (
        "Each device is compared with the host in the same kernels, the host with its first column. LSB = one "
        "quantization step; of floats 1/255 of their range."
    )
    for device, host in result.devices.items():
        yield f"{device}: {format_host(host)}"
