"""Training recipes, and `fit_model`, which keeps the best weights and resumes an interrupted run."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
