"""1x1 building blocks, as functions on Keras tensors and as Keras Layer classes over the same definition.

The functions give a model whose `summary()` and whose exported operators show every layer by name
("fire2_squeeze1x1"); the classes (`Conv1x1`, `MLPConv`, `Fire`, `InceptionModule`, ...) are one layer each and
serializable. Loading this package does not load Keras; using a block does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
