"""QEMU and the ARM root file system: what is missing is one line, and what is there runs."""

import errno
import importlib.metadata
import io
import os
import stat
import tarfile
import zipfile

import pytest
from tiers import WIDE

from keras_nin import InputError
from keras_nin.benchmark import emulator, qemu_root
from keras_nin.benchmark.certification import read_certify_result


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A function that makes the only programs, as shell scripts by their names."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(**scripts):
        for name, script in scripts.items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder))

    return make


URI = "'http://x/{name}' {name} {size} SHA256:00"
DOWNLOAD = "for name in libc6_2.36-9_arm64.deb qemu-user-static_7.2_amd64.deb; do : > $name; done"
UNPACK = '/bin/mkdir -p "$3/usr/share" "$3/usr/bin"; : > "$3/usr/bin/python3.11"'


@pytest.fixture
def package_tools(programs, tmp_path, monkeypatch):
    """A function that makes package tools without a network; their steps may be replaced by shell commands."""
    program = b"#!/bin/sh\necho 2299 0\n"  # what QEMU says of the features
    with tarfile.open(tmp_path / "qemu.tar", "w") as archive:
        member = tarfile.TarInfo("./usr/bin/qemu-aarch64-static")
        member.size = len(program)
        archive.addfile(member, io.BytesIO(program))
    version = importlib.metadata.version("ai-edge-litert")

    def download_wheels(version, python_version, folder):
        folder.mkdir()
        path = folder / f"ai_edge_litert-{version}-cp{python_version.replace('.', '')}-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("ai_edge_litert/__init__.py", "")
        return [path]

    monkeypatch.setattr(qemu_root, "_download_wheels", download_wheels)

    def make(update="", download=DOWNLOAD, unpack=UNPACK):
        uris = "\n".join(
            f'echo "{URI.format(name=name, size=9)}"'
            for name in ("libc6_2.36-9_arm64.deb", "qemu-user-static_7.2_amd64.deb", "dpkg_1.21_amd64.deb")
        )
        programs(
            dpkg="echo amd64",
            apt_cache='echo "  Depends: python3.11-minimal"',
            apt_get=f'case "$*" in\n*--print-uris*)\n{uris};;\n*download*) {download};;\n*) {update};;\nesac',
            dpkg_deb=f'case "$1" in -x) {unpack};; *) /bin/cat {tmp_path}/qemu.tar;; esac',
            env='exec /usr/bin/env "$@"',
        )
        return version

    return make


def error_of(folder):
    with pytest.raises(InputError) as caught:
        qemu_root.install_qemu(folder, say=lambda text: None)
    assert "\n" not in str(caught.value)
    assert not folder.parent.exists() or set(os.listdir(folder.parent)) <= {folder.name}  # nothing half-written
    return str(caught.value)


def install(folder):
    root = qemu_root.install_qemu(folder, say=lambda text: None)
    assert emulator.is_installed(folder)
    assert os.listdir(folder.parent) == [folder.name]
    return root


def test_no_package_tools(programs, tmp_path):
    programs()
    assert "a machine without apt-get, apt-cache, dpkg, dpkg-deb" in error_of(tmp_path / "cache" / "qemu")


def test_no_network(programs, tmp_path):
    dpkg = "echo amd64"
    programs(dpkg=dpkg, dpkg_deb="", apt_cache="", apt_get="echo 'E: Failed to fetch http://x' >&2; exit 100")
    assert error_of(tmp_path / "cache" / "qemu") == "apt-get update failed: E: Failed to fetch http://x"
    # As they end without a server.
    programs(dpkg=dpkg, dpkg_deb="", apt_cache="echo 'E: No packages found'; exit 100",
             apt_get="echo 'W: Failed to fetch http://x  Could not resolve' >&2")  # fmt: skip
    message = error_of(tmp_path / "cache" / "qemu")
    assert "Failed to fetch http://x" in message
    assert "Is there a network" in message


FULL = "echo tar: Cannot write: No space left on device >&2; echo dpkg-deb: error: status 2 >&2; exit 2"
MISMATCH = "echo E: Failed to fetch http://x/a.deb  Hash Sum mismatch >&2; exit 100"


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ({"update": MISMATCH}, "apt-get update failed: E: Failed to fetch http://x/a.deb Hash Sum mismatch"),
        ({"download": f"{DOWNLOAD}; {MISMATCH}"}, "apt-get download failed: E: Failed to fetch"),
        ({"download": f"{DOWNLOAD}; kill -9 $$"}, "apt-get download failed: killed by SIGKILL"),
        ({"unpack": f"{UNPACK}; {FULL}"}, "No space left on device"),
    ],
)
def test_a_failed_step_is_one_line_and_leaves_what_was_there(package_tools, tmp_path, steps, problem):
    folder = tmp_path / "cache" / "qemu"
    package_tools(**steps)
    assert problem in error_of(folder)
    assert not folder.exists()
    folder.mkdir()
    (folder / "old").touch()
    assert problem in error_of(folder)
    assert os.listdir(folder) == ["old"]


def test_a_full_disk_an_interruption_and_a_cache_that_cannot_be_written(package_tools, tmp_path, monkeypatch, cli):
    folder = tmp_path / "cache" / "qemu"
    package_tools()
    for error in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()):

        def fail(*arguments, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(qemu_root, "_download_wheels", fail)
            if isinstance(error, OSError):
                assert "No space left on device" in error_of(folder)
            else:
                with pytest.raises(KeyboardInterrupt):
                    qemu_root.install_qemu(folder, say=lambda text: None)
        assert os.listdir(folder.parent) == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    ran = cli("devices", "install", "qemu")
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1), ran.err
    assert "a folder that can be written to" in ran.err


def test_what_is_damaged_or_of_another_version_is_installed_again(package_tools, tmp_path):
    folder = tmp_path / "cache" / "qemu"
    version = package_tools()
    root = install(folder)
    assert (root.is_new, root.litert) == (True, version)
    assert list(root.packages) == [
        "libc6_2.36-9_arm64.deb", "qemu-user-static_7.2_amd64.deb", f"ai_edge_litert-{version}-cp311-none-any.whl"
    ]  # fmt: skip
    assert os.access(folder / "qemu-aarch64-static", os.X_OK)
    assert "asimddp" not in (folder / "cpus" / "cortex-a53" / "proc" / "cpuinfo").read_text()
    assert not install(folder).is_new
    record = folder / "installed.json"
    for text in ('{"packages": {"ai_edge', "[]", '{"packages": {"ai_edge_litert-": null}}', '{"packages": {}}',
                 '{"packages": {"ai_edge_litert-1.0-x.whl": 1}}', "[" * 99_999):  # fmt: skip
        record.write_text(text)
        assert install(folder).is_new, text
    (folder / "qemu-aarch64-static").unlink()
    assert not emulator.is_installed(folder)
    assert install(folder).is_new


def test_the_environment_of_this_process_does_not_reach_the_emulated_python(tmp_path):
    command = emulator.emulated_python(tmp_path, "max")
    assert command[:2] == ("env", "-i")
    assert not [word for word in command if os.environ.get("PYTHONPATH", "nothing") in word.split("=", 1)[1:]]
    assert command[command.index("-cpu") + 1] == "max,sme=off"


needs_qemu = pytest.mark.skipif(not emulator.is_installed(), reason="not installed: keras-nin devices install qemu")


@pytest.mark.slow
@needs_qemu
def test_two_networks_on_an_emulated_cpu(cli, exported):
    paths = [exported("nin_digits", "int8"), exported("convnet_pointwise_head", "int8")]
    on = ["--on", "qemu://cortex-a53", "--data", "digits", "--test-count", "4"]
    ran = cli("certify", *paths, *on, "--require", "bit-exact", "--json")
    assert ran.status == 1, ran.err
    result = read_certify_result(ran.json)
    assert "aarch64" in result.devices["qemu://cortex-a53"]["system"]
    assert [file.images for file in result.files] == [4, 4]
    for file in result.files:
        assert all(file.run("qemu://cortex-a53", kernels).bit_exact for kernels in ("xnnpack", "reference"))
        # The builtin kernels of x86 and ARM round differently.
        builtin = file.run("qemu://cortex-a53", "builtin")
        assert (builtin.first_operator and builtin.first_operator.op) == "CONV_2D"
        assert (builtin.error, builtin.max_lsb is not None) == (None, True)
    assert {check["subject"].rpartition(", ")[2] for check in ran.json["checks"] if not check["passed"]} == {"builtin"}


@pytest.mark.parametrize("mark", [pytest.param(None, marks=WIDE)])
@needs_qemu
def test_more_emulated_cpus_and_all_images(mark, cli, exported):
    paths = [exported("nin_digits", "int8"), exported("inception_digits", "int8")]
    on = ["--on", "qemu://cortex-a53,qemu://cortex-a76"]
    words = ["certify", *paths, *on, "--data", "digits", "--kernels", "xnnpack,reference", "--require"]
    ran = cli(*words, "lsb=1", "--json")
    assert ran.status == 0, ran.err
    result = read_certify_result(ran.json)
    assert [file.images for file in result.files] == [50, 50]
    assert "aarch64" in result.devices["qemu://cortex-a53"]["system"]
    for device in ("qemu://cortex-a53", "qemu://cortex-a76"):
        assert all(file.run(device, "reference").bit_exact for file in result.files)
        assert result.files[0].run(device, "xnnpack").bit_exact
        # XNNPACK takes no int8 SOFTMAX: it runs in the builtin kernels, whose exponentials are those of the C library.
        first = result.files[1].run(device, "xnnpack").first_operator
        assert first is None or (first.op, first.count, first.max_lsb) == ("SOFTMAX", 1, 1.0)
    ran = cli("certify", paths[0], *on, "--data", "digits", "--kernels", "builtin", "--require", "bit-exact", "--json")
    assert ran.status == 1
    first = read_certify_result(ran.json).files[0].run("qemu://cortex-a53", "builtin").first_operator
    assert (first and first.op) == "CONV_2D"
    ran = cli("evaluate", paths[0], "--data", "digits", "--test-count", "20", "--on", "qemu://max", "--json")
    assert (ran.status, ran.json["speed"], ran.json["outputs"][0]["images"]) == (0, None, 20)
