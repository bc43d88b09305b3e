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
        "googlenet": ["GoogLeNet", "GoogLeNetBN", "GoogLeNetCIFAR10"],
        "inception_v3": ["InceptionV3"],
        "nin": ["NiNCIFAR10", "NiNCIFAR100", "NiNCIFAR10BN", "NiNDigits", "NiNImageNet"],
        "registry": ["LoadedModel", "build_model", "get_spec", "list_models", "load_model"],
        "squeezenet": [
            "SqueezeNet1_0",
            "SqueezeNet1_0ComplexBypass",
            "SqueezeNet1_0SimpleBypass",
            "SqueezeNet1_1",
            "SqueezeNetCIFAR10",
        ],
        "weight_files": ["hash_weights", "load_weights"],
    },
)
