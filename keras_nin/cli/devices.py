"""`keras-nin certify` and `devices`: .tflite files on other processors, real and emulated."""

from __future__ import annotations

from typing import Any

import click

from keras_nin.cli import options
from keras_nin.cli.output import TerminalProgress, print_checks, print_notes, print_result, remark


@click.command(
    "certify", cls=options.Command, epilog="Example: keras-nin certify exported/nin_digits_int8.tflite --on qemu://max"
)
@click.argument("sources", nargs=-1, required=True, metavar="FILE...")
@click.option("--on", "device", multiple=True, callback=options.split_words, metavar="URL|NAME,...",
              help="Devices: qemu://cortex-a53|cortex-a72|cortex-a76|max, ssh://[user@]host[:port], names in "
              "devices.toml. Repeatable. [default: all emulated CPUs]")  # fmt: skip
@click.option("--kernels", multiple=True, callback=options.split_words, metavar="K,...",
              help="Of xnnpack, builtin, reference. [default: all]")  # fmt: skip
@options.data_option
@options.image_options
@click.option("--test-count", type=options.COUNT_OR_ALL, metavar="N|all",
              help="Number of test images, drawn by --seed. [default: 1 to 50, fewer of large networks]")  # fmt: skip
@options.task_option
@options.seed_option
@options.threads_option
@click.option("--python", metavar="PATH", help="The interpreter on ssh devices. [default: python3]")
@options.require_option()
@options.json_option
def certify_command(as_json: bool, device: tuple[str, ...], **arguments: Any) -> int:
    """Run each FILE (.tflite) on this machine and on other devices, in XNNPACK, builtin and reference kernels.

    The matrix says for each whether all outputs are bit-exact, or the largest difference in quantization steps (LSB)
    and how many images change their top-1 class. Where outputs differ, the first operator that does is named: what
    every operator computes is compared. A device is compared with this machine in the same kernels, this machine with
    its own XNNPACK.

    `keras-nin devices install qemu` installs emulated ARM CPUs. Their time says nothing about real ones, so none is
    reported.

    The images are chosen as in `keras-nin evaluate`; labels are not needed. A file without images runs on noise.

    \b
    Items of --require, on every run on another device:
      bit-exact    all outputs equal to the last bit
      lsb=1        the largest difference, in quantization steps
    """
    from keras_nin.report.comparisons import format_certify
    from keras_nin.workflows.certify import certify_files

    result = certify_files(**arguments, devices=device, progress=TerminalProgress())
    print_notes(map(options.with_own_flags, result.notes))
    print_result(result, as_json, lambda: format_certify(result))
    print_checks(result.checks, failed_only=as_json)
    return 0 if result.passed else 1


@click.command("devices", cls=options.Command, epilog="Example: keras-nin devices install qemu")
@click.argument("action", type=click.Choice(["install"]), required=False, metavar="[install]")
@click.argument("name", type=click.Choice(["qemu"]), required=False, metavar="[qemu]")
@options.json_option
def devices_command(action: str | None, name: str | None, as_json: bool) -> int:
    """List the devices of --on: those of the user's devices.toml and emulated ARM CPUs; or install the latter.

    ~/.config/keras-nin/devices.toml ($XDG_CONFIG_HOME; or the file that KERAS_NIN_DEVICES names) has a table for each
    name, with `url` and, where needed, `python` or `benchmark_model`.

    `devices install qemu` fetches QEMU and an ARM root file system with Python, NumPy and LiteRT: about 75 MB of Debian
    packages with apt-get, which checks their signatures, and 31 MB of wheels with pip. They are unpacked to 180 MB in
    ~/.cache/keras-nin/qemu ($XDG_CACHE_HOME). It needs Debian's package tools but no root rights, and nothing is
    installed in the system. The folder can be deleted at any time. Where it is there with this version of LiteRT,
    nothing is fetched.
    """
    from keras_nin.workflows.certify import install_emulator, list_devices

    if (action is None) != (name is None):
        raise click.UsageError("What is installed has a name: keras-nin devices install qemu")
    if action is not None:
        with TerminalProgress().task("Installing QEMU") as update:
            root = install_emulator(say=remark, update=update)
        remark(f"{'installed' if root.is_new else 'already installed'}: {root.folder}, LiteRT {root.litert}")
    result = list_devices()
    print_result(result, as_json, lambda: result.format())
    return 0
