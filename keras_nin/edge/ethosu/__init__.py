"""Estimates of a .tflite file on an Ethos-U NPU by Arm's compiler Vela: cycles, memory and target of every layer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "estimate": ["estimate_ethosu"],
        "records": ["ACCELERATORS", "EthosUEstimate", "EthosUResult", "check_ethosu_limits", "parse_ethosu_limits"],
        "vela": ["VelaOptions"],
    },
)
