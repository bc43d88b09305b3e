"""Training recipes, and a `fit` that keeps the best weights and resumes after an interruption."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "training": ["Recipe", "TrainResult", "fit_model", "get_recipe"],
    },
)
