"""What a latency is printed with: machine and runtime. Shipped to devices: Python 3.10, no other module of ours."""

import contextlib
import os
import pathlib
import platform
from typing import Any


def describe_host() -> dict[str, Any]:
    """Return processor, usable cores, system, and the versions of Python and LiteRT."""
    import importlib.metadata

    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "litert": importlib.metadata.version("ai-edge-litert"),
    }


def _cpu_name() -> str:
    """Return the processor's name: on ARM boards, where Linux gives none, the board's."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/device-tree/model").read_text().strip("\0\n ")
    return platform.processor() or platform.machine()


def describe_load() -> dict[str, Any]:
    """Return what makes a latency worse: load average and, where Linux tells it, the cores' frequency governors."""
    load, governors = None, set()
    with contextlib.suppress(OSError):
        load = os.getloadavg()[0]
    with contextlib.suppress(OSError):
        for path in pathlib.Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"):
            governors.add(path.read_text().strip())
    return {"load_average": load, "governor": ", ".join(sorted(governors)) or None}


def cpu_busy_seconds() -> "float | None":
    """Return for how long all cores together, by any guest, were in use since boot; None where Linux does not tell."""
    try:
        line = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0]
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
