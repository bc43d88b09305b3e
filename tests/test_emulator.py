"""QEMU and the ARM root file system: what is missing is one line, and what is there runs."""

import os
import stat

import pytest
from tiers import WIDE

from keras_nin import InputError
from keras_nin.benchmark import emulator, qemu_root
from keras_nin.benchmark.certification import read_certify_result


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A function that makes the only programs beside those of /usr/bin/env, as shell scripts by their names."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(**scripts):
        for name, script in scripts.items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder))

    return make


def install(folder):
    with pytest.raises(InputError) as caught:
        qemu_root.install_qemu(folder, say=lambda text: None)
    assert "\n" not in str(caught.value)
    assert not folder.exists()
    assert not list(folder.parent.glob("qemu*"))  # nothing half-written
    return str(caught.value)


def test_no_package_tools(programs, tmp_path):
    programs()
    assert "a machine without apt-get, apt-cache, dpkg, dpkg-deb" in install(tmp_path / "cache" / "qemu")


def test_no_network(programs, tmp_path):
    dpkg = "echo amd64"
    programs(dpkg=dpkg, dpkg_deb="", apt_cache="", apt_get="echo 'E: Failed to fetch http://x' >&2; exit 100")
    assert install(tmp_path / "cache" / "qemu") == "apt-get update failed: E: Failed to fetch http://x"
    programs(dpkg=dpkg, dpkg_deb="", apt_cache="", apt_get="exit 0")  # as apt-get ends without a server
    assert "Is there a network" in install(tmp_path / "cache" / "qemu")


def test_the_environment_of_this_process_does_not_reach_the_emulated_python(tmp_path):
    command = emulator.emulated_python(tmp_path, "max")
    assert command[:2] == ("env", "-i")
    assert not [word for word in command if os.environ.get("PYTHONPATH", "nothing") in word.split("=", 1)[1:]]
    assert command[command.index("-cpu") + 1] == "max,sme=off"


@pytest.mark.parametrize("mark", [pytest.param(None, marks=WIDE)])  # with the installation longer than 30 s
@pytest.mark.skipif(not emulator.is_installed(), reason="not installed: keras-nin devices install qemu")
def test_two_networks_on_emulated_cpus(mark, cli, exported):
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
    assert read_certify_result(ran.json).files[0].run("qemu://cortex-a53", "builtin").first_operator.op == "CONV_2D"
    ran = cli("evaluate", paths[0], "--data", "digits", "--test-count", "20", "--on", "qemu://max", "--json")
    assert (ran.status, ran.json["speed"], ran.json["outputs"][0]["images"]) == (0, None, 20)
