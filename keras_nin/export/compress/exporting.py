"""From a trained model to the file of its scheme."""

import dataclasses

from keras_nin.export import conversion
from keras_nin.export.compress import quantized


def export_trained(trained, calibration=None, *, original=None, scheme=None, tuning=None, **options):
    """Convert what `train_scheme` made to .tflite.

    Args:
        trained: `keras_nin.export.Trained`.
        calibration: `Calibration`, or float32 images (N, H, W, C); for "pruned" and "clustered". A quantisation-aware
            training has learnt its ranges.
        original: the keras.Model that was trained, whose hash goes to the record; None records that of the trained.
        scheme: `Scheme` with another type of input and output (`Scheme.with_io`); None takes the trained one.
        tuning: as in `keras_nin.export.export_all`, for "pruned" and "clustered".
        **options: `allow_float`, `batch`, `weights`, `preprocessing`, `name`, `options`, `classes`: as there.

    Returns:
        `Export` with the record of the training.

    Raises:
        InputError: as `keras_nin.export.export_all`.
    """
    from keras_nin.models import weights_digest

    scheme = scheme or trained.scheme
    if trained.network is not None:
        made = quantized.export(trained.model, trained.network, scheme, **options)
    else:
        (made,) = conversion.export_all(trained.model, [scheme], calibration, tuning=tuning, **options)
    digest = weights_digest(original or trained.model)
    return dataclasses.replace(made, training=trained.record, weights_sha256=digest)
