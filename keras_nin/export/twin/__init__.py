"""The same network in tf_keras, which tensorflow-model-optimization needs, and the way back."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "build": ["to_tf_keras"],
        "quantize": ["quantize_model"],
        "weights": ["from_tf_keras"],
    },
)
