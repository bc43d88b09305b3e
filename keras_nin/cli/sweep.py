"""`keras-nin sweep`: single convolutions over a grid, made, exported and timed."""

import contextlib
import pathlib
import sys
import types

import click

from keras_nin.cli import options
from keras_nin.errors import InputError


def _numbers(name, default, text):
    return click.option(name, type=options.Counts("7,14,28"), default=default, show_default=True, help=text)


@click.command(
    "sweep",
    short_help="Time single convolutions over a grid: 1x1 against larger.",
    epilog="Example: keras-nin sweep --size 7,14 --cin 64 --cout 63,64 --plot sweep.png",
)
@_numbers("--size", "7,14,28,56", "Height and width of the map.")
@_numbers("--cin", "64,256", "Channels in.")
@_numbers("--cout", "63,64,65", "Channels out, the filters.")
@_numbers("--kernel", "1,3", "Height and width of the kernel, odd.")
@click.option("--scheme", metavar="S,...", default="float32,int8", show_default=True, help="float32, int8 or both.")
@_numbers("--threads", "1", "Threads of the runtime.")
@click.option(
    "--seconds",
    type=options.Number(0.01, 600),
    metavar="S",
    default=0.5,
    show_default=True,
    help="Longest time for each point, once it is warm.",
)
@click.option(
    "--seed", type=options.SEED, metavar="N", default=0, show_default=True, help="Of the order, weights and noise."
)
@click.option(
    "--out", metavar="FILE.csv", default="sweep.csv", show_default=True, help="The rows; what is there already is kept."
)
@click.option("--plot", metavar="FILE.png", help="A picture of what the rows show.")
@click.option("--force", is_flag=True, help="Measure everything anew, and replace the CSV file.")
@options.json_option
def command(**arguments):
    """Time single convolutions over a grid, inside the runtime: 1x1 against larger kernels, and odd channel counts.

    Each is a layer with padding "same" and stride 1, made in Keras with random weights and exported; int8 is calibrated
    with noise, so the files are for latency only. Layers that are compared, those that differ in their kernel or have
    channel counts around one multiple of 8, take turns while they are measured; the order of these groups is random.

    The CSV file is complete after every group: interrupt the command and call it again, or with a larger grid, and it
    goes on. Rows of another machine or other versions are not mixed with new ones: the command refuses such a file. The
    table is of all rows in the file.
    """
    return _run(types.SimpleNamespace(**arguments))


def _run(given):
    from keras_nin import files
    from keras_nin.benchmark import grid, sweep_rows
    from keras_nin.benchmark.sweep import pending
    from keras_nin.cli import stages
    from keras_nin.report import sweep as report
    from keras_nin.tflite.host import host

    points = grid.Grid(
        given.size, given.cin, given.cout, given.kernel, tuple(given.scheme.split(",")), given.threads
    ).points()
    path = _checked(given.out, ".csv")
    picture = None if given.plot is None else _checked(given.plot, ".png")
    machine = host()
    who = sweep_rows.identity(machine)
    rows = {} if given.force else sweep_rows.read(path, who)
    if pending(points, rows, given.seed):
        rows = _sweep(given, points, path, who, rows)
    else:
        stages.note(f"nothing to do: all {len(points)} points are in {path}")
    if given.as_json:
        stages.print_json(report.to_json(rows, machine))
    else:
        click.echo(report.text(rows, machine))
    if picture is not None:
        from keras_nin.report.sweep_plot import png

        files.write(picture, png(rows, machine))
        stages.note(f"written: {picture}")
    return 0


def _sweep(given, points, path, who, rows):
    from keras_nin.benchmark.sweep import sweep
    from keras_nin.cli import stages

    stages.start_keras()
    done = sum(point in rows for point in points)
    if done:
        stages.note(f"going on: {done} of {len(points)} points are in {path}")
    try:
        with _bar(len(points) - done) as advance:
            made = sweep(
                points, path, who, rows=rows, seed=given.seed, seconds=given.seconds, on_group=advance
            )  # fmt: skip
    except KeyboardInterrupt:
        kept = "what was measured is in it; the same command goes on" if path.exists() else "nothing was measured"
        stages.note(f"interrupted: {path}: {kept}")
        raise
    stages.note(f"written: {path}")
    return made


@contextlib.contextmanager
def _bar(total):
    """Yield a function that moves a progress bar by so many points; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("Sweeping"), progress.BarColumn(), progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(), progress.TimeRemainingColumn(),
    )  # fmt: skip
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=total)
        yield lambda count: shown.advance(task, count)


def _checked(name, ending):
    """Return the path of an output file; `InputError` where it has another ending or cannot be written."""
    from keras_nin.cli import stages

    path = pathlib.Path(name)
    if path.suffix.lower() != ending or path.is_dir():
        raise InputError(f"Expected a file name that ends in {ending}. Received: {name!r}")
    stages.check_output_folder(path.parent)
    return path
