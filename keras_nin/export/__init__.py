"""From a Keras model to a .tflite file that is compared with it: schemes, calibration, conversion, verification."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
