"""QEMU and an ARM root file system in the user's cache: Debian's packages and wheels, unpacked without root rights."""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence

from keras_nin import files
from keras_nin.benchmark.emulator import (
    EMULATED_CPUS,
    PACKAGES_NAME,
    QEMU_NAME,
    RECORD_NAME,
    default_root,
    emulated_python,
    is_installed,
)
from keras_nin.child_process import ProcessResult, ProcessStartError, describe_status, run_process
from keras_nin.errors import InputError
from keras_nin.files import AnyPath
from keras_nin.schemas import record_from_json

_SECONDS = 1800  # of one step, over a slow line
_GLIBC_MINORS = range(17, 42)  # of manylinux_2_NN
_WHEEL_BYTES = 31_000_000
# The features of AT_HWCAP and AT_HWCAP2 by bit, as Linux lists them in /proc/cpuinfo: runtimes choose kernels by them,
# and one that the CPU lacks ends in an illegal instruction.
_HWCAPS = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 "
    "sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg",
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm bf16 "
    "dgh rng bti mte ecv afp rpres mte3 sme smei16i64 smef64f64 smei8i32 smef16f32 smeb16f32 smef32f32 smefa64",
)
_READ_HWCAPS = """
import ctypes; get = ctypes.CDLL(None).getauxval; get.restype = ctypes.c_ulong; print(get(16), get(26))"""
# By these LiteRT knows the cores; one that it does not know ends in a crash, so that "max" has that of a Cortex-A76.
_CPU_PARTS = {"cortex-a53": "0xd03", "cortex-a72": "0xd08", "cortex-a76": "0xd0b", "max": "0xd0b"}
_CPUINFO = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 1

"""

# Of apt-get, of pip, and of what dpkg-deb starts.
_ERROR_LINE = re.compile(r"^E(RROR)?: |No space left on device")
# What apt-get runs after it read lists, for the programs of this machine.
_APT_CONFIG = (
    "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
)

Update = Callable[[str], object]


@dataclasses.dataclass(frozen=True)
class QemuRoot:
    """What was installed: its folder, whether just now, and the names of the packages with the bytes that they took."""

    folder: pathlib.Path
    is_new: bool
    packages: dict[str, int]

    @property
    def litert(self) -> str:
        """Version of LiteRT on the emulated CPUs."""
        return next((name.split("-")[1] for name in self.packages if name.startswith("ai_edge_litert-")), "")


def install_qemu(folder: AnyPath | None = None, *, say: Update = print, update: Update | None = None) -> QemuRoot:
    """Fetch and unpack QEMU and an ARM root file system with Python, NumPy and the LiteRT of this machine.

    apt-get checks the signatures and hashes of the packages, pip the hashes of the wheels. The folder appears when all
    of it is there; one with the same LiteRT is left as it is.

    Args:
        folder: where; None takes `default_root`.
        say, update: called with what is fetched and how large it is, before, and with what is being done.

    Raises:
        InputError: no apt-get, dpkg-deb or pip, no network, or a package that does not exist.
    """
    folder = default_root() if folder is None else pathlib.Path(folder)
    update = update or (lambda text: None)
    version = importlib.metadata.version("ai-edge-litert")
    known = _read_record(folder)
    if known is not None and known.litert == version:
        return known
    _check_programs()
    with files.replace_folder(folder) as new:
        scratch = new / "scratch"
        apt = _Apt(scratch)
        update("Reading the lists of packages")
        apt.update()
        packages = apt.resolve()
        _announce(packages, version, folder, say)
        update("Fetching packages")
        archives = apt.download(packages)
        update("Fetching wheels")
        wheels = _download_wheels(version, apt.python_version, scratch / "wheels")
        update("Unpacking")
        _unpack(archives, wheels, new)
        update("Starting each CPU")
        _write_cpus(new)
        _run([*emulated_python(new, "cortex-a53"), "-c", "import ai_edge_litert.interpreter"], "The emulated Python")
        sizes = {path.name: path.stat().st_size for path in (*archives, *wheels)}
        shutil.rmtree(scratch)
        files.write_file(new / RECORD_NAME, files.dump_json({"packages": sizes}))
    return QemuRoot(folder, True, sizes)


@dataclasses.dataclass(frozen=True)
class _Record:
    packages: dict[str, int]


def _read_record(folder: pathlib.Path) -> QemuRoot | None:
    """Return what a folder has; None where parts are missing or the record is damaged."""
    if not is_installed(folder):
        return None
    try:
        record = record_from_json(_Record, files.read_json(folder / RECORD_NAME))
    except InputError:
        return None
    return QemuRoot(folder, False, record.packages)


def _check_programs() -> None:
    missing = [name for name in ("apt-get", "apt-cache", "dpkg", "dpkg-deb") if shutil.which(name) is None]
    if missing:
        expected = "Expected Debian's package tools, which fetch and unpack the ARM root file system"
        raise InputError(f"{expected}. Received: a machine without {', '.join(missing)}")


def _announce(packages: Sequence["_Package"], version: str, folder: pathlib.Path, say: Update) -> None:
    size, names = sum(package.size for package in packages) / 1e6, ", ".join(package.name for package in packages)
    say(
        f"Fetching {len(packages)} Debian packages ({size:.0f} MB: {names}) and the "
        f"wheels of numpy and ai-edge-litert {version} (about {_WHEEL_BYTES / 1e6:.0f} MB), unpacked to {folder}"
    )


def _run(command: Sequence[str], what: str, *, folder: pathlib.Path | None = None) -> ProcessResult:
    """Run a program to its end and return its output; `InputError` with its first error line."""
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        result = run_process(command, timeout=_SECONDS, folder=folder, environment=environment)
    except ProcessStartError as error:
        raise InputError(f"{what} cannot be started: {error}") from error
    if result.status != 0:
        status = f"no end in {_SECONDS} s" if result.status is None else describe_status(result.status)
        lines = [line.strip() for line in f"{result.stdout}\n{result.stderr}".splitlines() if line.strip()]
        errors = [line for line in lines if _ERROR_LINE.search(line)] or lines[-1:] or [status]
        raise InputError(f"{what} failed: {errors[0]}", status=result.status)
    return result


@dataclasses.dataclass(frozen=True)
class _Package:
    """A package: its name with the architecture, as apt-get takes it, the file's name and size in bytes."""

    name: str
    file: str
    size: int


class _Apt:
    """apt-get with lists, state and archives of its own, for packages of ARM and, without a QEMU here, of this machine.

    It uses the sources of this machine.
    """

    def __init__(self, scratch: pathlib.Path) -> None:
        self._folder = scratch / "apt"
        for name in ("lists/partial", "archives/partial"):
            (self._folder / name).mkdir(parents=True)
        (self._folder / "status").touch()
        (self._folder / "apt.conf").write_text(_APT_CONFIG)
        self.qemu = shutil.which(QEMU_NAME)
        host = _run(["dpkg", "--print-architecture"], "dpkg").stdout.strip()
        architectures = dict.fromkeys(("arm64",) if self.qemu else (host, "arm64"))
        values = {
            "Dir::State": self._folder,
            "Dir::State::status": self._folder / "status",
            "Dir::Cache": self._folder,
            "Dir::Cache::pkgcache": "pkgcache.bin",  # containers switch it off, and each command reads all lists then
            "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
            "APT::Architecture": next(iter(architectures)),
            "Debug::NoLocking": "1",
            "Acquire::Languages": "none",
            "APT::Sandbox::User": "",
        }
        self._options = ["-c", str(self._folder / "apt.conf")]
        self._options += [word for name, value in values.items() for word in ("-o", f"{name}={value}")]
        for architecture in architectures:
            self._options += ["-o", f"APT::Architectures::={architecture}"]
        self.python_version = ""
        self._warnings: list[str] = []

    def update(self) -> None:
        """Fetch the lists; apt-get only warns where a server does not answer, and then has no packages."""
        result = _run(["apt-get", "-q", *self._options, "update"], "apt-get update")
        warnings = [line.removeprefix("W: ") for line in result.stderr.splitlines()]
        self._warnings = [f"{line}." for line in warnings if line.startswith("Failed to fetch")]

    def resolve(self) -> list[_Package]:
        """Return the packages of an ARM Python and what it needs, and QEMU's where there is none."""
        text = ""
        with contextlib.suppress(InputError):  # it fails without lists
            text = _run(["apt-cache", *self._options, "depends", "python3-minimal:arm64"], "apt-cache").stdout
        match = re.search(r"Depends: python(3\.\d+)-minimal", text)
        if match is None:
            question = "Is there a network, and are the sources of this machine Debian's?"
            raise InputError(
                " ".join(["apt-get knows no package python3-minimal:arm64.", *self._warnings[:1], question])
            )
        self.python_version = match[1]
        names = [f"python{match[1]}-minimal", f"libpython{match[1]}-stdlib", "libstdc++6"]
        wanted = [*(f"{name}:arm64" for name in names), *([] if self.qemu else ["qemu-user-static"])]
        command = ["apt-get", "-qq", *self._options, "--no-install-recommends", "--print-uris", "install", *wanted]
        packages = []
        for line in _run(command, "apt-get").stdout.splitlines():
            found = re.fullmatch(r"'\S+' (([^\s_]+)_\S+_(\w+)\.deb) (\d+)( \S+)?", line.strip())
            # Of this machine's architecture come Debian's essential packages too.
            if found and (found[3] in ("arm64", "all") or found[2].startswith("qemu-user")):
                packages.append(_Package(f"{found[2]}:{found[3]}", found[1], int(found[4])))
        return packages

    def download(self, packages: Sequence[_Package]) -> list[pathlib.Path]:
        """Return the paths of packages, fetched and checked."""
        archives = self._folder / "archives"
        names = [package.name.removesuffix(":all") for package in packages]
        _run(["apt-get", "-qq", *self._options, "download", *names], "apt-get download", folder=archives)
        return sorted(archives.glob("*.deb"))


def _download_wheels(version: str, python_version: str, folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the paths of the ARM wheels of NumPy and of a version of LiteRT."""
    platforms = [word for minor in _GLIBC_MINORS for word in ("--platform", f"manylinux_2_{minor}_aarch64")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python_version, *platforms]
    _run([*command, "-d", str(folder), "numpy", f"ai-edge-litert=={version}"], "pip download")
    return sorted(folder.glob("*.whl"))


def _unpack(archives: Sequence[pathlib.Path], wheels: Sequence[pathlib.Path], new: pathlib.Path) -> None:
    """Unpack packages and wheels below `new`, of QEMU the one program that is needed."""
    if qemu := shutil.which(QEMU_NAME):
        shutil.copy(qemu, new / QEMU_NAME)
    for archive in archives:
        if archive.name.startswith("qemu-user"):
            _unpack_program(archive, new / QEMU_NAME)
        else:
            _run(["dpkg-deb", "-x", str(archive), str(new / "root")], "dpkg-deb")
    shutil.rmtree(new / "root" / "usr" / "share")  # manuals
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(new / PACKAGES_NAME)
    if not (new / "root" / "lib").exists():  # a link that a later Debian has elsewhere
        (new / "root" / "lib").symlink_to("usr/lib")


def _unpack_program(archive: pathlib.Path, target: pathlib.Path) -> None:
    """Unpack the program of a package that is named as `target`; what comes behind it is not read."""
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as members:
                for member in members:
                    source = members.extractfile(member) if member.isfile() else None
                    if source is not None and pathlib.PurePath(member.name).name == target.name:
                        files.write_file(target, source.read())
                        break
        except tarfile.TarError as error:
            raise InputError(f"Expected a Debian package. Received: {archive.name!r} ({error})") from error
        finally:
            process.kill()
    if not target.exists():
        raise InputError(f"Expected a package with {target.name}. Received: {archive.name!r}")
    target.chmod(0o755)


def _write_cpus(new: pathlib.Path) -> None:
    """Make the folder of each CPU: links to the root, and a /proc/cpuinfo, without which LiteRT crashes.

    QEMU before 8.1 shows that of this machine otherwise.
    """
    for cpu in EMULATED_CPUS:
        folder = new / "cpus" / cpu
        (folder / "proc").mkdir(parents=True)
        for entry in (new / "root").iterdir():
            if entry.name != "proc":
                (folder / entry.name).symlink_to(f"../../root/{entry.name}")
        words = _run([*emulated_python(new, cpu), "-c", _READ_HWCAPS], f"The emulated {cpu}").stdout.split()
        features = [
            name
            for value, names in zip(map(int, words), map(str.split, _HWCAPS), strict=True)
            for bit, name in enumerate(names)
            if value >> bit & 1
        ]
        text = _CPUINFO.format(features=" ".join(features), part=_CPU_PARTS[cpu])
        (folder / "proc" / "cpuinfo").write_text(text)
