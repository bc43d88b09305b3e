"""Time files of one operator each as in their network: inputs just written, weights not, the processor at work."""

import time

import numpy as np

from keras_nin.benchmark.runner.interpreter import noise

_WARM_UP_RUNS = 2
# Processors put wide vector units to sleep within a millisecond, and take tens of microseconds to wake them.
_AWAKE_SECONDS = 1e-4
_LEAST_TURNS, _MOST_TURNS = 10, 2000


class Operator:
    """A file of one operator in TensorFlow Lite's interpreter.

    In a network an operator reads what was written just before, writes to memory that was used just before, and finds
    the vector units awake, while its weights were last read in the run before. So `turn` first writes the inputs and
    the outputs, and lets a `primer` run; whoever lets many operators take turns gets the weights' part.

    Args:
        path: the file.
        threads: number of threads.

    Raises:
        RuntimeError, ValueError: the runtime does not take the file.
    """

    def __init__(self, path, threads):
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._inputs = [(entry["index"], _values(entry)) for entry in self._interpreter.get_input_details()]
        self.times = []
        for _ in range(_WARM_UP_RUNS):
            self._refresh()
            self._interpreter.invoke()
        # Outputs whose size depends on the values exist only now.
        self._outputs = [entry["index"] for entry in self._interpreter.get_output_details()]

    _outputs = ()

    def _refresh(self):
        for index, values in self._inputs:
            self._interpreter.set_tensor(index, values)
        for index in self._outputs:
            self._interpreter.tensor(index)().fill(0)

    def run(self):
        """Run once."""
        self._interpreter.invoke()

    def turn(self, primer):
        """Run once and keep the nanoseconds; `primer` is an `Operator` that runs before."""
        self._refresh()
        awake = time.perf_counter() + _AWAKE_SECONDS
        while time.perf_counter() < awake:
            primer.run()
        start = time.perf_counter_ns()
        self._interpreter.invoke()
        self.times.append(time.perf_counter_ns() - start)

    def summary(self):
        """Return the statistics in us as a JSON-ready dictionary."""
        us = np.array(self.times) / 1000
        return {"median": float(np.median(us)), "mean": float(us.mean()), "p90": float(np.percentile(us, 90))}


def measure(job, out):
    """Do a job with ``"alone": true``: its models take turns for its seconds, the first as primer of all others.

    Return the exit status.

    Args:
        job: see `runner.main`; of its other entries `models` and `seconds` count.
        out: function that writes a line.
    """
    operators = []
    for index, model in enumerate(job["models"]):
        try:
            operators.append(Operator(model["file"], model["threads"]))
        except (RuntimeError, ValueError, OSError) as error:
            out({"error": {"model": index, "message": " ".join(str(error).split()) or type(error).__name__}})
            return 1
    end = time.perf_counter() + job["seconds"]
    turns = 0
    while turns < _LEAST_TURNS or (turns < _MOST_TURNS and time.perf_counter() < end):
        for operator in operators:
            operator.turn(operators[0])
        turns += 1
    for model, operator in zip(job["models"], operators, strict=True):
        out({"result": {**model, "us": operator.summary(), "runs": turns}})
    return 0


def _values(entry):
    dtype = entry["dtype"].__name__.rstrip("_")  # NumPy's "bool_" is a bool
    return noise(tuple(entry["shape"]), dtype, bool(entry["quantization"][0]))
