"""The model zoo: a registry of builders with keras.applications' argument names, and their weights.

`list_models()` and the records behind it load neither Keras nor TensorFlow; building a model does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "articles": [
            "ConvNetExtraReLU",
            "ConvNetLinearHead",
            "ConvNetPointwiseHead",
            "DeepPhysSoftConv",
            "SingleConvolution",
        ],
        "dense_to_conv": ["dense_to_conv"],
        "googlenet": ["GoogLeNet", "GoogLeNetBN", "GoogLeNetCIFAR10"],
        "inception_v3": ["InceptionV3"],
        "loading": ["Loaded", "load"],
        "nin": ["NiNCIFAR10", "NiNCIFAR10BN", "NiNCIFAR100", "NiNDigits", "NiNImageNet"],
        "registry": ["build", "list_models", "spec"],
        "squeezenet": [
            "SqueezeNet1_0",
            "SqueezeNet1_0ComplexBypass",
            "SqueezeNet1_0SimpleBypass",
            "SqueezeNet1_1",
            "SqueezeNetCIFAR10",
        ],
        "weight_files": ["load_weights", "weights_digest"],
    },
)
