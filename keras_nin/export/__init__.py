"""From a Keras model to a .tflite file that is compared with it: schemes, calibration, conversion, verification."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "calibration": ["Calibration", "load_calibration"],
        "compression": ["Compression", "measure_compression"],
        "conversion": ["convert_model", "convert_schemes"],
        "converted_model": ["ConvertedModel"],
        "optimization.methods": ["quantize_model"],
        "optimization.tf_keras_model": ["from_tf_keras", "to_tf_keras"],
        "optimization.trained_conversion": ["convert_optimized"],
        "optimization.training": ["OptimizedModel", "train_for_scheme"],
        "schemes": ["SCHEMES", "Tuning", "parse_schemes"],
        "verification": ["verify_files"],
        "parity": ["Parity", "ParityLimits"],
    },
)
