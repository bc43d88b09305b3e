"""The points of a sweep: single convolutions, and which of them are measured together."""

import dataclasses
import itertools
import random

from keras_nin import files
from keras_nin.benchmark import measurement
from keras_nin.benchmark.measurement import measure_files
from keras_nin.errors import InputError

SWEEP_SCHEMES = ("float32", "int8")
CHANNEL_STEP = 8  # channels that the runtime's kernels take at once, or a divisor of that
MAX_SIZE, MAX_CHANNELS = 1024, 8192


@dataclasses.dataclass(frozen=True, order=True)
class ConvLayer:
    """A convolution with padding "same" and stride 1 on a map `size` x `size` x `cin`, with `cout` filters."""

    size: int
    cin: int
    cout: int
    kernel: int

    @property
    def macs(self):
        """Multiply-accumulates, counted at every position of the output; those on padding are among them."""
        return self.size**2 * self.kernel**2 * self.cin * self.cout


@dataclasses.dataclass(frozen=True, order=True)
class SweepPoint:
    """A layer in one scheme on one number of threads."""

    layer: ConvLayer
    scheme: str
    threads: int


@dataclasses.dataclass(frozen=True)
class SweepGrid:
    """All combinations of what is listed.

    Raises:
        InputError: an empty list, an unknown scheme, an even kernel, or a number out of range.
    """

    size: tuple[int, ...]
    cin: tuple[int, ...]
    cout: tuple[int, ...]
    kernel: tuple[int, ...] = (1, 3)
    scheme: tuple[str, ...] = SWEEP_SCHEMES
    threads: tuple[int, ...] = (1,)

    def __post_init__(self):
        limits = {"size": MAX_SIZE, "cin": MAX_CHANNELS, "cout": MAX_CHANNELS, "kernel": 15, "threads": 256}
        for field in dataclasses.fields(self):
            values = tuple(dict.fromkeys(getattr(self, field.name)))
            object.__setattr__(self, field.name, values)
            if not values:
                raise InputError(f"Expected at least one `{field.name}`. Received: none")
            for value in values if field.name in limits else ():
                if not isinstance(value, int) or not 1 <= value <= limits[field.name]:
                    raise InputError(f"Expected `{field.name}` from 1 to {limits[field.name]}. Received: {value!r}")
        for kernel in self.kernel:
            if kernel % 2 == 0:
                raise InputError(f"Expected odd kernels, which have a middle. Received: {kernel}")
        for scheme in self.scheme:
            if scheme not in SWEEP_SCHEMES:
                raise InputError(f"Expected `scheme` to be one of {', '.join(SWEEP_SCHEMES)}. Received: {scheme!r}")

    def points(self):
        """Return the points, sorted."""
        layers = itertools.starmap(ConvLayer, itertools.product(self.size, self.cin, self.cout, self.kernel))
        return sorted(itertools.starmap(SweepPoint, itertools.product(layers, self.scheme, self.threads)))


def nearest_aligned(channels):
    """Return the multiple of `STEP` that a number of channels is compared with: the nearest one, the upper of two."""
    return max(CHANNEL_STEP, (channels + CHANNEL_STEP // 2) // CHANNEL_STEP * CHANNEL_STEP)


def order_sites(points, seed=0):
    """Return the points as they are measured: a shuffled list of sites, each a shuffled list of groups.

    A group is a tuple of points that take turns while they are measured, since they are compared with one another:
    layers on one map in one scheme on one number of threads, that differ in their kernel, or in channel counts around
    one multiple of `STEP`. The groups of a site are measured one after the other, from the same exported models.

    Args:
        points: `Point`s.
        seed: of the order, so that what drifts on the machine does not follow one of the axes.
    """
    shuffled = random.Random(seed)
    found = {}
    for point in sorted(points):
        site, group = _layer_site(point.layer), (point.scheme, point.threads)
        found.setdefault(site, {}).setdefault(group, []).append(point)
    ordered = [[tuple(group) for group in groups.values()] for groups in found.values()]
    for groups in ordered:
        shuffled.shuffle(groups)
    shuffled.shuffle(ordered)
    return ordered


def _layer_site(layer):
    return layer.size, nearest_aligned(layer.cin), nearest_aligned(layer.cout)


# MERGED Sweep over single convolutions: make each in Keras, export it, and time it beside those it is compared with.

SECONDS_PER_POINT = 0.5
_CALIBRATION_COUNT = 4


def pending_sites(points, rows, seed=0):
    """Return the sites (see `grid.sites`) with the groups alone that have a point which `rows` (by point) lacks.

    A group is measured whole or not at all: its points are compared, so they belong to the same minutes.
    """
    sites = [[group for group in site if not set(group) <= set(rows)] for site in order_sites(points, seed)]
    return [site for site in sites if site]


def measure_sweep(
    points, path, who, *, rows=(), seed=0, seconds=SECONDS_PER_POINT, run=measurement.run_job, on_group=None
):
    """Measure what is missing of a grid, and keep the CSV file at `path` complete after every group.

    An interruption loses the group that was being measured, and nothing else.

    Args:
        points: `grid.Point`s.
        path: of the CSV file, a `pathlib.Path`.
        who: `sweep_rows.identity` of the machine.
        rows: `Row`s by point that are there already, as `sweep_rows.read` returns them.
        seed: of the order, the weights and the calibration noise.
        seconds: the longest that measuring takes for each point, once it is warm.
        run: what carries a job out.
        on_group: function of the number of points done in a group, called after each; None for none.

    Returns:
        Dictionary of all `Row`s by point.

    Raises:
        InputError: the file cannot be written.
    """
    from keras_nin.benchmark.sweep_results import format_sweep_csv

    rows = dict(rows)
    turn = 1 + max((row.turn for row in rows.values()), default=-1)
    for site in pending_sites(points, rows, seed):
        with files.temporary_folder() as folder:
            made = _export_site(site, folder, seed)
            for group in site:
                for row in _measure_group(group, made, seconds, run):
                    rows[row.point] = dataclasses.replace(row, turn=turn)
                files.write_file(path, format_sweep_csv(rows.values(), who))
                turn += 1
                if on_group:
                    on_group(len(group))
    return rows


def _export_site(site, folder, seed):
    """Return by (layer, scheme) the exported file of each point of a site, or the `InputError` that prevented it."""
    wanted = {}
    for point in (point for group in site for point in group):
        wanted.setdefault(point.layer, set()).add(point.scheme)
    made = {}
    for layer, schemes in wanted.items():
        made |= _export_layer(layer, [scheme for scheme in SWEEP_SCHEMES if scheme in schemes], folder, seed)
    return made


def _export_layer(layer, schemes, folder, seed):
    from keras_nin.data.named_datasets import open_noise
    from keras_nin.export import convert_schemes, load_calibration

    shape = (layer.size, layer.size, layer.cin)
    try:
        # Noise is all that a layer with random weights can be calibrated with; such a file is for latency only.
        calibration = load_calibration(open_noise(shape, seed), shape, count=_CALIBRATION_COUNT, seed=seed)
        exports = convert_schemes(_build_layer_model(layer, seed), schemes, calibration)
    except InputError as error:
        return dict.fromkeys(((layer, scheme) for scheme in schemes), error)
    paths = {}
    for scheme, export in zip(schemes, exports, strict=True):
        name = f"conv{layer.kernel}x{layer.kernel}_{layer.cin}to{layer.cout}_at{layer.size}_{scheme}.tflite"
        paths[layer, scheme] = folder / name
        paths[layer, scheme].write_bytes(export.data)
    return paths


def _build_layer_model(layer, seed):
    import keras

    keras.backend.clear_session()
    inputs = keras.Input((layer.size, layer.size, layer.cin), name="input")
    initializer = keras.initializers.GlorotUniform(seed)
    convolution = keras.layers.Conv2D(
        layer.cout, layer.kernel, padding="same", kernel_initializer=initializer, name="conv"
    )
    return keras.Model(inputs, convolution(inputs), name="single")


def _measure_group(group, made, seconds, run):
    """Return the `Row` of each point: one that does not export or run gives its reason, and spoils no other."""
    from keras_nin.benchmark.sweep_results import SweepRow

    files_of = {point: made[point.layer, point.scheme] for point in group}
    rows = [SweepRow(point, error=str(error)) for point, error in files_of.items() if isinstance(error, InputError)]
    good = {point: path for point, path in files_of.items() if not isinstance(path, InputError)}
    try:
        return rows + _measure_interleaved(good, seconds, run)
    except InputError as error:
        if len(good) == 1:
            return [*rows, *(SweepRow(point, error=str(error)) for point in good)]
    # One of them cannot run: which one shows when each is alone.
    return rows + [row for point in good for row in _measure_group((point,), made, seconds, run)]


def _measure_interleaved(good, seconds, run):
    if not good:
        return []
    threads = next(iter(good)).threads
    made = measure_files(list(good.values()), threads=(threads,), seconds=seconds * len(good), interleave=True, run=run)
    load = made.host["state"]["load_average"]
    return [_build_row(point, profile, load) for point, profile in zip(good, made.profiles, strict=True)]


def total_kernel_us(profile):
    """Return the typical us inside all kernels of a `Profile`; None without a profiler."""
    return sum(layer.us.typical for layer in _timed_kernels(profile)) or None


def _timed_kernels(profile):
    return [layer for layer in profile.layers if layer.us is not None and layer.kernel is not None]


def _build_row(point, profile, load):
    from keras_nin.benchmark.sweep_results import SweepRow

    longest = max(_timed_kernels(profile), key=lambda layer: layer.us.typical, default=None)
    return SweepRow(
        point=point,
        us=profile.total.median,
        low_us=profile.total.low,
        high_us=profile.total.high,
        kernel_us=total_kernel_us(profile),
        kernel_name=longest.kernel if longest else None,
        runs=profile.runs,
        converged=profile.converged,
        load=load,
    )
