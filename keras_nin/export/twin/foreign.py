"""Layers of a twin that tf_keras or tensorflow-model-optimization does not have."""

import keras
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras


class _Weightless(tfmot.sparsity.keras.PrunableLayer, tfmot.clustering.keras.ClusterableLayer):
    """Says that there is nothing to prune and nothing to cluster."""

    def get_prunable_weights(self):
        """Return no weights."""
        return []

    def get_clusterable_weights(self):
        """Return no weights."""
        return []


@tf_keras.utils.register_keras_serializable(package="keras_nin")
class Rescaling(_Weightless, tf_keras.layers.Rescaling):
    """tf_keras's own, which can be in a model that is pruned, without the part that changes nothing."""

    def call(self, inputs):
        """Return `inputs * scale + offset`."""
        outputs = tf.cast(inputs, self.compute_dtype)
        if self.scale != 1:
            outputs *= tf.cast(self.scale, self.compute_dtype)
        if self.offset != 0:
            outputs += tf.cast(self.offset, self.compute_dtype)
        return outputs


@tf_keras.utils.register_keras_serializable(package="keras_nin")
class Keras3(_Weightless, tf_keras.layers.Layer):
    """A layer or operation of Keras 3 without weights, computed by Keras 3 itself.

    Takes the tensors of the call in order, one or a list; gives one tensor or a list.

    Args:
        operation: the keras.Operation, or what `keras.saving.serialize_keras_object` makes of it.
        arguments: (args, kwargs) of the call with `{"tensor": i}` for the i-th tensor, as keras serialises them.
        results: number of tensors that come out.
    """

    def __init__(self, operation, arguments, results=1, **options):
        super().__init__(**options)
        serialized = isinstance(operation, dict)
        self.serialized = operation if serialized else keras.saving.serialize_keras_object(operation)
        # tf_keras would take a Keras 3 layer among the attributes for one of its own.
        self._computed = (keras.saving.deserialize_keras_object(operation) if serialized else operation,)
        self.arguments, self.results = arguments, results
        self._call_arguments = keras.saving.deserialize_keras_object(arguments)

    def __setattr__(self, name, value):
        if name in ("serialized", "arguments", "_computed", "_call_arguments"):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def call(self, inputs):
        """Return what the operation gives."""
        return tf.autograph.experimental.do_not_convert(self._compute)(inputs)

    def _compute(self, inputs):
        tensors = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        args, kwargs = fill(self._call_arguments, tensors)
        outputs = keras.tree.flatten(self._computed[0](*args, **kwargs))
        return outputs[0] if self.results == 1 else outputs

    def get_config(self):
        """Return the operation and its arguments."""
        own = {"operation": self.serialized, "arguments": self.arguments, "results": self.results}
        return {**super().get_config(), **own}


def fill(value, tensors):
    """Return `value` (nested lists and dictionaries) with the tensor for every `{"tensor": i}`."""
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            return tensors[value["tensor"]]
        return {key: fill(item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(fill(item, tensors) for item in value)
    return value


def empty(value, slots, kind):
    """Return `value` with `{"tensor": i}` for every instance of `kind`, which is appended to the list `slots`."""
    if isinstance(value, kind):
        slots.append(value)
        return {"tensor": len(slots) - 1}
    if isinstance(value, dict):
        return {key: empty(item, slots, kind) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(empty(item, slots, kind) for item in value)
    return value
