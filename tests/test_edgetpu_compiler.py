"""The Edge TPU compiler's output: parsed, compared with the verdict, and the run of a stand-in that prints it."""

import json
import os
import pathlib
import stat
import sys
import time

import pytest
from edge_networks import chain

from keras_nin.edge.edgetpu import Status, check_edgetpu, compiler
from keras_nin.edge.edgetpu.compiler import CompilerDifference, compare_with_compiler
from keras_nin.errors import InputError
from keras_nin.report.edge import format_compiler_comparison

OUTPUT = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 2653 ms.

Input model: net.tflite
Input size: 7.31MiB
Output model: net_edgetpu.tflite
Output size: 8.14MiB
On-chip memory used for caching model parameters: 6.89MiB
On-chip memory remaining for caching model parameters: 1.00KiB
Off-chip memory used for streaming uncached model parameters: 175.00KiB
Number of Edge TPU subgraphs: 1
Total number of operations: 3
Operation log: net_edgetpu.log
See the operation log file for individual operation details.
Compilation child process completed within timeout period.
Compilation succeeded!
"""
TABLE = f"""Edge TPU Compiler version 16.0.384591198
Input: net.tflite
Output: net_edgetpu.tflite

Operator                       Count      Status

RELU                           1          {Status.MAPPED}
ELU                            1          {Status.NOT_SUPPORTED}
TANH                           1          {Status.SECOND_SUBGRAPH}
"""


def table_text(rows):
    lines = [f"{op:<30} {count:<10} {words}" for op, count, words in rows]
    return "\n".join(["Operator                       Count      Status", "", *lines, ""])


def test_output_and_log_are_parsed():
    found = compiler.parse_compiler_output(OUTPUT + "\n" + TABLE)
    assert (found.version, found.succeeded, found.errors) == ("16.0.384591198", True, ())
    assert (found.used_bytes, found.remaining_bytes, found.streamed_bytes) == (round(6.89 * 2**20), 1024, 175 * 1024)
    assert (found.input_bytes, found.output_bytes) == (round(7.31 * 2**20), round(8.14 * 2**20))
    assert (found.subgraphs, found.operations) == (1, 3)
    assert found.rows == (
        ("RELU", 1, Status.MAPPED),
        ("ELU", 1, Status.NOT_SUPPORTED),
        ("TANH", 1, Status.SECOND_SUBGRAPH),
    )
    assert compiler.parse_compiler_output(OUTPUT + TABLE + TABLE).rows == found.rows


@pytest.mark.parametrize("words", Status)
def test_every_status_is_parsed_as_it_is(words):
    assert compiler.parse_compiler_output(table_text([("CONV_2D", 12, words)])).rows == (("CONV_2D", 12, words),)


@pytest.mark.parametrize(
    "line",
    [
        "ERROR: Didn't find op for builtin opcode 'CONV_2D' version '6'",
        "Model not quantized",
        "Internal compiler error. Aborting!",
        "Compilation failed due to large activation tensors in model.",
        "Invalid model: net.tflite",
    ],
)
def test_failures_are_parsed(line):
    found = compiler.parse_compiler_output(f"Edge TPU Compiler version 15.0.340273435\n{line}\n")
    assert (found.succeeded, found.errors, found.rows, found.used_bytes) == (False, (line,), (), None)


def test_other_text_is_no_compilation():
    found = compiler.parse_compiler_output("bash: no such thing\nOperator Count Status\nnonsense\n")
    assert (found.version, found.succeeded, found.rows) == (None, False, ())


def test_differences_are_named(tmp_path):
    verdict = check_edgetpu(chain(tmp_path / "net.tflite", "RELU", "ELU", "TANH"))
    rows = compiler.parse_compiler_output(TABLE).rows
    assert compare_with_compiler(verdict, rows) == ()
    other = [("RELU", 1, Status.MAPPED), ("ELU", 1, Status.MAPPED), ("TANH", 1, Status.SECOND_SUBGRAPH)]
    assert compare_with_compiler(verdict, other) == (
        CompilerDifference("ELU", Status.MAPPED, 0, 1),
        CompilerDifference("ELU", Status.NOT_SUPPORTED, 1, 0),
    )
    text = format_compiler_comparison(
        compiler.parse_compiler_output(OUTPUT + TABLE), compare_with_compiler(verdict, other)
    )
    assert "6.89 MiB" in text
    assert "The prediction differs from the compiler" in text


# a stand-in on PATH


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A function that puts a Python program on PATH as the compiler."""

    def install(code):
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / compiler.COMMAND
        program.write_text(f"#!{sys.executable}\nimport os, pathlib, subprocess, sys, time\n{code}")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return install


def printing(tmp_path, output=OUTPUT, table=TABLE, code=0):
    (tmp_path / "output.txt").write_text(output)
    (tmp_path / "table.txt").write_text(table)
    return (
        "arguments = sys.argv[1:]\n"
        f"print(pathlib.Path({str(tmp_path / 'output.txt')!r}).read_text())\n"
        "folder = pathlib.Path(arguments[arguments.index('-o') + 1])\n"
        "assert arguments[0] == '-s' and pathlib.Path(arguments[-1]).is_file()\n"
        f"(folder / 'net_edgetpu.log').write_text(pathlib.Path({str(tmp_path / 'table.txt')!r}).read_text())\n"
        f"pathlib.Path({str(tmp_path / 'arguments.txt')!r}).write_text('\\n'.join(arguments))\n"
        f"sys.exit({code})\n"
    )


def test_the_compiler_runs_in_a_folder_that_goes(tmp_path, stand_in):
    stand_in(printing(tmp_path))
    path = chain(tmp_path / "net.tflite", "RELU", "ELU", "TANH")
    found = compiler.run_compiler(path)
    assert found.rows == compiler.parse_compiler_output(TABLE).rows
    assert found.succeeded
    arguments = (tmp_path / "arguments.txt").read_text().splitlines()
    assert "-a" not in arguments
    assert not pathlib.Path(arguments[arguments.index("-o") + 1]).exists()
    compiler.run_compiler(path, multiple_subgraphs=True)
    assert "-a" in (tmp_path / "arguments.txt").read_text().splitlines()


def test_a_compiler_that_hangs_ends_with_its_children(tmp_path, stand_in):
    stand_in(
        "child = subprocess.Popen(['sleep', '300'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "time.sleep(300)\n"
    )
    path = chain(tmp_path / "net.tflite", "RELU")
    with pytest.raises(InputError, match="within 2 s"):
        compiler.run_compiler(path, timeout=2)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 60
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process):
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_the_compiler_there_is_one_line(tmp_path, monkeypatch, cli):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = chain(tmp_path / "net.tflite", "RELU")
    ran = cli("edgetpu", path, "--compile")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("Error: edgetpu_compiler is not on PATH")


def test_the_command_compares_its_verdict_with_the_compilers(tmp_path, stand_in, cli):
    stand_in(printing(tmp_path))
    path = chain(tmp_path / "net.tflite", "RELU", "ELU", "TANH")
    ran = cli("edgetpu", path, "--compile")
    assert (ran.status, ran.err) == (0, "")
    assert "The prediction matches the compiler, operator by operator and word by word." in ran.out
    assert "On-chip memory used for caching model parameters: 6.89 MiB" in ran.out
    document = cli("edgetpu", path, "--compile", "--json").json
    assert document["compiler"]["differences"] == []
    assert document["compiler"]["streamed_bytes"] == 175 * 1024
    assert "Compilation succeeded!" in document["compiler"]["text"]


def test_the_command_reports_what_the_compiler_refuses(tmp_path, stand_in, cli):
    stand_in(printing(tmp_path, "Edge TPU Compiler version 16.0\nInternal compiler error. Aborting!\n", "", 1))
    ran = cli("edgetpu", chain(tmp_path / "net.tflite", "RELU"), "--compile")
    assert ran.status == 0
    assert "Compiler 16.0: Internal compiler error. Aborting!" in ran.out


@pytest.mark.external
def test_real_tables_are_parsed_row_by_row(external_data):
    entries = json.loads((external_data / "edgetpu" / "truth.json").read_text())
    logs = [log["rows"] for entry in entries for log in entry.get("compiler_logs", ())]
    assert len(logs) == 67
    for rows in logs:
        assert compiler.parse_compiler_output(table_text(rows)).rows == tuple(map(tuple, rows))
        assert {words.removeprefix("(second line of a longer reason) ") for _, _, words in rows} <= set(Status)
