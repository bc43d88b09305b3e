"""1x1 building blocks: functions that give a model whose layers are all seen by name, and Keras Layer classes.

A class is one layer, serializable, over the same definition. Loading this package does not load Keras; a block does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
