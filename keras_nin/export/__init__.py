"""From a Keras model to a .tflite file that is compared with it: schemes, calibration, conversion, verification."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "calibration": ["Calibration", "calibrate"],
        "record": ["Export", "export", "export_all"],
        "schemes": ["SCHEMES", "parse_schemes"],
        "verify": ["Limits", "Parity", "verify"],
    },
)
