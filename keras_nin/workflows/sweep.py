"""A sweep of single convolutions over a grid: exported, timed, and kept in a CSV file."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import figures, files
from keras_nin.benchmark.sweep import SweepGrid, measure_sweep, pending_sites
from keras_nin.benchmark.sweep_results import ConvLayer, SweepPoint, SweepRow, identify_machine, read_sweep
from keras_nin.files import AnyPath
from keras_nin.formatting import format_count
from keras_nin.results import Result
from keras_nin.workflows import SILENT, Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CALIBRATION_COUNT = 4


@dataclasses.dataclass(frozen=True, repr=False)
class SweepResult(Result):
    """Every row of a sweep's CSV file.

    Attributes:
        rows: `keras_nin.benchmark.sweep_results.SweepRow` by point.
        path: of the CSV file.
        measured, reused: number of points that this run measured, and that were in the file already.
    """

    rows: Mapping[SweepPoint, SweepRow]
    host: dict[str, Any]
    path: pathlib.Path
    measured: int
    reused: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the sweep as a JSON-ready dictionary (schema ``keras_nin.sweep/1``)."""
        from keras_nin.report.comparisons import sweep_to_json

        return sweep_to_json(self.rows, self.host)

    def plot(self) -> Figure:
        """Return a figure of the time of larger kernels, and of channel counts that are not a multiple of 8."""
        from keras_nin.benchmark.sweep_results import compute_alignment_costs, compute_kernel_ratios
        from keras_nin.plots.sweeps import plot_layer_sweep

        return plot_layer_sweep(compute_kernel_ratios(self.rows), compute_alignment_costs(self.rows), self.host)

    def _summary(self) -> str:
        return f"{format_count(len(self.rows), 'point')} in {self.path}, {self.measured} measured now"

    def _rows(self) -> list[dict[str, Any]]:
        return [
            dataclasses.asdict(row.point.layer)
            | {"scheme": row.point.scheme, "threads": row.point.threads, "us": row.us}
            for row in self.rows.values()
        ]


def sweep_convolutions(
    size: Sequence[int] = (7, 14, 28, 56),
    cin: Sequence[int] = (64, 256),
    cout: Sequence[int] = (63, 64, 65),
    kernel: Sequence[int] = (1, 3),
    scheme: Sequence[str] = ("float32", "int8"),
    threads: Sequence[int] = (1,),
    *,
    seconds: float = 0.5,
    seed: int = 0,
    out: AnyPath = "sweep.csv",
    plot: AnyPath | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> SweepResult:
    """Time single convolutions over a grid: 1x1 against larger kernels, and odd channel counts.

    The CSV file is complete after every group; a later call with the same or a larger grid continues it.

    Args:
        size, cin, cout, kernel: heights and widths of the feature map, input channels, filters, and heights and widths
            of the kernel, odd.
        scheme, threads: float32 and int8; numbers of threads of the runtime.
        seconds: the longest that a point is measured, once it is warm.
        seed: of the order, the weights and the noise.
        out, plot: paths of the CSV file and for a PNG figure.
        force: measure everything again, and replace the CSV file.
        progress: what reports the progress.

    Raises:
        InputError: a grid out of range, a path that cannot be written to, or rows of another machine in the CSV file.
    """
    from keras_nin.tflite.host import describe_host

    points = SweepGrid(tuple(size), tuple(cin), tuple(cout), tuple(kernel), tuple(scheme), tuple(threads)).points()
    path = files.check_output_file(out, ".csv", argument="out")
    figure = None if plot is None else files.check_output_file(plot, ".png", argument="plot")
    host = describe_host()
    machine = identify_machine(host)
    rows = {} if force else read_sweep(path, machine)
    missing = len(points) - sum(point in rows for point in points)
    if pending_sites(points, rows, seed):
        from keras_nin.workflows.backends import start_keras

        start_keras(progress)
        points_text, done = format_count(missing, "point"), 0
        with progress.task(f"Sweeping {points_text}") as update:

            def advance(count: int) -> None:
                nonlocal done
                done += count
                if update is not None:
                    update(f"Sweeping: {done} of {points_text}")

            rows = measure_sweep(
                points,
                path,
                machine,
                export_layer=export_layer,
                rows=rows,
                seed=seed,
                seconds=seconds,
                on_group=advance,
            )
    result = SweepResult(rows, host, path, missing, len(points) - missing)
    if figure is not None:
        files.write_file(figure, figures.render_png(result.plot()))
    return result


def export_layer(layer: ConvLayer, schemes: Sequence[str], folder: pathlib.Path, seed: int) -> dict[str, pathlib.Path]:
    """Export a convolution with random weights, int8 calibrated with noise; return the paths of its files by scheme."""
    import keras

    from keras_nin.data.named_datasets import open_noise
    from keras_nin.export import convert_schemes, load_calibration

    shape = (layer.size, layer.size, layer.cin)
    keras.backend.clear_session()
    inputs = keras.Input(shape, name="input")
    initializer: Any = keras.initializers.GlorotUniform(seed)
    convolution = keras.layers.Conv2D(
        layer.cout, layer.kernel, padding="same", kernel_initializer=initializer, name="conv"
    )
    model = keras.Model(inputs, convolution(inputs), name="single")
    calibration = load_calibration(open_noise(shape, seed), shape, count=_CALIBRATION_COUNT, seed=seed)
    paths = {}
    for scheme, converted in zip(schemes, convert_schemes(model, schemes, calibration), strict=True):
        name = f"conv{layer.kernel}x{layer.kernel}_{layer.cin}to{layer.cout}_at{layer.size}_{scheme}.tflite"
        paths[scheme] = folder / name
        paths[scheme].write_bytes(converted.data)
    return paths
