"""Times of the claim paperspace-speed that no clock took: what its ratios, intervals and verdict are tested with."""

from keras_nin.benchmark.records import KernelTime, LatencyStatistics, LayerTime, Profile
from keras_nin.claims import speed

HOST = {"cpu": "a processor", "cores": 2, "litert": "2.3.0", "state": {"load_average": 0.25, "governor": None}}


def profile(layer, scheme, threads, *, call, kernel, load=1000.0, first=100.0):
    """Return the profile of one layer; times in us, `kernel` None for a runtime without a profiler."""
    total = LatencyStatistics(call, call, call, call, call, call)
    layers = ()
    if kernel is not None:
        us = KernelTime(kernel, kernel, kernel, kernel)
        layers = (
            LayerTime("conv1", "CONV_2D", (0,), "GEMM", "pointwise", None, None, us, None, None, None, 0, scheme),
        )
    name = f"{layer}_{scheme}.tflite"
    return Profile(name, "0", 0, HOST, threads, 100, True, total, load, first, 0, 0, "compiled_model", layers=layers)


def sample(turn, ratio=9.0, threads=(1, 2), kernel=True):
    """Return the `Sample` of a process in which the 3x3 layer takes `ratio` times as long, and a call 5 us more."""
    times = {speed.LAYER_1X1: 50.0, speed.LAYER_3X3: 50.0 * ratio}
    keys = [(layer, scheme, count) for scheme in speed.SCHEMES for layer in times for count in threads]
    profiles = {
        key: profile(*key, call=times[key[0]] + 5, kernel=times[key[0]] if kernel else None, first=2 * times[key[0]])
        for key in keys
    }
    return speed.ProcessSample((speed.LAYER_1X1, speed.LAYER_3X3)[turn % 2], profiles)


def use(monkeypatch):
    """Let the claim take such times in place of measuring."""
    monkeypatch.setattr(speed, "_export_layer", lambda layer, folder: {})
    monkeypatch.setattr(speed, "_measure_in_process", lambda paths, threads, turn: sample(turn, threads=threads))
