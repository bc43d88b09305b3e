"""The process in which a file runs: ``python -m keras_nin.edge.micro.runtime``, with one job as JSON on stdin.

It answers in lines of JSON on stdout; everything else that is printed, by the runtimes too, goes to stderr.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import time

MICRO, REFERENCE = "micro", "reference"
_PR_SET_PDEATHSIG = 1


def main():
    """Do the job on stdin; return the exit status.

    The job holds "engine" (`MICRO` or `REFERENCE`), "file", and "arena" in bytes for the former. With "inputs" (an .npz
    file with an array of samples for each input, by its number) it runs them until "seconds" are over, at least one,
    and writes the outputs to "outputs" in the same way; without, the network is only set up.
    """
    _guard()
    say = _own_stdout()
    job = json.loads(sys.stdin.readline())
    try:
        say({"phase": "load"})
        start = {MICRO: _micro, REFERENCE: _reference}[job["engine"]](job, say)
        say({"phase": "set up"})
        run, finish = start()
        if "inputs" in job:
            say({"phase": "run"})
            say({"samples": _run_all(run, job)})
        finish()
    except (RuntimeError, ValueError) as error:  # what both runtimes raise
        say({"error": " ".join(str(error).split())})
        return 1
    say({"phase": "done"})
    return 0


def _micro(job, say):
    """Return a function that sets the network up in an arena and returns two more: run a sample, and end."""
    try:
        import tflite_micro
        from tflite_micro import runtime
    except ImportError as error:
        say({"not_loaded": str(error)})
        raise RuntimeError("tflite-micro does not load") from None
    say({"package": tflite_micro.__version__})
    with open(job["file"], "rb") as file:
        content = file.read()

    def start():
        interpreter = runtime.Interpreter.from_bytes(content, arena_size=job["arena"])

        def run(sample):
            for index, array in enumerate(sample):
                interpreter.set_input(array, index)
            interpreter.invoke()
            return [interpreter.get_output(index) for index in range(job["output_count"])]

        return run, interpreter.print_allocations

    return start


def _reference(job, _):
    """Return the same for LiteRT's reference kernels."""
    from keras_nin.edge.micro.reference import ReferenceRunner

    def start():
        return ReferenceRunner(job["file"]).run, lambda: None

    return start


def _run_all(run, job):
    """Run samples until the time is over and keep their outputs; return how many."""
    import numpy as np

    with np.load(job["inputs"]) as stored:
        arrays = [stored[str(index)] for index in range(len(stored.files))]
    end = time.monotonic() + job["seconds"]
    found = []
    for sample in zip(*arrays, strict=True) if arrays else [()]:
        found.append([np.array(output) for output in run(sample)])
        if time.monotonic() > end:
            break
    np.savez(job["outputs"], **{str(index): np.stack(each) for index, each in enumerate(zip(*found, strict=True))})
    return len(found)


def _guard():
    """End with the parent, and leave no core file when a runtime aborts (Linux)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _own_stdout():
    """Return a function that writes a line of JSON to stdout, and send everything else there to stderr."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(document):
        stream.write(json.dumps(document) + "\n")
        stream.flush()

    return say


if __name__ == "__main__":
    sys.exit(main())
