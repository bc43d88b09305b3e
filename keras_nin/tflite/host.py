"""What a latency is printed beside: the machine and the runtime."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform


def host():
    """Return what a latency is printed beside: processor, usable cores, system, Python and LiteRT versions."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "litert": importlib.metadata.version("ai-edge-litert"),
    }


def _cpu():
    """Return the processor's name: on ARM boards, where Linux gives none, the board's."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/device-tree/model").read_text().strip("\0\n ")
    return platform.processor() or platform.machine()


def state():
    """Return what makes a latency worse than it could be: load average and, where Linux tells it, the governor."""
    governor = None
    with contextlib.suppress(OSError):
        governor = pathlib.Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    load = None
    with contextlib.suppress(OSError):
        load = os.getloadavg()[0]
    return {"load_average": load, "governor": governor}
