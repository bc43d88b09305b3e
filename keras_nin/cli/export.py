"""`keras-nin export`: from a model to .tflite files that are compared with it."""

import dataclasses
import pathlib
import types

import click

from keras_nin.cli import options
from keras_nin.export import schemes

SCHEMA = "keras_nin.export/1"
DEFAULT_MODEL = "nin_digits"


class _Command(click.Command):
    """The command, whose help shows the table of schemes before its example."""

    def format_epilog(self, context, formatter):
        """Write the table and the epilog."""
        with formatter.section("Schemes"):
            formatter.write_dl([(row[0], "; ".join(_scheme_words(row))) for row in schemes.table_rows()])
        super().format_epilog(context, formatter)


def _scheme_words(row):
    words = dict(zip(schemes.COLUMNS, row, strict=True))
    yield f"{words['weights']} weights, {words['activations']} activations, ends {words['input and output']}"
    yield f"computes in {words['computes in']}"
    if words["needs"] != "-":
        yield f"needs {words['needs']}"


@click.command("export", cls=_Command, epilog="Example: keras-nin export nin_digits --scheme float32,int8")
@click.argument("model", default=DEFAULT_MODEL)
@options.model_options
@click.option(
    "--scheme",
    default="float32,int8",
    show_default=True,
    metavar="S[,S...]",
    help="Schemes of the table below; all is those that train nothing.",
)
@click.option(
    "--calibration",
    metavar="DATASET|DIR|FILE.npz|random",
    help="Representative images for int8. [default: the calibration split of the model's own dataset]",
)
@click.option(
    "--calibration-count",
    type=options.COUNT,
    metavar="N",
    default=100,
    show_default=True,
    help="How many calibration images.",
)
@click.option(
    "--io",
    type=click.Choice(["int8", "uint8", "float32"]),
    help="Type of input and output of the integer schemes. [default: int8; int16 for int16x8]",
)
@click.option("--batch", type=options.COUNT, metavar="N", default=1, show_default=True, help="Static batch size.")
@click.option(
    "--allow-float",
    is_flag=True,
    help="Let operators that int8 does not have compute in floating point; they are named.",
)
@options.data_option
@options.preprocessing_options
@options.count_option
@options.limit_options
@options.threads_option
@click.option(
    "--runs", type=options.COUNT, metavar="N", help="Runs of the latency measurement. [default: until stable]"
)
@click.option("--out", default="exported", show_default=True, metavar="DIR", help="Where the files go.")
@options.force_option
@options.json_option
@click.option(
    "--from",
    "sidecar",
    metavar="SIDECAR",
    help="Do an export again as the JSON file beside it records it: same model, images and options. Beside it only "
    "--out, --force, --threads, --runs and --json.",
)
@click.pass_context
def command(context, **arguments):
    """Convert MODEL (default nin_digits) to .tflite files and prove them against it.

    Writes <model>_<scheme>.tflite, static batch 1, and a JSON file beside each that says what made it; runs each with
    the LiteRT runtime on test images that did not serve to calibrate; prints one table. Differences are in quantisation
    steps of the output: the file's scale, or for a float file 1/255 of the range of the model's outputs. A quantised
    file is judged on the worst class or channel, before a softmax or sigmoid that closes the network.

    Exit status 1 where a file is not as good as the model (see --min-agreement and --max-drop). With random weights
    only the differences are judged; a file that noise calibrated (--calibration random) is good for latency only.

    --from compares the bytes with those that SIDECAR records: exit status 1 where the same versions give others, 2
    where the weights or the calibration images are others. Paths in it are as seen from the folder of that export.
    """
    if arguments["sidecar"] is None:
        return _run(types.SimpleNamespace(**arguments))
    from keras_nin.cli import reproduce

    original = reproduce.read(arguments["sidecar"])
    return _run(reproduce.arguments(context, original), original)


def _run(given, original=None):
    from keras_nin import files
    from keras_nin.cli import images, stages

    chosen = schemes.parse_schemes(given.scheme)
    chosen = [scheme.with_io(given.io) if given.io else scheme for scheme in chosen]
    stages.check_output_folder(given.out)
    sources = images.Sources(given.calibration, given.data, given.labels, given.seed)
    loaded = stages.load_model(given.model, given.weights, given.input_shape, given.settings, given.seed)
    shape = stages.model_input(loaded.model)
    test_set = sources.test_set(loaded.dataset, shape)
    preprocessing = stages.choose_preprocessing(loaded.preprocessing, test_set, given.preprocessing, given.crop)
    calibration, seen = None, frozenset()
    if any(scheme.calibrated for scheme in chosen):
        calibration, seen = _calibrate(given, sources, loaded, shape, preprocessing)
    test = images.evaluation_images(test_set, shape, preprocessing, seen, given.test_count, given.seed)
    classes = _classes(loaded.model, test_set)
    exports = _convert(given, loaded, chosen, calibration, preprocessing, sources, classes)
    given.outcome = _outcome(given, original, exports[0]) if original else None
    for made in exports:
        files.refuse_other(pathlib.Path(given.out) / f"{made.stem}.tflite", made.data, given.force)
    status = _prove(given, loaded, exports, test)
    return status if given.outcome is None or given.outcome.holds else 1


def _outcome(given, original, made):
    from keras_nin.cli import reproduce

    outcome = reproduce.compare(original, made)
    reproduce.report(original, outcome, f"{made.stem}.tflite", given.as_json)
    return outcome


def _calibrate(given, sources, loaded, shape, preprocessing):
    """Return the `Calibration` and the digests of its images."""
    from keras_nin.export import calibrate

    dataset = sources.calibration_set(loaded.dataset, shape)
    calibration = calibrate(dataset, shape, count=given.calibration_count, seed=given.seed, preprocessing=preprocessing)
    return calibration, dataset.image_digests(dataset.select("calibration", given.calibration_count, given.seed))


def _classes(model, dataset):
    """Return the names of the classes that the model tells apart, as far as the dataset says them."""
    from keras_nin.data.labels import class_labels

    shapes = [tuple(tensor.shape) for tensor in model.outputs]
    return class_labels(dataset, shapes[0][1]) if len(shapes) == 1 and len(shapes[0]) == 2 else ()


def _convert(given, loaded, chosen, calibration, preprocessing, sources, classes):
    from keras_nin.cli import stages
    from keras_nin.export import export_all

    with stages.working(f"Converting {loaded.name} to {', '.join(scheme.name for scheme in chosen)}"):
        exports = export_all(
            loaded.model,
            chosen,
            calibration,
            allow_float=given.allow_float,
            batch=given.batch,
            weights=loaded.weights,
            preprocessing=preprocessing,
            name=loaded.name,
            classes=classes,
        )
    return [dataclasses.replace(made, options=_options(given, loaded, made.scheme, sources)) for made in exports]


def _options(given, loaded, scheme, sources):
    """Return the options that decide what a file and the JSON file beside it hold, by their names without "--"."""
    kept = {
        "model": given.model,
        "weights": given.weights,
        "input_shape": list(given.input_shape) if given.input_shape else None,
        "set": list(given.settings),
        "seed": given.seed,
        "data": sources.test_source(loaded.dataset),
        "labels": given.labels,
        "test_count": given.test_count,
        "preprocessing": given.preprocessing,
        "crop": given.crop,
        "batch": given.batch,
        "min_agreement": given.min_agreement,
        "max_drop": given.max_drop,
    }
    if scheme.integer_only:
        kept |= {"io": given.io, "allow_float": given.allow_float}
    if scheme.calibrated:
        kept |= {
            "calibration": sources.calibration_source(loaded.dataset),
            "calibration_count": given.calibration_count,
        }
    return kept


def _prove(given, loaded, exports, test):
    from keras_nin import files
    from keras_nin.cli import proof

    runners = [proof.runner(made.data, given.threads, given.batch) for made in exports]
    parities = proof.compare(given, loaded, runners, test)
    exports = [made.with_parity(parity) for made, parity in zip(exports, parities, strict=True)]
    latencies = [runner.latency(given.runs) for runner in runners]
    contents = {}
    for made in exports:
        contents |= made.contents(given.out)
    written = files.save_all(contents, given.force)
    _report(given, loaded, exports, latencies, written, test)
    return 0 if all(made.parity.holds for made in exports) else 1


def _report(given, loaded, exports, latencies, written, test):
    from keras_nin.cli import proof, stages
    from keras_nin.tflite.run import host

    paths = [next(iter(made.contents(given.out))) for made in exports]
    states = ["written" if made.contents(given.out).keys() & set(written) else "up to date" for made in exports]
    rows = [
        (path.name, len(made.data), made.parity, latency.median_us)
        for path, made, latency in zip(paths, exports, latencies, strict=True)
    ]
    if given.as_json:
        documents = [
            made.sidecar() | {"path": str(path), "state": state, "latency": dataclasses.asdict(latency)}
            for made, path, state, latency in zip(exports, paths, states, latencies, strict=True)
        ]
        again = {} if given.outcome is None else {"reproduced": given.outcome.same}
        stages.print_json({"schema": SCHEMA, "files": documents, "host": host(), **again})
        proof.print_failures(rows)
        return
    prepared = f"; input prepared as {test.preprocessing.mode}" if test.preprocessing else ""
    click.echo(f"{loaded.name}, weights: {loaded.weights}{prepared}")
    proof.print_table(rows, test, loaded.random, latencies)
    calibration = next((made.calibration for made in exports if made.calibration), None)
    if calibration and calibration.noise:
        click.echo("Calibration: noise. What it calibrated is good to measure latency, and for nothing else.")
    elif calibration:
        click.echo(f"Calibration: {calibration.count} images of {calibration.source}, none of them among those.")
    for made in exports:
        if made.float_operators:
            click.echo(f"In floating point in {made.stem}: {', '.join(made.float_operators)}")
    for path, state in zip(paths, states, strict=True):
        click.echo(f"{state}: {path} and {path.with_suffix('.json').name}")
    proof.print_failures(rows)
