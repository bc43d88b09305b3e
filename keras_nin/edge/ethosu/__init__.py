"""What Arm's compiler Vela makes of a .tflite file on an Ethos-U NPU: cycles, memory and placement of every layer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "estimate": ["estimate_accelerator", "estimate_ethosu"],
        "records": [
            "ACCELERATORS",
            "DEFAULT_ACCELERATOR",
            "EthosUEstimate",
            "EthosUFinding",
            "EthosULayer",
            "EthosUResult",
        ],
    },
)
