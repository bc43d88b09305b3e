"""Keras models around 1x1 convolutions, with exact audits and a TFLite export that is proven against the original.

Importing this package loads neither Keras nor TensorFlow; its parts load on first use.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "audit",
        "benchmark",
        "claims",
        "data",
        "edge",
        "export",
        "layers",
        "models",
        "report",
        "tflite",
        "train",
    ],
    submod_attrs={
        "errors": ["InputError"],
    },
)
