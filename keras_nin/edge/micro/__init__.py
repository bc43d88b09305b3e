"""What TFLite Micro makes of a .tflite file: the smallest arena, the operators, and whether outputs are the same."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "c_array": ["c_array"],
        "examining": ["examine"],
        "inputs": ["Inputs", "noise", "of_images"],
        "records": ["Arena", "Comparison", "Finding", "Micro", "OperatorUse", "Part"],
        "resolver": ["declaration", "operators"],
    },
)
