"""What TFLite Micro makes of a .tflite file: the smallest arena, the operators, and whether outputs are the same."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cpp": ["format_c_array", "format_resolver", "list_operators"],
        "measurement": ["MicroInputs", "make_noise", "measure_micro", "prepare_images"],
        "records": ["Arena", "ArenaSection", "MicroComparison", "MicroFinding", "MicroOperator", "MicroResult"],
    },
)
