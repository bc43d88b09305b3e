"""Structured pruning: the channels of a network that can be removed, which to remove, and the network without them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
