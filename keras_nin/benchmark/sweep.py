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
from keras_nin.errors import InputError, check_choice

SWEEP_SCHEMES = ("float32", "int8")
SECONDS_PER_POINT = 0.5
_MAXIMUM = {"size": 1024, "cin": 8192, "cout": 8192, "kernel": 15, "threads": 256}

# Exports a layer in some schemes to files in a folder, with weights of a seed: (layer, schemes, folder, seed).
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
        for field in dataclasses.fields(self):
            name = field.name
            values = tuple(dict.fromkeys(getattr(self, name)))
            object.__setattr__(self, name, values)
            if not values:
                raise InputError(f"Expected at least one `{name}`. Received: none", argument=name)
            for value in values:
                if name == "scheme":
                    check_choice(name, value, SWEEP_SCHEMES)
                elif not isinstance(value, int) or not 1 <= value <= _MAXIMUM[name]:
                    raise InputError(
                        f"Expected `{name}` from 1 to {_MAXIMUM[name]}. Received: {value!r}",
                        argument=name,
                        received=value,
                    )
                elif name == "kernel" and value % 2 == 0:
                    raise InputError(
                        f"Expected `kernel` to be odd, so that it has a center. Received: {value}",
                        argument=name,
                        received=value,
                    )

    def points(self) -> list[SweepPoint]:
        """Return the points, sorted."""
        layers = itertools.starmap(ConvLayer, itertools.product(self.size, self.cin, self.cout, self.kernel))
        return sorted(itertools.starmap(SweepPoint, itertools.product(layers, self.scheme, self.threads)))


def order_sites(points: Iterable[SweepPoint], seed: int = 0) -> list[list[_Group]]:
    """Return the points as they are measured: a shuffled list of sites, each a shuffled list of groups.

    A group is a tuple of points that take turns while they are measured, because they are compared: layers on one map
    in one scheme on one number of threads that differ in their kernel, or in channel counts around one multiple of
    `CHANNEL_STEP`. The groups of a site are measured one after the other, from the same exported models.

    Args:
        points: in any order.
        seed: of the order, so that drift of the machine does not follow one of the axes.
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
    return sites


def pending_sites(
    points: Iterable[SweepPoint], rows: Mapping[SweepPoint, SweepRow], seed: int = 0
) -> list[list[_Group]]:
    """Return the sites (see `order_sites`), with only the groups that have a point which `rows` lacks.

    A group is measured whole or not at all: its points are compared, so they belong to the same minutes.
    """
    sites = [[group for group in site if not set(group) <= set(rows)] for site in order_sites(points, seed)]
    return [site for site in sites if site]


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
    """Measure the missing points of a grid, and keep the CSV file at `path` complete after every group.

    An interruption loses the group that was being measured, and nothing else.

    Args:
        points: of the grid.
        path: of the CSV file.
        machine: `keras_nin.benchmark.sweep_results.identify_machine` of this machine.
        export_layer: exports a layer; an `InputError` of it becomes the error of its points.
        rows: that are there already, as `read_sweep` returns them.
        seed: of the order and the weights.
        seconds: the longest that each point is measured, once it is warm.
        run: runs a job; `run` of an `open_device` for another machine.
        on_group: called with the number of points after each group.

    Returns:
        All rows by point.

    Raises:
        InputError: the file cannot be written.
    """
    rows = dict(rows or {})
    turn = 1 + max((row.turn for row in rows.values()), default=-1)
    for site in pending_sites(points, rows, seed):
        with files.temporary_folder() as folder:
            exported = _export_site(site, export_layer, pathlib.Path(folder), seed)
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
    schemes: dict[ConvLayer, list[str]] = {}
    for point in sorted(itertools.chain.from_iterable(site)):
        schemes.setdefault(point.layer, []).append(point.scheme)
    exported: _Exported = {}
    for layer, wanted in schemes.items():
        wanted = list(dict.fromkeys(wanted))
        try:
            exported |= {(layer, scheme): path for scheme, path in export_layer(layer, wanted, folder, seed).items()}
        except InputError as error:
            exported |= {(layer, scheme): error for scheme in wanted}
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
    try:
        result = measure_files(
            list(good.values()),
            threads=(next(iter(good)).threads,),
            seconds=seconds * len(good),
            interleave=True,
            run=run,
        )
    except InputError as error:
        if len(good) == 1:
            return [*rows, *(SweepRow(point, error=str(error)) for point in good)]
        # One of them does not run: each alone shows which.
        return rows + [row for point in good for row in _measure_group((point,), exported, seconds, run)]
    load = result.host["state"]["load_average"]
    return rows + [_build_row(point, profile, load) for point, profile in zip(good, result.profiles, strict=True)]


def _build_row(point: SweepPoint, profile: Profile, load: float | None) -> SweepRow:
    times = {layer.us.typical: layer.kernel for layer in profile.layers if layer.us and layer.kernel}
    return SweepRow(
        point=point,
        us=profile.total.median,
        low_us=profile.total.low,
        high_us=profile.total.high,
        kernel_us=total_kernel_us(profile),
        kernel_name=times[max(times)] if times else None,
        runs=profile.runs,
        converged=profile.converged,
        load=load,
    )
