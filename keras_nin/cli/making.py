"""What `keras-nin export` makes, before it is compared: conversions of the model, and of what is trained from it."""

import dataclasses
from typing import Any

from keras_nin.cli import stages


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What the options of an export mean.

    Attributes:
        given: the options' values.
        loaded: `keras_nin.models.Loaded`.
        sources: `keras_nin.cli.images.Sources`.
        calibration: `keras_nin.export.Calibration`, or None.
        preprocessing: `keras_nin.data.Preprocessing`, or None.
        test: `keras_nin.cli.images.EvaluationImages`.
    """

    given: Any
    loaded: Any
    sources: Any
    calibration: Any
    preprocessing: Any
    test: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Made:
    """A conversion.

    Attributes:
        export: `keras_nin.export.Export`.
        loaded: `keras_nin.models.Loaded` with the model that the file computes; its weights may be trained ones.
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
    from keras_nin.cli import images

    sources = images.Sources(given.calibration, given.data, given.labels, given.seed)
    loaded = stages.load_model(given.model, given.weights, given.input_shape, given.settings, given.seed)
    shape = stages.model_input(loaded.model)
    test_set = sources.test_set(loaded.dataset, shape)
    preprocessing = stages.choose_preprocessing(loaded.preprocessing, test_set, given.preprocessing, given.crop)
    calibration, seen = None, frozenset()
    if any(scheme.calibrated for scheme in chosen):
        calibration, seen = _calibrate(given, sources, loaded, shape, preprocessing)
    test = images.evaluation_images(test_set, shape, preprocessing, seen, given.test_count, given.seed)
    return Job(given, loaded, sources, calibration, preprocessing, test)


def _calibrate(given, sources, loaded, shape, preprocessing):
    """Return the `Calibration` and the digests of its images."""
    from keras_nin.export import calibrate

    dataset = sources.calibration_set(loaded.dataset, shape)
    calibration = calibrate(dataset, shape, count=given.calibration_count, seed=given.seed, preprocessing=preprocessing)
    return calibration, dataset.image_digests(dataset.select("calibration", given.calibration_count, given.seed))


def make(job, chosen):
    """Return the `Made` of each scheme, in the order of `chosen`."""
    made = {each.export.scheme.name: each for each in _convert(job, [each for each in chosen if not each.trained])}
    for scheme in chosen:
        if scheme.trained:
            made[scheme.name] = _train(job, scheme)
    return [made[scheme.name] for scheme in chosen]


def _convert(job, chosen):
    from keras_nin.export import export_all

    if not chosen:
        return []
    with stages.working(f"Converting {job.loaded.name} to {', '.join(scheme.name for scheme in chosen)}"):
        exports = export_all(job.loaded.model, chosen, job.calibration, tuning=_tuning(job), **_common(job))
    return [Made(_with_options(job, made), job.loaded) for made in exports]


def _train(job, scheme):
    """Train the model for a scheme and convert it."""
    from keras_nin.export import export_trained, train_scheme

    given, loaded = job.given, job.loaded
    trained = train_scheme(
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
        on_epoch=stages.show_epochs(scheme.name),
    )
    with stages.working(f"Converting {loaded.name} to {scheme.name}"):
        calibration = job.calibration if scheme.calibrated else None
        made = export_trained(trained, calibration, original=loaded.model, scheme=scheme, **_common(job))
    return Made(_with_options(job, made), dataclasses.replace(loaded, model=trained.model, random=False), trained=True)


def _common(job):
    return {
        "allow_float": job.given.allow_float,
        "batch": job.given.batch,
        "weights": job.loaded.weights,
        "preprocessing": job.preprocessing,
        "name": job.loaded.name,
        "classes": _classes(job.loaded.model, job.test.dataset),
    }


def _tuning(job):
    """Return how the ranges, weights and biases of the scheme int8 are chosen."""
    from keras_nin.export.tuning import Tuning

    return Tuning(job.given.ranges, job.given.rounding, job.given.bias_correction)


def _classes(model, dataset):
    """Return the names of the classes that the model tells apart, as far as the dataset says them."""
    from keras_nin.data.labels import class_labels

    shapes = [tuple(tensor.shape) for tensor in model.outputs]
    return class_labels(dataset, shapes[0][1]) if len(shapes) == 1 and len(shapes[0]) == 2 else ()


def _with_options(job, made):
    return dataclasses.replace(made, options=_options(job, made.scheme))


def _limits():
    from keras_nin.export import Limits

    return [field.name for field in dataclasses.fields(Limits)]


def _options(job, scheme):
    """Return the options that decide what a file and the JSON file beside it hold, by their names without "--"."""
    given, sources, dataset = job.given, job.sources, job.loaded.dataset
    kept = {
        "model": given.model,
        "weights": given.weights,
        "input_shape": list(given.input_shape) if given.input_shape else None,
        "set": list(given.settings),
        "data": sources.test_source(dataset),
    }
    names = ["seed", "labels", "test_count", "preprocessing", "crop", "batch", *_limits()]
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
