"""Images for calibration, training and tests: one `Dataset` record, with the preprocessing that belongs to it.

Everything loads on first use: importing this package imports neither Keras, scikit-learn nor Pillow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
