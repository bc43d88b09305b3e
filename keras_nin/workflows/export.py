"""What `keras-nin export` makes, before it is compared: conversions of the model, and of what is trained from it."""

import dataclasses
import pathlib
from typing import Any

import click

from keras_nin.workflows import models, verification


@dataclasses.dataclass(frozen=True, eq=False)
class ExportJob:
    """What the options of an export mean.

    Attributes:
        given: the options' values.
        loaded: `keras_nin.models.LoadedModel`.
        sources: `keras_nin.workflows.images.ImageSources`.
        calibration: `keras_nin.export.Calibration`, or None.
        preprocessing: `keras_nin.data.Preprocessing`, or None.
        test: `keras_nin.workflows.images.EvaluationImages`.
    """

    given: Any
    loaded: Any
    sources: Any
    calibration: Any
    preprocessing: Any
    test: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Conversion:
    """A conversion.

    Attributes:
        export: `keras_nin.export.ConvertedModel`.
        loaded: `keras_nin.models.LoadedModel` with the model that the file computes; its weights may be trained ones.
        trained: whether it was trained for its scheme.
    """

    export: Any
    loaded: Any
    trained: bool = False


def prepare(given, chosen):
    """Load the model and the images; return the `Job`.

    Args:
        given: the options' values.
        chosen: the `Scheme` records to make.
    """
    from keras_nin.workflows import images

    sources = images.ImageSources(given.calibration, given.data, given.labels, given.seed)
    loaded = models.load_model(given.model, given.weights, given.input_shape, given.settings, given.seed)
    shape = models.model_input(loaded.model)
    test_set = sources.test_set(loaded.dataset, shape)
    preprocessing = models.choose_preprocessing(loaded.preprocessing, test_set, given.preprocessing, given.crop)
    calibration, seen = None, frozenset()
    if any(scheme.calibrated for scheme in chosen):
        calibration, seen = _calibrate(given, sources, loaded, shape, preprocessing)
    test = images.evaluation_images(test_set, shape, preprocessing, seen, given.test_count, given.seed)
    return ExportJob(given, loaded, sources, calibration, preprocessing, test)


def _calibrate(given, sources, loaded, shape, preprocessing):
    """Return the `Calibration` and the digests of its images."""
    from keras_nin.export import load_calibration

    dataset = sources.calibration_set(loaded.dataset, shape)
    calibration = load_calibration(
        dataset, shape, count=given.calibration_count, seed=given.seed, preprocessing=preprocessing
    )
    return calibration, dataset.image_digests(dataset.select("calibration", given.calibration_count, given.seed))


def convert_schemes(job, chosen):
    """Return the `Made` of each scheme, in the order of `chosen`."""
    made = {each.export.scheme.name: each for each in _convert(job, [each for each in chosen if not each.trained])}
    for scheme in chosen:
        if scheme.trained:
            made[scheme.name] = _train(job, scheme)
    return [made[scheme.name] for scheme in chosen]


def _convert(job, chosen):
    from keras_nin.export import convert_schemes

    if not chosen:
        return []
    with models.working(f"Converting {job.loaded.name} to {', '.join(scheme.name for scheme in chosen)}"):
        exports = convert_schemes(
            job.loaded.model, chosen, job.calibration, tuning=_tuning(job), **_conversion_arguments(job)
        )
    return [Conversion(_with_options(job, made), job.loaded) for made in exports]


def _train(job, scheme):
    """Train the model for a scheme and convert it."""
    from keras_nin.export import convert_optimized, train_for_scheme

    given, loaded = job.given, job.loaded
    trained = train_for_scheme(
        loaded.model,
        scheme,
        job.test.dataset,
        preprocessing=job.preprocessing,
        name=loaded.name,
        epochs=given.epochs,
        learning_rate=given.learning_rate,
        seed=given.seed,
        sparsity=given.sparsity,
        clusters=given.clusters,
        on_epoch=models.show_epochs(scheme.name),
    )
    with models.working(f"Converting {loaded.name} to {scheme.name}"):
        calibration = job.calibration if scheme.calibrated else None
        made = convert_optimized(
            trained, calibration, original=loaded.model, scheme=scheme, **_conversion_arguments(job)
        )
    return Conversion(
        _with_options(job, made), dataclasses.replace(loaded, model=trained.model, random=False), trained=True
    )


def _conversion_arguments(job):
    return {
        "allow_float": job.given.allow_float,
        "batch": job.given.batch,
        "weights": job.loaded.weights,
        "preprocessing": job.preprocessing,
        "name": job.loaded.name,
        "classes": _class_names(job.loaded.model, job.test.dataset),
    }


def _tuning(job):
    """Return how the ranges, weights and biases of the scheme int8 are chosen."""
    from keras_nin.export.schemes import Tuning

    return Tuning(job.given.ranges, job.given.rounding, job.given.bias_correction)


def _class_names(model, dataset):
    """Return the names of the classes that the model tells apart, as far as the dataset says them."""
    from keras_nin.data import get_class_names

    shapes = [tuple(tensor.shape) for tensor in model.outputs]
    return get_class_names(dataset, shapes[0][1]) if len(shapes) == 1 and len(shapes[0]) == 2 else ()


def _with_options(job, made):
    return dataclasses.replace(made, options=_recorded_options(job, made.scheme))


def _limit_names():
    from keras_nin.export import ParityLimits

    return [field.name for field in dataclasses.fields(ParityLimits)]


def _recorded_options(job, scheme):
    """Return the options that decide what a file and the JSON file beside it hold, by their names without "--"."""
    given, sources, dataset = job.given, job.sources, job.loaded.dataset
    kept = {
        "model": given.model,
        "weights": given.weights,
        "input_shape": list(given.input_shape) if given.input_shape else None,
        "set": list(given.settings),
        "data": sources.test_source(dataset),
    }
    names = ["seed", "labels", "test_count", "preprocessing", "crop", "batch", *_limit_names()]
    if scheme.integer_only:
        names += ["io", "allow_float"]
    if scheme.calibrated:
        kept["calibration"] = sources.calibration_source(dataset)
        names += ["calibration_count"]
    if scheme.name == "int8":
        names += ["ranges", "rounding", "bias_correction"]
    if scheme.trained:
        names += ["epochs", "learning_rate", *{"pruned": ["sparsity"], "clustered": ["clusters"]}.get(scheme.name, [])]
    return kept | {name: getattr(given, name) for name in names}


# MERGED What becomes of the files that `keras-nin export` made: compared with the model, timed, written, reported.

SCHEMA = "keras_nin.export/1"


def finish_export(job, made, original=None):
    """Compare, time, write and report; return the exit status.

    Args:
        job: `keras_nin.workflows.export.ExportJob`.
        made: list of `keras_nin.workflows.export.Conversion`.
        original: `keras_nin.workflows.reproduction.OriginalExport` of an export that is made again, or None.
    """
    from keras_nin import files

    given = job.given
    outcome = _outcome(given, original, made[0].export) if original else None
    for each in made:
        files.needs_writing(pathlib.Path(given.out) / f"{each.export.stem}.tflite", each.export.data, given.force)
    runners = [verification.open_runner(each.export.data, given.threads, given.batch) for each in made]
    made = _compared(job, made, runners)
    latencies = [runner.latency(given.runs) for runner in runners]
    contents = [_contents(each, given.out) for each in made]
    written = files.write_files({path: data for each in contents for path, data in each.items()}, given.force)
    results = [
        ExportedFile(each, latency, tuple(paths), "written" if paths.keys() & set(written) else "up to date")
        for each, latency, paths in zip(made, latencies, contents, strict=True)
    ]
    (_print_json if given.as_json else _print_export)(job, results, outcome)
    verification.print_failures([result.row for result in results])
    passed = all(each.export.parity.passed for each in made) and (outcome is None or outcome.passed)
    return 0 if passed else 1


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedFile:
    """A file that was written or was there already.

    Attributes:
        made: `keras_nin.workflows.export.Conversion`, compared.
        latency: `keras_nin.tflite.runner.Latency`.
        paths: of the .tflite file and of what lies beside it.
        state: "written" or "up to date".
    """

    made: object
    latency: object
    paths: tuple[pathlib.Path, ...]
    state: str

    @property
    def path(self):
        """Path of the .tflite file."""
        return self.paths[0]

    @property
    def row(self):
        """The row of the table."""
        export = self.made.export
        return self.path.name, len(export.data), export.parity, self.latency.median_us


def _contents(made, folder):
    """Return what to write by its path: the files of the export, and the weights where they were trained for it."""
    from keras_nin import files

    contents = made.export.contents(folder)
    if made.trained:
        with files.temporary_folder() as temporary:
            made.loaded.model.save_weights(temporary / "trained.weights.h5")
            contents[next(iter(contents)).with_suffix(".weights.h5")] = (temporary / "trained.weights.h5").read_bytes()
    return contents


def _outcome(given, original, made):
    from keras_nin.workflows import reproduction

    outcome = reproduction.compare_with_original(original, made)
    reproduction.print_outcome(original, outcome, f"{made.stem}.tflite", given.as_json)
    return outcome


def _compared(job, made, runners):
    """Return the same with the `Parity` of each file, those of one model in one pass over the images."""
    pairs = list(zip(made, runners, strict=True))
    plain = [runner for each, runner in pairs if not each.trained]
    parities = iter(verification.compare_outputs(job.given, job.loaded, plain, job.test) if plain else ())
    return [
        _compare_trained(job, each, runner) if each.trained else _with_parity(each, next(parities))
        for each, runner in pairs
    ]


def _with_parity(made, parity):
    return dataclasses.replace(made, export=made.export.with_parity(parity))


def _compare_trained(job, made, runner):
    """Return a trained file compared with the model that it was trained to, and in its accuracy with the original."""
    (parity,) = verification.compare_outputs(job.given, made.loaded, [runner], job.test)
    (before,) = verification.compare_outputs(job.given, job.loaded, [runner], job.test)
    checks = [check for check in parity.checks if check.name != "top1_drop_pp"]
    checks += [check for check in before.checks if check.name == "top1_drop_pp"]
    known = {"original_top1": before.model_top1, "top1_match_with_original": before.top1_match}
    export = dataclasses.replace(made.export, training=made.export.training | known)
    return _with_parity(dataclasses.replace(made, export=export), dataclasses.replace(parity, checks=tuple(checks)))


def _original_top1(results):
    """Return the accuracy of the model before any training; None without labels."""
    first = results[0].made
    return first.export.training["original_top1"] if first.trained else first.export.parity.model_top1


def _print_json(job, results, outcome):
    from keras_nin.tflite.host import describe_host

    documents = [
        result.made.export.export_record()
        | {"path": str(result.path), "state": result.state, "latency": dataclasses.asdict(result.latency)}
        for result in results
    ]
    again = {} if outcome is None else {"reproduced": outcome.same}
    models.print_json({"schema": SCHEMA, "files": documents, "host": describe_host(), **again})


def _print_export(job, results, outcome):
    loaded, test = job.loaded, job.test
    click.echo(verification.format_headline(loaded, test.preprocessing))
    verification.print_table(
        [result.row for result in results],
        test,
        loaded.random,
        [result.latency for result in results],
        original_top1=_original_top1(results),
        trained={result.path.name: result.made.export.scheme.trained for result in results if result.made.trained},
    )
    _print_calibration(results)
    for made in (result.made.export for result in results):
        if made.float_operators:
            click.echo(f"In floating point in {made.stem}: {', '.join(made.float_operators)}")
        if made.flags.get("integer_form"):
            click.echo(f"In integer form in {made.stem}: {', '.join(made.flags['integer_form'])}")
    for result in results:
        _print_compression(result)
    for result in results:
        click.echo(f"{result.state}: {result.path}, {', '.join(path.name for path in result.paths[1:])}")


def _print_calibration(results):
    calibration = next((result.made.export.calibration for result in results if result.made.export.calibration), None)
    if calibration and calibration.noise:
        click.echo("Calibration: noise. What it calibrated is good to measure latency, and for nothing else.")
    elif calibration:
        click.echo(f"Calibration: {calibration.count} images of {calibration.source}, none of them among those.")


def _print_compression(result):
    from keras_nin.report.accuracy import format_compression_table

    measured = result.made.export.compression()
    if measured:
        click.echo(f"\n{format_compression_table(measured, result.path.name)}\n")
