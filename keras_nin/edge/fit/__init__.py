"""One .tflite file on several targets: this CPU measured, the Edge TPU judged, Ethos-U and TFLite Micro estimated."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "fitting": ["fit"],
        "records": ["Cpu", "EdgeTpu", "EthosU", "FileFit", "Fit", "Micro", "NoFigure", "Settings"],
    },
)
