"""From a Keras model to a .tflite file that is compared with it: schemes, calibration, conversion, verification."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "calibration": ["Calibration", "calibrate"],
        "compress": ["Trained", "export_trained", "train_scheme"],
        "compression": ["Compression", "measure"],
        "conversion": ["export", "export_all"],
        "record": ["Export"],
        "schemes": ["SCHEMES", "parse_schemes"],
        "tuning": ["Tuning"],
        "twin": ["from_tf_keras", "quantize_model", "to_tf_keras"],
        "verify": ["Limits", "Parity", "verify"],
    },
)
