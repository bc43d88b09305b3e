"""The model zoo: a registry of builders with keras.applications' argument names, and their weights.

`list_models()` and the records behind it load neither Keras nor TensorFlow; building a model does. Each family's module
has `preprocess_input` and `decode_predictions`, as in keras.applications.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
