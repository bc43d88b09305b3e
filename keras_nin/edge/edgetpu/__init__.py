"""Prediction of what the Edge TPU compiler does with a .tflite file, from the file alone."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "records": "CompileFailure EdgeTPUResult FailureMessage OperatorVerdict ParameterMemory Status".split(),
        "verdict": ["check_edgetpu", "check_edgetpu_limits", "parse_edgetpu_limits"],
    },
)
