"""What well-known articles say about 1x1 convolution, reproduced: their figures, ours, and where each claim holds."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
