"""A sweep over single convolutions: which are measured together, and in which order."""

import dataclasses
import itertools
import pathlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from keras_nin import files
from keras_nin.benchmark.job import RunJob
from keras_nin.benchmark.layer_times import total_kernel_us
from keras_nin.benchmark.measurement import measure_files, run_job
from keras_nin.benchmark.records import Profile
from keras_nin.benchmark.sweep_results import ConvLayer, SweepPoint, SweepRow, format_sweep_csv, nearest_aligned
from keras_nin.errors import InputError, check_choice, expected_error

SWEEP_SCHEMES = ("float32", "int8")
SECONDS_PER_POINT = 0.5
_MAXIMUM = {"size": 1024, "cin": 8192, "cout": 8192, "kernel": 15, "threads": 256}

# Exports (layer, schemes, folder, seed) to files in the folder, with weights of the seed; returns them by scheme.
ExportLayer = Callable[[ConvLayer, Sequence[str], pathlib.Path, int], Mapping[str, pathlib.Path]]
_Group = tuple[SweepPoint, ...]
_Exported = dict[tuple[ConvLayer, str], pathlib.Path | InputError]


@dataclasses.dataclass(frozen=True)
class SweepGrid:
    """All combinations of the listed values."""

    size: tuple[int, ...]
    cin: tuple[int, ...]
    cout: tuple[int, ...]
    kernel: tuple[int, ...] = (1, 3)
    scheme: tuple[str, ...] = SWEEP_SCHEMES
    threads: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        for name, values in vars(self).copy().items():
            values = tuple(dict.fromkeys(values))
            object.__setattr__(self, name, values)
            if not values:
                raise InputError(f"Expected at least one `{name}`. Received: none", argument=name)
            for value in values:
                if name == "scheme":
                    check_choice(name, value, SWEEP_SCHEMES)
                elif not isinstance(value, int) or not 1 <= value <= _MAXIMUM[name]:
                    raise expected_error(name, f"from 1 to {_MAXIMUM[name]}", value)
                elif name == "kernel" and value % 2 == 0:
                    raise expected_error(name, "to be odd, so that it has a center", value)

    def points(self) -> list[SweepPoint]:
        """Return the points, sorted."""
        layers = itertools.starmap(ConvLayer, itertools.product(self.size, self.cin, self.cout, self.kernel))
        return sorted(itertools.starmap(SweepPoint, itertools.product(layers, self.scheme, self.threads)))


def pending_sites(
    points: Iterable[SweepPoint], rows: Mapping[SweepPoint, SweepRow], seed: int = 0
) -> list[list[_Group]]:
    """Return the points as they are measured: a shuffled list of sites, each a shuffled list of groups.

    The points of a group take turns while they are measured, because they are compared: layers on one map in one scheme
    on one number of threads that differ in their kernel, or in channel counts around one multiple of `CHANNEL_STEP`.
    The groups of a site share exported models. By the random order, drift of the machine follows none of the axes.
    Groups whose points are all in `rows` are left out; the others are measured whole.
    """
    rng = random.Random(seed)
    grouped: dict[tuple[int, int, int], dict[tuple[str, int], list[SweepPoint]]] = {}
    for point in sorted(points):
        layer = point.layer
        site = layer.size, nearest_aligned(layer.cin), nearest_aligned(layer.cout)
        grouped.setdefault(site, {}).setdefault((point.scheme, point.threads), []).append(point)
    sites = [[tuple(group) for group in groups.values()] for groups in grouped.values()]
    for groups in sites:
        rng.shuffle(groups)
    rng.shuffle(sites)
    pending = ([group for group in site if not set(group) <= rows.keys()] for site in sites)
    return [site for site in pending if site]


def measure_sweep(
    points: Iterable[SweepPoint],
    path: pathlib.Path,
    machine: Mapping[str, str],
    *,
    export_layer: ExportLayer,
    rows: Mapping[SweepPoint, SweepRow] | None = None,
    seed: int = 0,
    seconds: float = SECONDS_PER_POINT,
    run: RunJob = run_job,
    on_group: Callable[[int], object] | None = None,
) -> dict[SweepPoint, SweepRow]:
    """Measure the missing points of a grid, and return all rows: those of the CSV file at `path` (`rows`) and the new.

    The file is complete after every group: an interruption loses the group that was being measured. An `InputError` of
    `export_layer` becomes the error of its points. `seed` is that of the order and the weights, `seconds` the longest
    that each point is measured, once it is warm; `on_group` is called with the number of points after each group.
    """
    rows = dict(rows or {})
    turn = 1 + max((row.turn for row in rows.values()), default=-1)
    for site in pending_sites(points, rows, seed):
        with files.temporary_folder() as folder:
            exported = _export_site(site, export_layer, folder, seed)
            for group in site:
                for row in _measure_group(group, exported, seconds, run):
                    rows[row.point] = dataclasses.replace(row, turn=turn)
                files.write_file(path, format_sweep_csv(rows.values(), machine))
                turn += 1
                if on_group:
                    on_group(len(group))
    return rows


def _export_site(site: Iterable[_Group], export_layer: ExportLayer, folder: pathlib.Path, seed: int) -> _Exported:
    """Return by (layer, scheme) the exported file of each point of a site, or the error that prevented it."""
    schemes: dict[ConvLayer, dict[str, None]] = {}
    for point in sorted(itertools.chain.from_iterable(site)):
        schemes.setdefault(point.layer, {})[point.scheme] = None
    exported: _Exported = {}
    for layer, wanted in schemes.items():
        try:
            paths = export_layer(layer, list(wanted), folder, seed)
        except InputError as error:
            paths = dict.fromkeys(wanted, error)
        exported |= {(layer, scheme): path for scheme, path in paths.items()}
    return exported


def _measure_group(group: Iterable[SweepPoint], exported: _Exported, seconds: float, run: RunJob) -> list[SweepRow]:
    """Return the row of each point; one that is not exported or does not run has an error, and spoils no other."""
    rows, good = [], {}
    for point in group:
        file = exported[point.layer, point.scheme]
        if isinstance(file, InputError):
            rows.append(SweepRow(point, error=str(file)))
        else:
            good[point] = file
    if not good:
        return rows
    threads, total_seconds = (next(iter(good)).threads,), seconds * len(good)
    try:
        result = measure_files(list(good.values()), threads=threads, seconds=total_seconds, interleave=True, run=run)
    except InputError as error:
        if len(good) == 1:
            return [*rows, *(SweepRow(point, error=str(error)) for point in good)]
        # One of them does not run: each alone shows which.
        return rows + [row for point in good for row in _measure_group((point,), exported, seconds, run)]
    load = result.host["state"]["load_average"]
    return rows + [_build_row(point, profile, load) for point, profile in zip(good, result.profiles, strict=True)]


def _build_row(point: SweepPoint, profile: Profile, load: float | None) -> SweepRow:
    times = {layer.us.typical: layer.kernel for layer in profile.layers if layer.us and layer.kernel}
    us = (profile.total.median, profile.total.low, profile.total.high, total_kernel_us(profile))
    return SweepRow(point, *us, times[max(times)] if times else None, profile.runs, profile.converged, load)
