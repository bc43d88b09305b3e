"""Where the ranges of a quantisation-aware training begin."""

import contextlib

_BATCH = 32


def set_ranges(network, images):
    """Set the ranges of a network that `quantize_model` made to the least and largest values on `images`.

    tfmot begins at -6 to 6 and moves by a thousandth of the way in each step: a short training would end with ranges
    far from those that the network needs.

    Args:
        network: tf_keras.Model.
        images: float32 (N, H, W, C).
    """
    ranges = {}
    with _observed(ranges):
        for start in range(0, len(images), _BATCH):
            network(images[start : start + _BATCH], training=False)
    for least, largest, values in ranges.values():
        values["min_var"].assign(least)
        values["max_var"].assign(largest)


@contextlib.contextmanager
def _observed(ranges):
    """Let tfmot's quantisers pass everything on as it is, and note the least and the largest value of activations."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot

    def observe(self, inputs, training, weights, **kwargs):
        key = weights["min_var"].name  # the object may be made anew at each call
        # An int8 range holds zero.
        least, largest, _ = ranges.get(key, (0.0, 0.0, None))
        least, largest = min(least, float(tf.reduce_min(inputs))), max(largest, float(tf.reduce_max(inputs)))
        ranges[key] = least, largest, weights
        return inputs

    def ignore(self, inputs, training, weights, **kwargs):
        return inputs

    api = tfmot.quantization.keras.quantizers
    # Of activations, of the input, and of weights, which are looked at anew in each step.
    replaced = (
        (api.MovingAverageQuantizer, observe),
        (api.AllValuesQuantizer, observe),
        (api.LastValueQuantizer, ignore),
    )
    originals = [kind.__call__ for kind, _ in replaced]
    try:
        for kind, function in replaced:
            kind.__call__ = function
        yield
    finally:
        for (kind, _), original in zip(replaced, originals, strict=True):
            kind.__call__ = original
