"""Models that `keras-nin benchmark` exports itself: for their latency, without a proof."""

from keras_nin.cli import images, measuring, stages

# Datasets that calibrate without a network or a file.
_AT_HAND = frozenset({"digits"})
_NOISE = 8  # images: ranges of noise serve no accuracy
_IMAGES = 100


def export(given, word, folder):
    """Export a model to files in a folder, and return a `Subject` for each scheme.

    With weights that ship and images at hand it is calibrated as `keras-nin export` does without tuning; else on noise,
    and the notes say so.

    Args:
        given: the options' values.
        word: `keras_nin.cli.measuring.Word`.
        folder: where the files go, with the JSON files beside them that name the layers.

    Raises:
        InputError: the model does not load or convert.
    """
    from keras_nin import files
    from keras_nin.export import export_all

    schemes = word.schemes(given.scheme)
    stages.check_model(word.text)
    loaded = stages.load_model(word.text, given.weights, given.input_shape, given.settings, given.seed)
    shape = stages.model_input(loaded.model)
    dataset, calibration, preprocessing = _calibration(given, loaded, shape)
    with stages.working(f"Converting {loaded.name} to {', '.join(schemes)}"):
        exports = export_all(
            loaded.model,
            schemes,
            calibration,
            weights=loaded.weights,
            preprocessing=preprocessing,
            name=loaded.name,
        )
    subjects = []
    for made, stem in zip(exports, word.stems(given.scheme), strict=True):
        path = folder / f"{stem}.tflite"
        files.write(path, made.data)
        files.write(path.with_suffix(".json"), files.to_json(made.sidecar()))
        subjects.append(measuring.Subject(str(path), tuple(_notes(loaded, dataset, made.scheme))))
    return subjects


def _calibration(given, loaded, shape):
    """Return the dataset, the `Calibration` and the `Preprocessing`."""
    from keras_nin.export import calibrate

    real = not loaded.random and loaded.dataset in _AT_HAND
    source = loaded.dataset if real else "random"
    dataset = images.Sources(source, source, None, given.seed).calibration_set(None, shape)
    preprocessing = stages.choose_preprocessing(loaded.preprocessing, dataset)
    count = _IMAGES if real else _NOISE
    calibration = calibrate(dataset, shape, count=count, seed=given.seed, preprocessing=preprocessing)
    return dataset, calibration, preprocessing


def _notes(loaded, dataset, scheme):
    if loaded.random:
        yield "random weights, latency only"
    if scheme.calibrated and dataset.noise:
        yield "calibrated on noise, latency only"
