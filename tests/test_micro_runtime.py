"""The process in which a file runs, and what its end and its messages mean."""

import contextlib
import os
import pathlib
import subprocess
import sys
import time

import micro_stand_in
import pytest

from keras_nin.child_process import python_command
from keras_nin.edge.micro import runtime
from keras_nin.edge.micro.records import ABORT, MISSING_OPERATOR, REFUSED, TIME_LIMIT, TOO_SMALL, ArenaSection
from keras_nin.edge.micro.runtime import RuntimeJob, RuntimeOutcome, diagnose_outcome, run_job
from keras_nin.errors import InputError
from keras_nin.tflite.reader import read_model

MOST = 2**21
# What tflite-micro printed of a network of 13 operators.
PRINTED = """\
[RecordingMicroAllocator] Arena allocation total 11840 bytes
[RecordingMicroAllocator] Arena allocation head 5120 bytes
[RecordingMicroAllocator] Arena allocation tail 6720 bytes
[RecordingMicroAllocator] 'TfLiteEvalTensor data' used 792 bytes with alignment overhead (requested 792 bytes for 33 \
allocations)
[RecordingMicroAllocator] 'Persistent buffer data' used 4052 bytes with alignment overhead (requested 4012 bytes)
"""


def test_allocations_as_the_runtime_prints_them():
    parts = (ArenaSection("TfLiteEvalTensor data", 792), ArenaSection("Persistent buffer data", 4052))
    parts = (*parts, ArenaSection("not itemized by the runtime", 6720 - 792 - 4052))
    assert runtime.parse_allocations(PRINTED) == (5120, 6720, parts)


@pytest.mark.parametrize("log", ["", PRINTED.replace("5120", "5121"), PRINTED.replace("tail", "end")])
def test_allocations_in_another_form_are_no_figures(log):
    with pytest.raises(InputError, match="Expected tflite-micro to print its allocations"):
        runtime.parse_allocations(log)


def outcome(log="", status=1, **answer):
    return RuntimeOutcome(status, log, {"phase": "set up"} | answer)


TAIL = "Failed to allocate tail memory. Requested: 104, available 16, missing: 88\n"
BUFFER = "Failed to resize buffer. Requested: 2074464, available 1922664, missing: 151800\n"
ABSENT = (
    "Didn't find op for builtin opcode 'LOCAL_RESPONSE_NORMALIZATION'\n"
    "Failed to get registration from op code LOCAL_RESPONSE_NORMALIZATION\n"
)
ABSENT_CUSTOM = "Failed to get registration from op code CUSTOM\n"
HYBRID = "conv_common.cc Hybrid models are not supported on TFLite Micro.\nNode CONV_2D failed to prepare\n"
ERROR = {"error": "TFLM failed to allocate tensors"}


@pytest.mark.parametrize(
    ("found", "kind", "message"),
    [
        (outcome(TAIL, -11), TOO_SMALL, "at least 88 more"),
        (outcome(BUFFER, 1, **ERROR), TOO_SMALL, "does not fit into 2,097,152 bytes: at least 151,800 more"),
        (outcome(ABSENT, 1, **ERROR), MISSING_OPERATOR, "no operator LOCAL_RESPONSE_NORMALIZATION"),
        (outcome(ABSENT_CUSTOM, 1, **ERROR), MISSING_OPERATOR, "no operator CUSTOM"),
        (outcome(ABSENT + TAIL, 1, **ERROR), MISSING_OPERATOR, "no operator LOCAL_RESPONSE_NORMALIZATION"),
        (outcome("", -6), ABORT, "was killed by SIGABRT at 'set up'"),
        (outcome("", -6, phase="run"), ABORT, "was killed by SIGABRT at 'run'"),
        (outcome(HYBRID, 1, **ERROR), REFUSED, "Hybrid models are not supported on TFLite Micro.; Node CONV_2D"),
        (outcome("Traceback\nAttributeError: none\n", 1), REFUSED, "AttributeError: none"),
        (outcome("", 3), REFUSED, "ended with status 3"),
        (outcome(TAIL, None), TIME_LIMIT, "not done after 7 s"),
    ],
)
def test_what_a_failure_means(found, kind, message):
    finding = diagnose_outcome(found, 7, MOST)
    assert finding.kind == kind
    assert message in finding.message


def test_a_runtime_without_an_arena_is_never_too_small():
    assert diagnose_outcome(outcome(TAIL, -11), 7).kind == ABORT


@pytest.mark.parametrize(("scale", "beta", "named"), [(7.8e-9, 1, True), (2.0**-26, 1, True), (2e-8, 1, False),
                                                      (2e-8, 0.5, True), (7.8e-9, 3, False)])  # fmt: skip
def test_an_abort_names_a_softmax_whose_input_is_flat(tmp_path, scale, beta, named):
    graph = read_model(micro_stand_in.softmax(tmp_path / "net.tflite", scale, beta))
    assert ("SOFTMAX (operator 0)" in diagnose_outcome(outcome("", -6), 7, MOST, graph).message) == named


@pytest.mark.parametrize(("classes", "named"), [(512, False), (513, True)])
def test_an_abort_in_a_run_names_a_softmax_of_many_classes(tmp_path, classes, named):
    graph = read_model(micro_stand_in.softmax(tmp_path / "net.tflite", classes=classes))
    assert (
        "perhaps SOFTMAX (operator 0)" in diagnose_outcome(outcome("", -6, phase="run"), 7, MOST, graph).message
    ) == named
    assert "SOFTMAX" not in diagnose_outcome(outcome("", -6), 7, MOST, graph).message


# the process


def test_a_job_that_is_not_done_says_how_far_it_came(tmp_path):
    job = RuntimeJob("reference", str(tmp_path / "none.tflite"), str(tmp_path / "in.npz"), str(tmp_path / "out.npz"), 0)
    outcome = run_job(job, 60)
    assert (outcome.status, outcome.done, outcome.answer["phase"]) == (1, False, "set up")
    assert "none.tflite" in outcome.answer["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_it_ends_with_its_parent():
    command, environment = python_command("keras_nin.edge.micro.runtime")
    # This test keeps the pipe open, so that the end of its input is not what ends the process.
    read, write = os.pipe()
    code = (
        f"import subprocess, time; print(subprocess.Popen({command!r}, stdin={read}).pid, flush=True); time.sleep(999)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, pass_fds=[read])
    try:
        process = pathlib.Path("/proc", parent.stdout.readline().decode().strip())
        # It guards itself before it reads its job.
        wait_until(lambda: _waits_for_input(process))
        parent.kill()
        parent.wait()
        wait_until(
            lambda: not process.exists() or process.joinpath("stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        )
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        os.close(read)
        os.close(write)


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _waits_for_input(process):
    with contextlib.suppress(OSError):
        # The system call that it is in, and its first argument: read(0, ...).
        return process.joinpath("syscall").read_text().split()[:2] == ["0", "0x0"]
    return False
