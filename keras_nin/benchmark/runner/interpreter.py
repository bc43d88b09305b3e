"""A .tflite file in TensorFlow Lite's interpreter: where the C API is not available, and for external delegates."""

from keras_nin.benchmark.runner.litert import noise


class InterpretedModel:
    """A .tflite file ready to run; `run` is one invocation. A context manager like `litert.CompiledModel`.

    Args:
        path: the file.
        threads: number of threads.
        delegate: path of a delegate's shared library, such as libedgetpu.so.1; None for XNNPACK.

    Raises:
        RuntimeError, ValueError: the runtime does not take the file, or the delegate does not load.
    """

    def __init__(self, path, threads=1, delegate=None):
        from ai_edge_litert.interpreter import Interpreter, load_delegate

        delegates = [load_delegate(delegate)] if delegate else None
        self._interpreter = Interpreter(model_path=str(path), num_threads=threads, experimental_delegates=delegates)
        self._interpreter.allocate_tensors()
        for entry in self._interpreter.get_input_details():
            scale, _ = entry["quantization"]
            values = noise(tuple(entry["shape"]), entry["dtype"].__name__, bool(scale))
            self._interpreter.set_tensor(entry["index"], values)
        self.run = self._interpreter.invoke

    def __enter__(self):
        return self

    def __exit__(self, *error):
        del self.run, self._interpreter
