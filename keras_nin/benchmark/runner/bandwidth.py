"""Bandwidth of memory as in STREAM: NumPy copies and adds arrays larger than any cache, on several threads."""

import contextlib
import os
import pathlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_nin.child_runtime import read_sizes

_SECONDS = 0.6
_CACHES = pathlib.Path("/sys/devices/system/cpu/cpu0/cache")
_UNKNOWN_CACHE = 32 * 2**20
_CACHE_MULTIPLE = 4  # STREAM's rule: each array at least four times the last-level cache
_MIN_PASSES = 3
# Operation on slices (a, b, c), and the bytes it moves per byte of an array. As in STREAM, a cache line that is read
# because a part of it is written does not count.
_Operation = Callable[[Any, Any, Any], object]
_KERNELS: dict[str, tuple[_Operation, int]] = {
    "copy": (lambda a, b, c: np.copyto(a, b), 2),
    "add": (lambda a, b, c: np.add(b, c, out=a), 3),
}


def measure_bandwidth(threads: int, seconds: float = _SECONDS, array_bytes: int | None = None) -> dict[str, Any]:
    """Return the bandwidth of memory on `threads` threads as a JSON-ready dictionary."""
    cache = last_cache_bytes()
    if array_bytes is None:
        array_bytes = min(_CACHE_MULTIPLE * (cache or _UNKNOWN_CACHE), available_bytes() // 12)
    arrays = np.split(np.ones(3 * (array_bytes // 4), np.float32), 3)
    parts = list(zip(*(np.array_split(array, threads) for array in arrays), strict=True))
    rates = {
        name: moved * arrays[0].nbytes / _pass_ns(operate, parts, seconds / len(_KERNELS))
        for name, (operate, moved) in _KERNELS.items()
    }
    return {**rates, "gbytes_per_s": max(rates.values()), "array_bytes": arrays[0].nbytes, "cache_bytes": cache}


def _pass_ns(operate: _Operation, parts: Sequence[tuple[np.ndarray, ...]], seconds: float) -> float:
    """Return the ns in which all threads have gone over their parts, in the fastest tenth of the passes."""
    times: list[int] = []
    barrier, is_last = threading.Barrier(len(parts) + 1), threading.Event()

    def work(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        while True:
            barrier.wait()
            if is_last.is_set():
                return
            operate(a, b, c)
            barrier.wait()

    workers = [threading.Thread(target=work, args=part, daemon=True) for part in parts]
    for worker in workers:
        worker.start()
    end = time.perf_counter() + seconds
    while len(times) < _MIN_PASSES or time.perf_counter() < end:
        barrier.wait()
        start = time.perf_counter_ns()
        barrier.wait()
        times.append(time.perf_counter_ns() - start)
    is_last.set()
    barrier.wait()
    for worker in workers:
        worker.join()
    return float(np.percentile(times, 10))


def last_cache_bytes() -> int | None:
    """Return the size of the largest cache of the first core; None where Linux does not report it."""
    sizes = []
    for path in _CACHES.glob("index*/size"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            text = path.read_text().strip()
            sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[text[-1]])
    return max(sizes, default=None)


def available_bytes() -> int:
    """Return the bytes of memory that are free or can be freed; half a GiB where the system does not report it."""
    free = read_sizes("/proc/meminfo", "MemAvailable")["MemAvailable"]
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return free or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 2**29
