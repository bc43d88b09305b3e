"""Training before the conversion: for quantisation, to zeros, to few distinct weights."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "exporting": ["export_trained"],
        "settings": ["Settings"],
        "training": ["Trained", "train_scheme"],
    },
)
