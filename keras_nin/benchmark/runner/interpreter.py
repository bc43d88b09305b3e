"""A .tflite file in TensorFlow Lite's interpreter: where the C API is not available, and for external delegates."""

from keras_nin.benchmark.runner.litert import noise


class InterpretedModel:
    """A .tflite file ready to run; `run` is one invocation. A context manager like `litert.CompiledModel`.

    Args:
        path: the file.
        threads: number of threads.
        delegate: path of a delegate's shared library, such as libedgetpu.so.1; None for XNNPACK.

    Raises:
        RuntimeError, ValueError, OSError: the runtime does not take the file, an input is of a type that cannot be
            filled, or the delegate does not load.
    """

    signatures = 1  # an invocation runs the main subgraph, whatever the signatures are

    def __init__(self, path, threads=1, delegate=None):
        from ai_edge_litert.interpreter import Interpreter, load_delegate

        delegates = [load_delegate(delegate)] if delegate else None
        self._interpreter = Interpreter(model_path=str(path), num_threads=threads, experimental_delegates=delegates)
        self._interpreter.allocate_tensors()
        for entry in self._interpreter.get_input_details():
            scale, _ = entry["quantization"]
            dtype = getattr(entry["dtype"], "__name__", "none").rstrip("_")  # NumPy's "bool_" is a bool
            self._interpreter.set_tensor(entry["index"], noise(tuple(entry["shape"]), dtype, bool(scale)))
        self.run = self._interpreter.invoke

    def __enter__(self):
        return self

    def __exit__(self, *error):
        del self.run, self._interpreter
