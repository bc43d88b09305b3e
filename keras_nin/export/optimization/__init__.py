"""Training before the conversion: for quantisation, to zeros, to few distinct weights."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "trained_conversion": ["convert_optimized"],
        "training": ["OptimizationSettings", "OptimizedModel", "train_for_scheme"],
    },
)
