"""Time and memory of an int8 export against TensorFlow's bare converter, on the same model and calibration images.

python benchmarks/export.py [REPETITIONS [MODEL...]]

Each measurement is a process of its own, ours and the bare converter's in turns. Measured is from the Keras model to
the written file; the start of the process, building the model and proving the file are printed apart.
"""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

LIMIT = 1.15
MODELS = ("nin_digits", "squeezenet_v1_1")
IMAGES = 100


def main(repetitions=5, *models):
    """Print medians and ratios for every model."""
    for model in models or MODELS:
        runs = {"bare": [], "ours": []}
        for _ in range(int(repetitions)):
            for way, found in runs.items():
                found.append(_in_a_process(way, model))
        medians = {
            way: {key: statistics.median(run[key] for run in found) for key in found[0]} for way, found in runs.items()
        }
        print(f"{model}, int8, {IMAGES} calibration images, median of {repetitions}")
        for way, median in medians.items():
            print(f"  {way}: {_text(median)}")
        for key, what in (("seconds", "time"), ("busy", "processor time"), ("grown", "memory")):
            ratios = [ours[key] / bare[key] for ours, bare in zip(runs["ours"], runs["bare"], strict=True)]
            ratio = medians["ours"][key] / medians["bare"][key]
            verdict = "" if ratio <= LIMIT else f"  over {LIMIT}"
            print(f"  {what}: ratio {ratio:.3f} (of pairs {min(ratios):.3f} to {max(ratios):.3f}){verdict}")


def _text(median):
    proof = f", proof {median['proof']:.2f} s" if "proof" in median else ""
    return (
        f"{median['seconds']:.2f} s ({median['busy']:.2f} s of the processor), "
        f"peak {median['grown']:.0f} MiB above the {median['before']:.0f} MiB before; "
        f"apart: start and model {median['start']:.2f} s{proof}"
    )


def _in_a_process(way, model):
    words = [sys.executable, __file__, "--measure", way, model]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def _measure(way, name):
    """Print the figures of one export as JSON."""
    start = time.perf_counter()
    import numpy as np
    import tensorflow as tf

    from keras_nin import models
    from keras_nin.export import (
        verify_files,  # noqa: F401 - whoever measures first would pay for the import
    )

    model = models.build_model(name)
    images = np.random.default_rng(0).random((IMAGES, *model.input_shape[1:]), np.float32)
    tf.zeros(1).numpy()  # TensorFlow's own start
    found = {"start": time.perf_counter() - start, "before": _peak(reset=True)}
    with tempfile.TemporaryDirectory() as folder:
        start, busy = time.perf_counter(), time.process_time()
        path = {"ours": _ours, "bare": _bare}[way](model, images, pathlib.Path(folder))
        found["seconds"] = time.perf_counter() - start
        found["busy"] = time.process_time() - busy
        found["grown"] = _peak() - found["before"]
        if way == "ours":
            found["proof"] = _proof(model, path, images)
    print(json.dumps(found))


def _ours(model, images, folder):
    from keras_nin.export import convert_model

    return convert_model(model, "int8", images).save(folder)


def _bare(model, images, folder):
    import keras
    import tensorflow as tf

    inputs = keras.Input(batch_shape=(1, *model.input_shape[1:]))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(inputs, model(inputs, training=False)))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    path = folder / "model.tflite"
    path.write_bytes(converter.convert())
    return path


def _proof(model, path, images):
    from keras_nin.export import verify_files
    from keras_nin.tflite.runner import TFLiteRunner

    start = time.perf_counter()
    verify_files(model, [TFLiteRunner(path)], [(images, None)], source="noise", random_weights=True)
    return time.perf_counter() - start


def _peak(reset=False):
    """Return the largest resident memory in MiB, since the last reset where Linux lets it be reset."""
    if reset:
        try:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            print("The peak since the start of the process counts: it cannot be reset here.", file=sys.stderr)
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        _measure(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
