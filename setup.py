"""keras-nin: a Keras model zoo around 1x1 convolutions, audited and exported to TFLite."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "keras_nin" / "__init__.py").read_text()).group(1)

EXTRAS = {
    "test": [
        "build>=1.2",
        "hypothesis>=6.100",
        "import-linter>=2.6",
        "markdown-it-py>=3",
        "pandas>=2.2",
        "pyright[nodejs]>=1.1.400",
        "pytest>=8",
        "pytest-xdist>=3.6",
        "pyyaml>=6",
        "ruff>=0.9",
        "setuptools>=77",
    ],
    "docs": ["mkdocs>=1.6", "mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"],
    "notebook": ["pandas>=2.2"],
    # For `export --converter litert`; the interface that it uses is not documented.
    "litert": ["jax>=0.10", "litert-converter>=0.5,<0.6"],
    "ethosu": ["ethos-u-vela>=5.2,<5.3"],
    # There are development releases alone, which pip takes where a bound names one, and for Linux on x86-64 alone.
    "micro": [
        "tflite-micro>=0.dev20261001000000,<0.dev20270101000000; "
        "sys_platform == 'linux' and platform_machine == 'x86_64'",
    ],
}

setup(
    name="keras-nin",
    version=VERSION,
    description="Keras model zoo around 1x1 convolutions, with exact audits and proven TFLite export",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["keras_nin", "keras_nin.*"]),
    package_data={
        "": ["*.j2", "*.json", "*.pyi", "*.toml"],
        "keras_nin": ["py.typed"],
        "keras_nin.models": ["weights/*"],
        "keras_nin.report": ["templates/*"],
    },
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.15,<3.16",
        "tf_keras>=2.21,<2.22",
        "tensorflow-model-optimization>=0.8.1",
        "ai-edge-litert>=2.3,<2.4",
        "numpy>=2",
        "click>=8.1",
        "flatbuffers>=25",
        "h5py>=3.12",
        "jinja2>=3.1",
        "lazy_loader>=0.4",
        "matplotlib>=3.9",
        "ml_dtypes>=0.5",
        "pillow>=11",
        "rich>=13",
        "safetensors>=0.5",
        "scikit-learn>=1.6",
        "scipy>=1.11",
    ],
    extras_require=EXTRAS | {"all": sorted({package for extra in EXTRAS.values() for package in extra})},
    entry_points={"console_scripts": ["keras-nin = keras_nin.cli.main:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
