"""`keras-nin report`: all that is known of some files as one HTML page, and the plots alone as PNG files."""

import pathlib

import click

from keras_nin.cli import options
from keras_nin.errors import InputError

_READ = (".tflite", ".json", ".csv")


@click.command(
    "report",
    short_help="Write all that is known of files as one HTML page.",
    epilog="Example: keras-nin report exported/nin_digits_int8.tflite benchmark.json -o report.html",
)
@click.argument("given", nargs=-1, required=True, metavar="FILE|JSON|CSV|MODEL...")
@click.option("-o", "--out", metavar="FILE.html", help="Where the page goes.")
@click.option("--png", metavar="DIR", help="Save the plots as PNG files in this folder.")
@options.force_option
def command(given, out, png, force):
    """Write all that is known of some files as one HTML page that needs no network and runs no script.

    A .tflite file is audited and judged for the Edge TPU, without TensorFlow; the .json that `keras-nin export` left
    beside it adds how it was made and its parity. A MODEL is audited as built. JSON is what other commands print or
    write: of audit, export, evaluate, claims, compare-runs, fit and edgetpu, and of benchmark, ethosu and micro, which
    are joined to their .tflite file by the file's hash. CSV is that of `keras-nin sweep`.

    \b
    More examples:
      keras-nin benchmark a.tflite --json > a_host.json
      keras-nin report a.tflite a_host.json -o report.html --png plots
    """
    out, png = _places(out, png)
    from keras_nin import files
    from keras_nin.benchmark.records import Benchmark
    from keras_nin.cli import stages
    from keras_nin.report import html, subjects
    from keras_nin.report.documents import Sweep

    stages.check_output_folder(out.parent if out else png)
    found = [item for each in given for item in _read(each)]
    warnings = [warning for item in found if isinstance(item, Benchmark) for warning in item.warnings]
    sweeps = [item for item in found if isinstance(item, Sweep)]
    gathered = subjects.gather(found)
    contents = {}
    with stages.working("Drawing"):
        if out:
            contents[out] = html.page(gathered, others=found, warnings=warnings).encode()
        if png:
            contents |= _plots(gathered, sweeps, png)
    for path in files.save_all(contents, force):
        stages.note(f"written: {path}")


def _places(out, png):
    """Return where the page and the plots go; `InputError` before anything slow starts."""
    if out is None and png is None:
        raise InputError("Expected -o FILE.html, --png DIR or both. Received: neither")
    path = None if out is None else pathlib.Path(out)
    if path is not None and (path.suffix.lower() not in (".html", ".htm") or path.is_dir()):
        raise InputError(f"Expected -o to name a .html file. Received: {out!r}")
    return path, None if png is None else pathlib.Path(png)


def _read(given):
    """Return what a file holds, or the audit of a MODEL."""
    if given.lower().endswith(_READ):
        from keras_nin.report import documents

        return documents.read(given)
    from keras_nin.audit import audit
    from keras_nin.cli import stages
    from keras_nin.report.documents import Audited

    loaded = stages.load_model(given)
    return (Audited(loaded.name, audit(loaded.model, name=loaded.name)),)


def _plots(gathered, sweeps, folder):
    """Return the PNG files of all profiles and sweeps by path: ``<number>_<file>_<threads>t_<plot>.png``."""
    from keras_nin import figures
    from keras_nin.report import plots, roofline_plot, sweep_plot

    kinds = {"layers": plots.layer_bars, "shares": plots.shares, "roofline": roofline_plot.roofline}
    profiles = [profile for subject in gathered for profile in subject.profiles if profile.layers]
    drawn = {}
    for number, profile in enumerate(profiles, 1):
        for kind, plot in kinds.items():
            made = plot(profile)
            if made is not None:
                drawn[folder / f"{number}_{_stem(profile.file)}_{profile.threads}t_{kind}.png"] = figures.png(made)
    for number, sweep in enumerate(sweeps, 1):
        drawn[folder / f"{number}_{_stem(sweep.name)}_sweep.png"] = sweep_plot.png(sweep.rows, sweep.who)
    if not drawn:
        raise InputError("Expected a benchmark with layers, or a sweep, for --png. Received: none")
    return drawn


def _stem(name):
    """Return a file's name without its ending, with nothing in it that a file system minds."""
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in pathlib.PurePath(name).stem)[:80]
