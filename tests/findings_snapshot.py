"""The findings on whole networks as one reviewed file: `python tests/findings_snapshot.py` writes it anew."""

import json
import pathlib

import keras

from keras_nin import models
from keras_nin.audit import audit_model

PATH = pathlib.Path(__file__).with_suffix(".json")
APPLICATIONS = (
    *("ConvNeXtTiny", "ConvNeXtSmall", "DenseNet121", "DenseNet169", "DenseNet201", "EfficientNetB0"),
    *("EfficientNetB1", "EfficientNetB2", "EfficientNetV2B0", "EfficientNetV2S", "InceptionResNetV2", "InceptionV3"),
    *("MobileNet", "MobileNetV2", "MobileNetV3Large", "MobileNetV3Small", "NASNetMobile", "ResNet101"),
    *("ResNet101V2", "ResNet152", "ResNet152V2", "ResNet50", "ResNet50V2", "VGG16", "VGG19", "Xception"),
)
_LARGE = ("InceptionResNetV2", "InceptionV3", "Xception")
_SHOWN = 12


def build(name):
    """The zoo's model or the network of keras.applications `name`, its layers numbered from the start."""
    keras.backend.clear_session()
    if name not in APPLICATIONS:
        return models.build_model(name)
    side = 299 if name in _LARGE else 224
    return getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3))


def summary(findings):
    """Rule -> how often, which layers (the first of many), and the sum of what is saved."""
    rules = {}
    for finding in findings:
        entry = rules.setdefault(finding.rule, {"count": 0, "layers": [], "saves": dict.fromkeys(finding.saves, 0)})
        entry["count"] += 1
        entry["layers"] += finding.layers
        entry["saves"] = {key: value + finding.saves[key] for key, value in entry["saves"].items()}
    for entry in rules.values():
        more = len(entry["layers"]) - _SHOWN
        entry["layers"] = [*entry["layers"][:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
    return rules


def main():
    """Write the file: a line a rule."""
    networks = {}
    for name in (*models.list_models(), *APPLICATIONS):
        rules = summary(audit_model(build(name)).findings)
        lines = [f"  {json.dumps(rule)}: {json.dumps(entry)}" for rule, entry in rules.items()]
        networks[name] = "{\n" + ",\n".join(lines) + "\n }" if lines else "{}"
    entries = ",\n".join(f" {json.dumps(name)}: {text}" for name, text in networks.items())
    PATH.write_text("{\n" + entries + "\n}\n")


if __name__ == "__main__":
    main()
