"""1x1 building blocks, as functions on Keras tensors and as Keras Layer classes over the same definition.

The functions give a model whose `summary()` and whose exported operators show every layer by name
("fire2_squeeze1x1"); the classes (`Conv1x1`, `MLPConv`, `Fire`, `InceptionModule`, ...) are one layer each and
serialise.
Loading this package does not load Keras; using a block does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "block_layers": [
            "Conv1x1",
            "Fire",
            "InceptionModule",
            "InceptionReduction",
            "InceptionV3Module",
            "MLPConv",
            "PointwiseHead",
        ],
        "blocks": ["check_positive", "conv1x1", "conv2d", "fire", "mlpconv", "pointwise_head", "pool2d"],
        "inception": ["inception_module", "inception_reduction", "inception_v3_module"],
        "normalization": ["LocalResponseNormalization", "local_response_normalization", "use_integer_form"],
    },
)
