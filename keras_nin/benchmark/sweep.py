"""Sweep over single convolutions: make each in Keras, export it, and time it beside those it is compared with."""

import dataclasses

from keras_nin import files
from keras_nin.benchmark import child, grid, sweep_rows
from keras_nin.benchmark.measure import measure
from keras_nin.benchmark.sweep_rows import Row
from keras_nin.errors import InputError

SECONDS = 0.5
_CALIBRATION_COUNT = 4


def pending(points, rows, seed=0):
    """Return the sites (see `grid.sites`) with the groups alone that have a point which `rows` (by point) lacks.

    A group is measured whole or not at all: its points are compared, so they belong to the same minutes.
    """
    sites = [[group for group in site if not set(group) <= set(rows)] for site in grid.sites(points, seed)]
    return [site for site in sites if site]


def sweep(points, path, who, *, rows=(), seed=0, seconds=SECONDS, run=child.run, on_group=None):
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
    rows = dict(rows)
    turn = 1 + max((row.turn for row in rows.values()), default=-1)
    for site in pending(points, rows, seed):
        with files.temporary_folder() as folder:
            made = _export_all(site, folder, seed)
            for group in site:
                for row in _measure_group(group, made, seconds, run):
                    rows[row.point] = dataclasses.replace(row, turn=turn)
                files.write(path, sweep_rows.to_csv(rows.values(), who))
                turn += 1
                if on_group:
                    on_group(len(group))
    return rows


def _export_all(site, folder, seed):
    """Return by (layer, scheme) the exported file of each point of a site, or the `InputError` that prevented it."""
    wanted = {}
    for point in (point for group in site for point in group):
        wanted.setdefault(point.layer, set()).add(point.scheme)
    made = {}
    for layer, schemes in wanted.items():
        made |= _export(layer, [scheme for scheme in grid.SCHEMES if scheme in schemes], folder, seed)
    return made


def _export(layer, schemes, folder, seed):
    from keras_nin.data.noise import noise
    from keras_nin.export import calibrate, export_all

    shape = (layer.size, layer.size, layer.cin)
    try:
        # Noise is all that a layer with random weights can be calibrated with; such a file is for latency only.
        calibration = calibrate(noise(shape, seed), shape, count=_CALIBRATION_COUNT, seed=seed)
        exports = export_all(_model(layer, seed), schemes, calibration)
    except InputError as error:
        return dict.fromkeys(((layer, scheme) for scheme in schemes), error)
    paths = {}
    for scheme, export in zip(schemes, exports, strict=True):
        name = f"conv{layer.kernel}x{layer.kernel}_{layer.cin}to{layer.cout}_at{layer.size}_{scheme}.tflite"
        paths[layer, scheme] = folder / name
        paths[layer, scheme].write_bytes(export.data)
    return paths


def _model(layer, seed):
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
    files_of = {point: made[point.layer, point.scheme] for point in group}
    rows = [Row(point, error=str(error)) for point, error in files_of.items() if isinstance(error, InputError)]
    good = {point: path for point, path in files_of.items() if not isinstance(path, InputError)}
    try:
        return rows + _together(good, seconds, run)
    except InputError as error:
        if len(good) == 1:
            return [*rows, *(Row(point, error=str(error)) for point in good)]
    # One of them cannot run: which one shows when each is alone.
    return rows + [row for point in good for row in _measure_group((point,), made, seconds, run)]


def _together(good, seconds, run):
    if not good:
        return []
    threads = next(iter(good)).threads
    made = measure(list(good.values()), threads=(threads,), seconds=seconds * len(good), interleave=True, run=run)
    load = made.host["state"]["load_average"]
    return [_row(point, profile, load) for point, profile in zip(good, made.profiles, strict=True)]


def kernel_us(profile):
    """Return the typical us inside all kernels of a `Profile`; None without a profiler."""
    return sum(layer.us.typical for layer in _kernels(profile)) or None


def _kernels(profile):
    return [layer for layer in profile.layers if layer.us is not None and layer.kernel is not None]


def _row(point, profile, load):
    longest = max(_kernels(profile), key=lambda layer: layer.us.typical, default=None)
    return Row(
        point=point,
        us=profile.total.median,
        low_us=profile.total.low,
        high_us=profile.total.high,
        kernel_us=kernel_us(profile),
        kernel_name=longest.kernel if longest else None,
        runs=profile.runs,
        converged=profile.converged,
        load=load,
    )
