"""Exact audits: the parameters, MACs and activation memory of every layer, and the share of the 1x1 layers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
