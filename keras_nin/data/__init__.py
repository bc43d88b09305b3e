"""Images for calibration, training and tests: one `Dataset` record, with the preprocessing that belongs to it.

Everything loads on first use: importing this package imports neither Keras, scikit-learn nor Pillow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "dataset": ["Dataset"],
        "npz_files": ["NamedArrays", "open_arrays", "split_image_shape"],
        "preprocessing": ["PRESETS", "Preprocessing", "get_preset"],
        "sources": ["list_datasets", "open_dataset"],
    },
)
