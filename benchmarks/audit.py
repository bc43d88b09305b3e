"""How long audits take, as ratios within one run: against `model.summary()`, by size, and from a file.

python benchmarks/audit.py [FILE.tflite]

Takes minutes, most of them for Keras to build the large graphs.
"""

import io
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SUMMARY_LIMIT = 0.5  # of the time of model.summary()
FILE_LIMIT_SECONDS = 0.8
BRANCHES = 20
BRANCH_LAYERS = (25, 50, 125, 250, 500)  # one chain: Keras takes less than a thousand layers in a row
RUNS = 7


def main(path=None):
    """Print every measurement, with its limit where it has one."""
    against_summary()
    by_size()
    if path:
        from_file(path)


def against_summary():
    """Audit of InceptionV3 and its summary, interleaved."""
    import keras

    from keras_nin.audit import audit_model

    model = keras.applications.InceptionV3(weights=None)
    out = io.StringIO()
    times = interleaved(
        {"audit": lambda: audit_model(model), "summary": lambda: model.summary(print_fn=out.write)}, RUNS
    )
    print(f"InceptionV3, median of {RUNS}: audit {1000 * times['audit']:.0f} ms, ", end="")
    ratio = times["audit"] / times["summary"]
    print(f"model.summary() {1000 * times['summary']:.0f} ms, ratio {verdict(ratio, SUMMARY_LIMIT)}")


def by_size():
    """Graphs of `BRANCHES` branches, longer and longer: the time of a layer should not grow with their number."""
    from keras_nin.audit import audit_model

    first = None
    for length in BRANCH_LAYERS:
        model = branches(length)
        # Time of the process, which other work on the machine does not lengthen.
        seconds = interleaved({"audit": lambda model=model: audit_model(model)}, 3, time.process_time)["audit"]
        layers = BRANCHES * length
        first = first or seconds / layers
        each = seconds / layers
        print(f"{BRANCHES} branches of {length:3}: {layers:6,} layers, {1000 * seconds:8.1f} ms, ", end="")
        print(f"{1e6 * each:6.1f} us a layer, {each / first:4.2f} x the first")


def branches(length):
    """A model whose branches are chains of a 1x1 convolution, normalisation, activation and addition."""
    import keras

    keras.backend.clear_session()
    x = keras.Input((8, 8, 4))
    ends = []
    for branch in range(BRANCHES):
        y = x
        for number in range(length):
            name = f"branch{branch}_{number}"
            makers = (
                lambda y, name: keras.layers.Conv2D(4, 1, use_bias=False, name=f"{name}_conv")(y),
                lambda y, name: keras.layers.BatchNormalization(name=f"{name}_bn")(y),
                lambda y, name: keras.layers.ReLU(name=f"{name}_relu")(y),
                lambda y, name: keras.layers.Add(name=f"{name}_add")([x, y]),
            )
            y = makers[number % len(makers)](y, name)
        ends.append(y)
    return keras.Model(x, keras.layers.Concatenate(name="join")(ends))


def from_file(path):
    """`python -m keras_nin audit FILE` from start to end, against Python alone."""
    commands = {"python -c pass": ["-c", "pass"], f"audit {path}": ["-m", "keras_nin", "audit", path]}
    runs = {
        name: lambda words=words: subprocess.run([sys.executable, *words], check=True, capture_output=True)
        for name, words in commands.items()
    }
    times = interleaved(runs, RUNS)
    reference, seconds = times.values()
    print(f"python -m keras_nin audit {path}: {verdict(seconds, FILE_LIMIT_SECONDS)} s, ", end="")
    print(f"{seconds / reference:.1f} x python -c pass ({reference:.3f} s)")


def verdict(value, limit):
    """The value, with a note where it is over the limit."""
    return f"{value:.2f}" + (f" (over {limit})" if value > limit else f" (limit {limit})")


def interleaved(functions, runs, clock=time.perf_counter):
    """Median seconds of each of `functions` (name -> callable), called in turns after one call that does not count."""
    times = {name: [] for name in functions}
    for run in range(runs + 1):
        for name, function in functions.items():
            start = clock()
            function()
            if run:
                times[name].append(clock() - start)
    return {name: statistics.median(found) for name, found in times.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
