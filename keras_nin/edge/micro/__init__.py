"""Measurement of a .tflite file with TFLite Micro: the smallest arena, the operators, and whether outputs are equal."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cpp": ["format_c_array", "format_resolver", "list_operators"],
        "measurement": ["MicroInputs", "make_noise", "measure_micro", "prepare_samples"],
        "records": "Arena MicroComparison MicroFinding MicroResult check_micro_limits parse_micro_limits".split(),
    },
)
