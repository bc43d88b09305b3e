"""`keras-nin edgetpu`, `ethosu`, `micro` and `fit`: what files cost on small accelerators and microcontrollers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from keras_nin.cli import options
from keras_nin.cli.output import TerminalProgress, echo, print_checks, print_notes, print_result, remark

if TYPE_CHECKING:
    from keras_nin.workflows.export import ExportResult


@click.command("edgetpu", cls=options.Command, epilog="Example: keras-nin edgetpu nin_digits --require full")
@click.argument("model", metavar="FILE.tflite|MODEL")
@click.option("--multiple-subgraphs", is_flag=True, help="Map several subgraphs, as the compiler's -a does.")
@options.require_option(metavar="full|N%", help="Exit status 1 where a smaller share of the operators is mapped.")
@click.option("--compile", is_flag=True, help="Run edgetpu_compiler, where it is on PATH, and compare.")
@options.timeout_option(default=180.0, help="Time limit of the compiler.")
@options.temporary_export_options
@options.json_option
def edgetpu_command(as_json: bool, **arguments: Any) -> int:
    """Show for each operator of an int8 file whether the Edge TPU compiler would map it, why not, and what to do.

    The compiler maps one subgraph: everything that depends on the first operator that it cannot map runs on the CPU.
    The verdict is a prediction, in the compiler's words, from its documentation and from the results of 119 files. It
    says what it rests on, operator by operator.
    A MODEL is exported to int8 first; nothing is written.

    \b
    More examples:
      keras-nin edgetpu exported/nin_digits_int8.tflite --json
      keras-nin edgetpu model.tflite --multiple-subgraphs --require 90%
      keras-nin edgetpu model.tflite --compile
    """
    from keras_nin.report.edge import format_compiler_comparison, format_edgetpu
    from keras_nin.workflows.edge import check_edgetpu

    result = check_edgetpu(**arguments, progress=TerminalProgress())
    print_notes(result.notes)

    def format_result() -> str:
        compared = format_compiler_comparison(result.compilation, result.differences) if result.compilation else ""
        return f"{format_edgetpu(result)}\n\n{compared}"

    return _print_checked(result, as_json, format_result)


def export_edgetpu_command() -> click.Command:
    """Return `keras-nin export`, of int8 unless told otherwise, with the Edge TPU verdict on each file after it."""
    from keras_nin.cli.export import export_command

    command = copy.copy(export_command)
    own = {"default_map": {"scheme": "int8"}, "obj": _print_edgetpu_verdicts}
    command.context_settings = {**command.context_settings, **own}
    command.epilog = (
        "The verdict is predicted; see `keras-nin edgetpu`. Example: python export/to_edgetpu.py nin_digits"
    )
    return command


def _print_edgetpu_verdicts(result: ExportResult) -> None:
    """Print the Edge TPU verdict on each int8 file of an export."""
    from keras_nin.report.edge import edgetpu_reason_lines, edgetpu_summary_lines
    from keras_nin.workflows.edge import check_edgetpu

    for file in result.files:
        if file.converted.scheme.integer_only and file.path is not None:
            verdict = check_edgetpu(file.path)
            echo("\n" + "\n".join([*edgetpu_reason_lines(verdict), *edgetpu_summary_lines(verdict)]))


@click.command("ethosu", cls=options.Command, epilog="Example: keras-nin ethosu exported/nin_digits_int8.tflite")
@click.argument("model", metavar="FILE.tflite|MODEL")
@click.option("--accelerator", "accelerators", multiple=True, callback=options.split_words, default=["ethos-u55-128"],
              metavar="NAME[,NAME...]|all",
              help="Accelerators, of those below; several are compared. Repeatable.")  # fmt: skip
@click.option("--system-config", metavar="NAME", help="Clock and memories: a section of --config. [default: Vela's]")
@click.option("--memory-mode", metavar="NAME", help="Placement in the memories: also a section. [default: Vela's]")
@click.option("--config", multiple=True, metavar="FILE.ini", help="Vela's configuration. [default: its own]")
@options.require_option(metavar="full|N%|ITEM=LIMIT,...",
                        help="Exit status 1 where a limit fails on an accelerator. Repeatable.")  # fmt: skip
@click.option("-o", "--out", metavar="FILE.tflite", help="Save the compiled file, with one accelerator only.")
@options.plot_option(help="Also write a figure of where the time goes on each accelerator.")
@options.timeout_option(default=600.0, help="Time limit of Vela for each accelerator.")
@options.temporary_export_options
@options.force_option
@options.json_option
def ethosu_command(as_json: bool, **arguments: Any) -> int:
    """Compile FILE, an int8 .tflite, with Vela, and show its estimate for every layer on an Ethos-U.

    NPU or CPU, cycles, MACs and their share of the peak, bytes moved, and what a layer waits for; sums by 1x1 role;
    time at the clock, memory, and the size of the compiled file. The figures are those of Vela's model of the hardware;
    it has no time for operators on the CPU. A MODEL is exported to int8 first.

    Needs Vela: pip install 'keras-nin[ethosu]'.

    \b
    Accelerators (the last number is MACs per cycle):
      ethos-u55-32 -64 -128 -256; ethos-u65-256 -512; ethos-u85-128 -256 -512 -1024 -2048
    Items of --require:
      full                       no operator runs on the CPU
      95% or npu=95%             at least this share of the network's MACs runs on the NPU
      time=20ms                  at most, in us, ms or s, with nothing on the CPU
      sram, dram, flash, compiled=512KiB   at most, in B, kB, MB (thousands), KiB, MiB (1,024)
    An unknown value fails its limit.

    \b
    More examples:
      keras-nin ethosu exported/nin_digits_int8.tflite --accelerator all --plot sweep.png
      keras-nin ethosu exported/nin_digits_int8.tflite --require full,time=1ms,sram=64KiB
      keras-nin ethosu exported/nin_digits_int8.tflite -o compiled.tflite
    """
    from keras_nin.report import edge
    from keras_nin.workflows.edge import estimate_ethosu

    result = estimate_ethosu(**arguments, progress=TerminalProgress())

    def format_result() -> str:
        is_single = len(result.estimates) == 1 and not result.refusals
        return edge.format_ethosu(result.estimates[0]) if is_single else edge.format_ethosu_sweep(result)

    status = _print_checked(result, as_json, format_result)
    for path in filter(None, (arguments["out"], arguments["plot"])):
        remark(f"written: {path}")
    print_notes(result.notes)
    return status


@click.command(
    "micro",
    cls=options.Command,
    epilog="Example: keras-nin micro exported/nin_digits_int8.tflite --require arena=256KiB",
)
@click.argument("model", metavar="FILE.tflite|MODEL")
@options.max_arena_option
@options.require_option(help="Exit status 1 where a limit fails, such as arena=256KiB,flash=1MiB. Repeatable.")
@click.option("--c-array", metavar="PATH", help="Write the file as PATH.cc and PATH.h: the array and its constants.")
@options.data_option
@options.image_options
@click.option("--test-count", type=options.COUNT, default=100, metavar="N",
              help="Compare at most N test images, drawn by --seed, within --seconds.")  # fmt: skip
@click.option("--seconds", type=options.Number(0), default=20.0, metavar="S",
              help="Each runtime starts no further image after S seconds.")  # fmt: skip
@options.timeout_option(default=300.0, help="Time limit of each run of a runtime.")
@options.micro_export_options
@options.force_option
@options.json_option
def micro_command(as_json: bool, **arguments: Any) -> int:
    """Find what FILE (.tflite) needs with TFLite Micro. A MODEL is exported to int8 first.

    The smallest tensor arena in which it runs, searched with the runtime itself on this machine, each try in a process
    of its own; its tensor and persistent sections; flash; the operators to register; and whether the outputs are
    bit-exact with LiteRT's reference kernels: on --data, or on the test images that the export record names where they
    are found without a download, otherwise on noise, with the reason.

    The persistent section measured on a 64-bit host is larger than on a microcontroller. What prevents any arena, a
    missing operator or a runtime that aborts, is reported, and fails --require arena=...

    Needs pip install 'keras-nin[micro]'.
    """
    from keras_nin.report.edge import format_micro
    from keras_nin.workflows.edge import measure_micro

    result = measure_micro(**arguments, progress=TerminalProgress())
    print_notes(map(options.with_own_flags, result.notes))
    status = _print_checked(result, as_json, lambda: format_micro(result))
    for suffix in (".cc", ".h") if arguments["c_array"] else ():
        remark(f"written: {arguments['c_array']}{suffix}")
    return status


@click.command("fit", cls=options.Command, epilog="Example: keras-nin fit exported/nin_digits_int8.tflite")
@click.argument("models", nargs=-1, required=True, metavar="FILE.tflite|MODEL...")
@click.option("--targets", multiple=True, callback=options.split_words, default=["cpu,edgetpu,ethosu,micro"],
              metavar="TARGET[,TARGET...]", help="Targets, of those below.")  # fmt: skip
@options.threads_option
@click.option("--seconds", type=options.Number(0, min_open=True), default=2.0, metavar="S",
              help="Longest measurement of a file on this CPU.")  # fmt: skip
@click.option("--accelerator", default="ethos-u55-128", metavar="NAME",
              help="The Ethos-U; `keras-nin ethosu --help` lists all.")  # fmt: skip
@options.max_arena_option
@click.option("--on", "device", metavar="URL",
              help="Measure the latency on a device: ssh://[user@]host[:port] or adb://SERIAL.")  # fmt: skip
@click.option("--python", metavar="PATH", help="The interpreter on an ssh:// device. [default: python3]")
@options.timeout_option(default=300.0, help="Time limit of Vela and of each run of TFLite Micro.")
@options.require_option(help="Exit status 1 where a limit fails. Repeatable.")
@options.temporary_export_options
@options.json_option
def fit_command(as_json: bool, **arguments: Any) -> int:
    """Show what each FILE costs on every target, in one table. A MODEL is exported to int8 first.

    This CPU, or that of the device of --on: the latency, measured, and the share of it in 1x1 layers. Edge TPU: the
    operators that its compiler would map, predicted. Ethos-U: the time that Arm's compiler Vela estimates, with the
    extra ethosu. TFLite Micro: the smallest arena, searched with the runtime on this machine, and whether its outputs
    are those of LiteRT's reference kernels, measured as `keras-nin micro` does, with the extra micro. A target without
    figures has the reason in their place.

    \b
    Targets: cpu, edgetpu, ethosu, micro
    Items of --require:
      cpu=5ms             the median on this CPU, at most, in us, ms or s
      edgetpu=full|95%    at least this share of the operators is mapped
      ethosu=2ms          Vela's time at most, with nothing on the CPU
      sram=64KiB          used on the Ethos-U at most, in B, kB, MB (thousands), KiB, MiB (1,024)
      arena=256KiB        of TFLite Micro at most
      flash=1MiB          the file's size at most
    An unknown value fails its limit.

    \b
    More examples:
      keras-nin fit a_int8.tflite b_int8.tflite --targets cpu,edgetpu
      keras-nin fit a_int8.tflite --require cpu=5ms,edgetpu=full --require arena=256KiB
      keras-nin fit a_int8.tflite b_int8.tflite --json > fit.json; keras-nin report fit.json -o report.html
    """
    from keras_nin.report.fit import format_fit
    from keras_nin.workflows.edge import check_fit

    result = check_fit(**arguments, progress=TerminalProgress())
    print_notes(result.notes)
    return _print_checked(result, as_json, lambda: format_fit(result))


def _print_checked(result: Any, as_json: bool, format_result: Callable[[], str]) -> int:
    """Print a result and its limits, and return the exit status."""
    print_result(result, as_json, lambda: options.with_own_flags(format_result()))
    print_checks(result.checks, failed_only=as_json)
    return 0 if result.passed else 1
