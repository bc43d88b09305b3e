"""LiteRT with its reference kernels, whose integer arithmetic TFLite Micro's kernels share."""

from keras_nin.tflite.run import Runner


class ReferenceRunner(Runner):
    """A `Runner` on the reference kernels, at the batch of the file, that takes and gives raw arrays."""

    def __init__(self, source):
        from keras_nin.tflite.graph import read

        graph = read(source)
        shapes = [graph.main.tensors[index].shape for index in graph.main.inputs]
        batch = max((shape[0] for shape in shapes if len(shape) > 1), default=1)
        super().__init__(source, batch=max(batch, 1))

    def _interpreter_options(self):
        from ai_edge_litert.interpreter import OpResolverType

        return {"experimental_op_resolver_type": OpResolverType.BUILTIN_REF}

    def run(self, arrays):
        """Return all outputs for one array for each input, all as the file has them."""
        self._invoke(arrays, 0)
        return [self._interpreter.get_tensor(index) for index in self.graph.main.outputs]
