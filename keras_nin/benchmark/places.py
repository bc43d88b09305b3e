"""Where a benchmark runs: on this machine, or on a device that a URL names."""

from keras_nin.benchmark import child
from keras_nin.errors import InputError

SCHEMES = ("ssh://[user@]host[:port]", "adb://SERIAL")


def open_place(url=None, python="python3", benchmark_model=None):
    """Return the function that carries a job out at a place, as `measure` and all others take it for `run`.

    Every job leaves nothing at the place: there is nothing to close.

    Args:
        url: ``ssh://[user@]host[:port]``, ``adb://SERIAL``; None for this machine.
        python: the interpreter on an ssh device.
        benchmark_model: LiteRT's tool for an Android device, its path there or here; None takes `adb.BENCHMARK_MODEL`.

    Raises:
        InputError: another URL.
    """
    if url is None:
        return child.run
    if url.startswith("ssh://"):
        from keras_nin.benchmark.ssh import Device

        return Device(url, python).run
    if url.startswith("adb://"):
        from keras_nin.benchmark.adb import BENCHMARK_MODEL, Phone

        return Phone(url, benchmark_model or BENCHMARK_MODEL).run
    raise InputError(f"Expected `--on` as {' or '.join(SCHEMES)}. Received: {url!r}")
