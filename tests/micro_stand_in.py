"""A package `tflite_micro` for tests: allocates as the real one prints it, and computes with LiteRT's kernels."""

import functools
import textwrap

import numpy as np
import tflite_writer as writer

from keras_nin.edge.micro import measurement, runtime
from keras_nin.tflite.runner import TFLiteRunner

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


def install_engine(monkeypatch, **options):
    """Let an `Engine` run every job of `measure_micro` in this process, which is quicker."""
    monkeypatch.setattr(measurement, "require_tflite_micro", lambda: None)
    measure = functools.partial(measurement.measure_micro, run=Engine(**options))
    monkeypatch.setattr(measurement, "measure_micro", measure)


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


class Engine:
    """Runs jobs as `runtime.run_job` does, but in this process, with the answers of the package above.

    Attributes:
        needs: bytes that the smallest arena has at least.
        wrong: bits that TFLite Micro gets wrong in the first value of each output.
        micro, reference: outcome of every job on TFLite Micro, and on the reference kernels; None computes them.
    """

    HEAD, TAIL = 320, 1008

    def __init__(self, needs=1328, wrong=0, micro=None, reference=None):
        self.needs, self.wrong, self.outcomes = needs, wrong, {runtime.MICRO: micro, runtime.REFERENCE: reference}

    def __call__(self, job, timeout):
        is_micro = job.engine == runtime.MICRO
        if self.outcomes[job.engine]:
            return self.outcomes[job.engine]
        if is_micro and job.arena < self.needs:
            log = f"Failed to resize buffer. Requested: 320, available 0, missing: {self.needs - job.arena}"
            return runtime.RuntimeOutcome(1, log, {"phase": "set up", "package": "0.stand-in"})
        try:
            runner = TFLiteRunner(job.file, batch=None, reference_kernels=True)
        except (RuntimeError, ValueError) as error:
            return runtime.RuntimeOutcome(1, "", {"phase": "set up", "error": str(error)})
        runtime._run_samples(lambda sample: self.spoil(runner.run_raw(sample), is_micro), job)
        log = (
            f"[x] Arena allocation total {self.HEAD + self.TAIL} bytes\n[x] Arena allocation head {self.HEAD} bytes\n"
            f"[x] Arena allocation tail {self.TAIL} bytes\n[x] 'Things' used 24 bytes with alignment overhead\n"
        )
        return runtime.RuntimeOutcome(0, log, {"phase": "done", "package": "0.stand-in"})

    def spoil(self, outputs, is_micro):
        outputs = [np.array(output) for output in outputs]
        for output in outputs if is_micro else ():
            output.flat[0] ^= self.wrong
        return outputs
