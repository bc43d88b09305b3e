"""What chosen layers of a Keras model give, those of nested models and blocks too."""

import contextlib

from keras_nin.export.output_layers import layers_by_path


class LayerOutputs:
    """Runs a model and keeps the outputs of some of its layers.

    Args:
        model: keras.Model.
        paths: which layers, "outer/inner" in nested models; unknown ones are left out.
    """

    def __init__(self, model, paths):
        found = layers_by_path(model)
        self._model = model
        self._layers = {path: found[path] for path in paths if path in found}

    def of(self, images):
        """Return a dictionary from path to the list of the layer's outputs for `images`, one for each use of it."""
        outputs = {path: [] for path in self._layers}
        with contextlib.ExitStack() as stack:
            for path, layer in self._layers.items():
                stack.enter_context(_listening(layer, outputs[path].append))
            self._model(images, training=False)
        return outputs


@contextlib.contextmanager
def _listening(layer, receive):
    """Pass what `layer` returns to `receive`, for a while: its `call` gives way to one of the instance's own."""
    call = layer.call

    def heard(*arguments, **options):
        output = call(*arguments, **options)
        receive(output)
        return output

    vars(layer)["call"] = heard
    try:
        yield
    finally:
        del vars(layer)["call"]
