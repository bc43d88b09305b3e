"""Dense layers as the convolutions that they are, so that a classifier also runs on larger images."""

from keras_nin.errors import InputError

# Layers that treat every position, or every vector, alike: they stay as they are between the layers that change.
_PER_VECTOR = ("Dropout", "Activation", "ReLU", "LeakyReLU", "ELU", "PReLU", "Softmax", "BatchNormalization", "Add")
_GLOBAL_POOLS = {"GlobalAveragePooling2D": "AveragePooling2D", "GlobalMaxPooling2D": "MaxPooling2D"}


def dense_to_conv(model, input_shape=None):
    """Turn the dense head of a classifier into the equal convolutions.

    A fully connected layer is a convolution whose kernel covers its whole input: a Dense on a flattened map of
    (h, w, C) becomes an h x w convolution, a Dense on a vector a 1x1 convolution, and a global pooling a pooling with
    the size that the map has in training, stride 1. On the training size the outputs are the same; a larger image
    gives a map of scores, one for every place of the training size in it (Sermanet et al., "OverFeat",
    arXiv:1312.6229).

    Args:
        model: keras.Model, Functional or Sequential, from (B, H, W, C) to (B, classes), H and W known.
        input_shape: (H, W, C) of the new model; None leaves height and width open.

    Returns:
        keras.Model from (B, H', W', C) to (B, h, w, classes); h = w = 1 on the training size. Its layers have the names
        and a copy of the weights of `model`.

    Raises:
        InputError: `model` is no such model, has no dense head or global pooling to turn, or a Dense cannot be turned;
            the message names it and says why.
    """
    import keras

    shape = _training_shape(model)
    graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name)  # a Sequential as a Functional
    changes = _changes(graph)
    inputs = keras.Input(input_shape or (None, None, shape[2]), name="input")
    turned = keras.models.clone_model(graph, input_tensors=inputs, clone_function=lambda layer: _clone(layer, changes))
    for layer in graph.layers:
        _copy_weights(layer, turned.get_layer(layer.name) if layer.weights else None, changes)
    return turned


def _training_shape(model):
    import keras

    if not isinstance(model, keras.Model) or len(getattr(model, "inputs", None) or ()) != 1:
        raise InputError(f"Expected a built keras.Model with one input. Received: {model!r}")
    shape = tuple(model.inputs[0].shape)[1:]
    if len(shape) != 3 or None in shape:
        raise InputError(f"Expected a model on images of a known size. Received: {model.name!r} with input {shape}")
    return shape


def _changes(graph):
    """Return the size of the map that each layer to be turned covers, by the layer's name."""
    sizes, changes = {}, {}  # sizes: of the map that a vector tensor is a flattened or pooled view of
    for operation in _in_order(graph):
        kind = type(operation).__name__
        entering = operation.input if not isinstance(operation.input, list) else operation.input[0]
        if kind == "Flatten" and len(entering.shape) == 4:
            changes[operation.name] = None
            sizes[id(operation.output)] = tuple(entering.shape[1:])
        elif kind in _GLOBAL_POOLS and not operation.keepdims:
            changes[operation.name] = tuple(entering.shape[1:3])
            sizes[id(operation.output)] = (1, 1, entering.shape[-1])
        elif kind == "Dense" and len(entering.shape) == 2:
            if id(entering) not in sizes:
                raise InputError(
                    f"Expected every Dense on a vector to follow Flatten or a global pooling of a map. Received: layer "
                    f"{operation.name!r}, whose input comes from {_producer(entering)}"
                )
            changes[operation.name] = sizes[id(entering)]
            sizes[id(operation.output)] = (1, 1, operation.units)
        elif len(operation.output.shape) == 2:
            _follow(operation, sizes)
    if not changes:
        raise InputError(f"Expected a model with a Flatten, Dense or global pooling head. Received: {graph.name!r}")
    return changes


def _in_order(graph):
    """Yield the layers in execution order, without the input."""
    for layer in graph.layers:
        if type(layer).__name__ == "InputLayer":
            continue
        if isinstance(layer.output, list | tuple | dict):
            raise InputError(f"Expected layers with one output. Received: {layer.name!r}")
        yield layer


def _follow(operation, sizes):
    """Carry the size along through a layer that treats every vector alike; refuse any other between turned layers."""
    entering = operation.input if isinstance(operation.input, list) else [operation.input]
    known = {sizes.get(id(tensor)) for tensor in entering}
    if known == {None}:
        return
    if type(operation).__name__ not in _PER_VECTOR or len(known) != 1:
        raise InputError(
            f"Expected only {', '.join(_PER_VECTOR)} and Dense after Flatten or a global pooling. "
            f"Received: {type(operation).__name__} {operation.name!r}"
        )
    sizes[id(operation.output)] = known.pop()


def _producer(tensor):
    layer = tensor._keras_history.operation
    return f"{type(layer).__name__} {layer.name!r}"


def _clone(layer, changes):
    """Return the layer of the new model that stands for `layer`."""
    import keras

    if layer.name not in changes:
        return layer.__class__.from_config(layer.get_config())
    kind, size = type(layer).__name__, changes[layer.name]
    if kind == "Flatten":
        return keras.layers.Identity(name=layer.name)  # the convolution after it takes the map as it is
    if kind in _GLOBAL_POOLS:
        return getattr(keras.layers, _GLOBAL_POOLS[kind])(size, strides=1, padding="valid", name=layer.name)
    config = layer.get_config()
    kept = ("activation", "use_bias", "kernel_initializer", "bias_initializer", "trainable", "name", "dtype")
    return keras.layers.Conv2D(layer.units, size[:2], padding="valid", **{key: config[key] for key in kept})


def _copy_weights(layer, turned, changes):
    if turned is None:
        return
    weights = layer.get_weights()
    if type(layer).__name__ == "Dense" and layer.name in changes:
        height, width, channels = changes[layer.name]
        weights[0] = weights[0].reshape(height, width, channels, layer.units)
    turned.set_weights(weights)
