"""Keras models around 1x1 convolutions, with exact audits and a TFLite export that is verified against the original.

Importing this package loads neither Keras nor TensorFlow; its parts load on first use.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
