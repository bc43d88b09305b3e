"""CPUs that QEMU emulates, and this machine itself, as devices that run the same runner as ssh devices do."""

import dataclasses
import hashlib
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from keras_nin import files
from keras_nin.benchmark.devices import RUNNER_NAME, build_runner_archive, last_line
from keras_nin.errors import InputError, check_choice
from keras_nin.files import AnyPath

SCHEME = "qemu://"
# Their names: the CPUs of Raspberry Pi 3, 4 and 5, and all features that QEMU has but one.
EMULATED_CPUS = {"cortex-a53": "Cortex-A53", "cortex-a72": "Cortex-A72", "cortex-a76": "Cortex-A76",
                 "max": "all features but SME"}  # fmt: skip
# The products of 8-bit integers that SME of QEMU 7.2 computes are wrong.
_QEMU_OPTIONS = {"max": ",sme=off"}
_SILENCE_SECONDS = 7200.0  # one run of a large network in the reference kernels takes many minutes
_HOST_SILENCE_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class LocalDevice:
    """A process of this machine that runs files; see `keras_nin.benchmark.devices.RunnerDevice`.

    Attributes:
        url: what messages call it.
        python: the words that start its Python.
        cpu: name of an emulated CPU.
        silence: the longest that a run takes without a sign, in seconds.
    """

    url: str
    python: tuple[str, ...]
    cpu: str | None = None
    silence: float = _HOST_SILENCE_SECONDS

    @property
    def host_facts(self) -> dict[str, Any]:
        """What the process does not know of the machine."""
        return {} if self.cpu is None else {"cpu": f"{self.cpu} (emulated by QEMU)", "emulated": True}

    def store(self, contents: Mapping[bytes, str], local: str) -> dict[bytes, str]:
        """Write the runner and some contents to a folder, and return their paths there."""
        paths = {}
        for content, suffix in {build_runner_archive(): f".{RUNNER_NAME}", **contents}.items():
            path = pathlib.Path(local) / f"{hashlib.sha256(content).hexdigest()}{suffix}"
            if not path.exists():
                files.write_file(path, content)
            paths[content] = str(path)
        return paths

    def runner_command(self, paths: Mapping[bytes, str], local: str) -> list[str]:
        """Return the command that runs the runner, after `store` returned `paths`."""
        return [*self.python, paths[build_runner_archive()]]

    def connection_error(self, status: int | None, log: str | None, local: str) -> InputError | None:
        """Return why the runner ended before it answered; `log` is None where it did answer."""
        return None if log is None else self.error(f"the runner did not start: {last_line(log)}")

    def error(self, problem: str) -> InputError:
        """Return the error of a device that cannot be used."""
        message = f"Expected a device that runs .tflite files. Received: {self.url}: {problem}"
        return InputError(message, argument="device")


def this_machine() -> LocalDevice:
    """Return this machine."""
    return LocalDevice("host", (sys.executable,))


def emulated_device(url: str, root: AnyPath | None = None) -> LocalDevice:
    """Return the device of ``qemu://CPU``, with one of `EMULATED_CPUS`.

    Args:
        root: what `keras_nin.benchmark.qemu_root.install_qemu` made; None takes the one in the user's cache.

    Raises:
        InputError: another CPU, or nothing is installed.
    """
    cpu = check_choice("device", url.removeprefix(SCHEME).rstrip("/"), tuple(EMULATED_CPUS))
    root = default_root() if root is None else pathlib.Path(root)
    if not is_installed(root):
        message = f"{url} needs QEMU and an ARM root file system. Run: keras-nin devices install qemu"
        raise InputError(message, argument="device", path=root)
    return LocalDevice(url, emulated_python(root, cpu), EMULATED_CPUS[cpu], _SILENCE_SECONDS)


# The folder: QEMU, an ARM root file system, Python packages, and for each CPU links to the root and a /proc/cpuinfo.
RECORD_NAME = "installed.json"
QEMU_NAME, PACKAGES_NAME = "qemu-aarch64-static", "site"


def default_root() -> pathlib.Path:
    """Return the folder of QEMU and the ARM root file system in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(cache) / "keras-nin" / "qemu"


def is_installed(root: pathlib.Path | None = None) -> bool:
    """Whether a folder, None for `default_root`, holds all of it."""
    root = root or default_root()
    parts = (RECORD_NAME, QEMU_NAME, PACKAGES_NAME, *(f"cpus/{cpu}/usr" for cpu in EMULATED_CPUS))
    return all((root / part).exists() for part in parts)


def emulated_python(root: pathlib.Path, cpu: str) -> tuple[str, ...]:
    """Return the words that start the ARM Python on a CPU: nothing of this process's environment goes there."""
    root = root.absolute()
    prefix = root / "cpus" / cpu
    variables = (f"PYTHONHOME={prefix}/usr", f"PYTHONPATH={root}/{PACKAGES_NAME}")
    python = next(iter(sorted((prefix / "usr" / "bin").glob("python3.*"))), prefix / "usr" / "bin" / "python3")
    return (
        "env",
        "-i",
        *variables,
        str(root / QEMU_NAME),
        "-cpu",
        f"{cpu}{_QEMU_OPTIONS.get(cpu, '')}",
        "-L",
        str(prefix),
        str(python),
    )
