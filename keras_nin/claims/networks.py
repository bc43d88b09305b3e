"""What the reproductions build and run: small networks with seeded weights and inputs."""

import numpy as np


def network(graph, input_shape, name):
    """Return the keras.Model of `graph`, a function from a tensor (B, H, W, C), for `input_shape` (H, W, C)."""
    import keras

    inputs = keras.Input(input_shape, name="input")
    return keras.Model(inputs, graph(inputs), name=name)


def audited(name):
    """Return the `keras_nin.audit.Audit` of the zoo's model `name`, built at its defaults."""
    from keras_nin import models
    from keras_nin.audit import audit

    return audit(models.build(name))


def convolutions(audit):
    """Return the rows of an audit that have a kernel and weights."""
    return [row for row in audit.rows if row.kernel is not None and row.params]


def randomize(model, seed=0):
    """Fill every weight of `model`, biases too, with seeded normal numbers and return `model`.

    Each output stays near the size of the inputs; Keras starts biases at 0, where an equality would not test them.
    """
    rng = np.random.default_rng(seed)
    values = []
    for weight in model.weights:
        fan_in = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 4
        values.append((rng.standard_normal(weight.shape) / np.sqrt(fan_in)).astype(np.float32))
    model.set_weights(values)
    return model


def noise(*shape, seed=1):
    """Return seeded normal numbers, float32, of `shape`."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(model, inputs):
    """Return the outputs of `model` for `inputs` as an array."""
    import keras

    return np.asarray(keras.ops.convert_to_numpy(model(inputs, training=False)))


def relative_difference(values, reference):
    """Return the largest absolute difference of two arrays of one shape, divided by the largest absolute reference."""
    if values.shape != reference.shape:
        raise ValueError(f"compared arrays of shapes {values.shape} and {reference.shape}")
    reference = reference.astype(np.float64)
    return float(np.abs(values.astype(np.float64) - reference).max() / np.abs(reference).max())


def kernel_weights(model):
    """Return the number of weights of `model` without its biases."""
    return sum(int(np.prod(weight.shape)) for weight in model.weights if len(weight.shape) > 1)
