"""The model zoo: a registry of builders with keras.applications' argument names, and their weights.

Only building a model loads Keras. Each family's module has `preprocess_input` and `decode_predictions`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
