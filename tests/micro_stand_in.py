"""A package `tflite_micro` for tests: allocates as the real one prints it, and computes with LiteRT's kernels."""

import textwrap

import tflite_writer as writer

PACKAGE = """
import os, sys
import numpy as np

__version__ = "0.stand-in"
HEAD, TAIL = 320, 1000 + 8  # not a multiple of 16: the smallest arena is 1,328, or what NEEDS says
NEEDS = int(os.environ.get("STAND_IN_NEEDS", HEAD + TAIL))


def _print(text):
    os.write(2, (text + "\\r\\n").encode())


class Interpreter:
    @classmethod
    def from_bytes(cls, content, arena_size):
        return cls(content, arena_size)

    def __init__(self, content, arena_size):
        if os.environ.get("STAND_IN_SAYS"):
            _print(os.environ["STAND_IN_SAYS"])
            os.abort()
        if arena_size < NEEDS:
            missing = NEEDS - arena_size
            _print(f"Failed to resize buffer. Requested: {HEAD}, available {HEAD - missing}, missing: {missing}")
            if arena_size < 256:
                os.kill(os.getpid(), 11)
            raise RuntimeError("TFLM failed to allocate tensors")
        from keras_nin.tflite.runner import TFLiteRunner
        self.runner, self.inputs = TFLiteRunner(content, batch=None, reference_kernels=True), {}

    def set_input(self, array, index):
        self.inputs[index] = array

    def invoke(self):
        self.outputs = self.runner.run_raw([self.inputs[index] for index in sorted(self.inputs)])
        return 0

    def get_output(self, index):
        wrong = np.zeros_like(self.outputs[index])
        wrong.flat[0] = int(os.environ.get("STAND_IN_WRONG", 0))
        return self.outputs[index] ^ wrong

    def print_allocations(self):
        _print(f"[RecordingMicroAllocator] Arena allocation total {HEAD + TAIL} bytes")
        _print(f"[RecordingMicroAllocator] Arena allocation head {HEAD} bytes")
        _print(f"[RecordingMicroAllocator] Arena allocation tail {TAIL} bytes")
        _print("[RecordingMicroAllocator] 'Things' used 24 bytes with alignment overhead (requested 20 bytes)")
"""


def install(folder, monkeypatch, package=PACKAGE):
    """Put the package where this process and its children find it."""
    place = folder / "stand_in" / "tflite_micro"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text('__version__ = "0.stand-in"\n')
    (place / "runtime.py").write_text(textwrap.dedent(package))
    monkeypatch.syspath_prepend(str(place.parent))
    monkeypatch.setenv("PYTHONPATH", str(place.parent))


def softmax(path, scale=0.1, beta=1.0, classes=10):
    """Write a file with one SOFTMAX, int8, and return its path."""
    tensors = [
        writer.tensor("logits", (1, classes), quantization=quantization(scale, 5)),
        writer.tensor("classes", (1, classes), quantization=quantization(1 / 256, -128)),
    ]
    return writer.write(path, tensors, [writer.operator("SOFTMAX", [0], [1], "SoftmaxOptions", beta=beta)])


def quantization(scale, zero_point):
    """Return a quantisation of a whole tensor."""
    return writer._record("QuantizationParameters", scale=[scale], zeroPoint=[zero_point])
