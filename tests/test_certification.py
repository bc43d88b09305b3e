"""Outputs of files on several devices and in all kernels, compared operator by operator."""

import json
import sys

import numpy as np
import pytest
from tflite_writer import operator, quantization, tensor, write

from keras_nin import InputError
from keras_nin.benchmark import emulator
from keras_nin.benchmark.certification import (
    FileToCertify,
    check_certify_limits,
    parse_certify_limits,
    read_certify_result,
)
from keras_nin.benchmark.devices import RunValues
from keras_nin.files import sha256
from keras_nin.heads import make_heads
from keras_nin.report.comparisons import certificate_lines
from keras_nin.tflite.reader import expose_tensors, read_checked_model, read_model
from keras_nin.tflite.runner import TFLiteRunner


@pytest.fixture
def network(tmp_path):
    """A file of three operators on int8 values: RELU, RELU6 and RELU again, whose output has four classes."""
    tensors = [tensor(name, [1, 4], quantization=quantization([0.5])) for name in ("in", "a", "b", "out")]
    operators = [operator("RELU", [0], [1]), operator("RELU6", [1], [2]), operator("RELU", [2], [3])]
    return write(tmp_path / "net.tflite", tensors, operators)


class StandIn:
    """A session whose runs give the values of `tensors` by kernels; those of unknown kernels fail."""

    has_ended = False

    def __init__(self, **tensors):
        self.tensors = tensors

    def compute(self, model, batches, *, threads, kernels, outputs=None, digests=()):
        if kernels not in self.tensors:
            raise InputError(f"no {kernels} kernels here")
        values = self.tensors[kernels]

        def stacked(index):
            return np.stack([np.array([values[index][int(batch[0][0, 0])]], np.int8) for batch in batches])

        chosen = model.main.outputs if outputs is None else outputs
        hashes = [[sha256(value.tobytes()) for value in stacked(index)] for index in digests]
        return RunValues([stacked(index) for index in chosen], hashes)


SAME = {1: [[0, 1, 2, 3], [4, 5, 6, 7]], 2: [[0, 1, 2, 3], [4, 5, 6, 7]], 3: [[0, 1, 2, 3], [4, 5, 6, 7]]}
# The second image differs from RELU6 on, by 3 there and by 1 in the end, where its top class changes.
OTHER = SAME | {2: [[0, 1, 2, 3], [4, 5, 6, 10]], 3: [[0, 1, 2, 3], [4, 5, 7, 6]]}


def certified(network, device, host, kernels=("xnnpack",)):
    model = read_checked_model(network)
    batches = [[np.full((1, 4), image, np.int8)] for image in (0, 1)]
    file = FileToCertify(model, batches, make_heads(TFLiteRunner(model).describe_outputs(), "classification"))
    for name in kernels:
        file.certify("host", name, host, host)
    return [file.certify("qemu://max", name, device, host) for name in kernels]


def test_the_first_operator_that_differs_is_named(network):
    (run,) = certified(network, StandIn(xnnpack=OTHER), StandIn(xnnpack=SAME))
    assert (run.bit_exact, run.differing_images, run.max_lsb, run.top1_changes) == (False, 1, 1.0, 1)
    first = run.first_operator
    assert (first.index, first.op, first.name, first.max_lsb, first.count) == (1, "RELU6", "b", 3.0, 2)


def test_an_operator_may_differ_where_no_output_does(network):
    values = SAME | {1: [[0, 1, 2, 3], [4, 5, 6, 0]]}
    (run,) = certified(network, StandIn(reference=values), StandIn(reference=SAME), ["reference"])
    assert (run.bit_exact, run.max_lsb, run.first_operator.index, run.first_operator.max_lsb) == (True, 0.0, 0, 7.0)


def test_equal_outputs_have_equal_hashes(network):
    runs = certified(network, StandIn(xnnpack=SAME, builtin=OTHER), StandIn(xnnpack=SAME, builtin=OTHER),
                     ["xnnpack", "builtin"])  # fmt: skip
    assert [(run.bit_exact, run.first_operator) for run in runs] == [(True, None)] * 2
    assert runs[0].sha256 != runs[1].sha256


def test_an_operator_is_not_named_where_looking_for_it_changes_the_outputs(network):
    class Fused(StandIn):
        def compute(self, model, batches, *, digests=(), **options):
            answer = super().compute(model, batches, digests=digests, **options)
            return RunValues(answer.outputs, [["another"] * len(batches) for _ in digests])

    (run,) = certified(network, Fused(xnnpack=OTHER), StandIn(xnnpack=SAME))
    assert (run.max_lsb, run.first_operator) == (1.0, None)


def test_kernels_that_do_not_run_are_an_error_and_no_pass(network):
    (run,) = certified(network, StandIn(), StandIn(builtin=SAME), ["builtin"])
    assert (run.error, run.bit_exact, run.max_lsb) == ("no builtin kernels here", False, None)


def test_all_operators_become_outputs_and_nothing_else_changes(network):
    model = read_model(network)
    exposing = read_checked_model(expose_tensors(model, [1, 2, 3]).content)
    assert exposing.main.outputs == (3, 1, 2)
    assert (exposing.main.tensors, exposing.main.operators) == (model.main.tensors, model.main.operators)
    runner = TFLiteRunner(exposing)
    assert [values[0, 1] for values in runner.run_raw([np.array([[0, 20, 1, 2]], np.int8)])] == [12, 20, 12]


@pytest.mark.parametrize("text", ["exact", "bit-exact,x=1", "lsb", "lsb=1KiB"])
def test_bad_limits(text):
    with pytest.raises(InputError):
        parse_certify_limits(text)


# The commands


@pytest.fixture
def emulated(monkeypatch):
    """Emulated CPUs are this machine."""

    def open_device(url):
        return emulator.LocalDevice(url, (sys.executable,), "Cortex-A53")

    monkeypatch.setattr(emulator, "emulated_device", open_device)
    return "qemu://cortex-a53"


@pytest.mark.slow
def test_a_device_like_this_machine_is_bit_exact(emulated, cli, network, exported):
    words = ["certify", network, exported("nin_digits", "int8"), "--on", emulated, "--test-count", "3"]
    ran = cli(*words, "--require", "bit-exact,lsb=1", "--data", "random", "--json")
    assert ran.status == 0, ran.err
    result = read_certify_result(ran.json)
    assert [file.file for file in result.files] == ["net.tflite", "nin_digits_int8.tflite"]
    assert all(run.bit_exact and run.first_operator is None for file in result.files for run in file.runs
               if run.device == emulated)  # fmt: skip
    assert "emulated" in ran.json["devices"][emulated]
    assert {check["item"] for check in ran.json["checks"]} == {"bit-exact", "lsb"}
    # The builtin kernels round in another way than XNNPACK does.
    assert result.files[1].run("host", "builtin").first_operator.op == "CONV_2D"


@pytest.mark.slow
def test_nothing_is_said_of_emulated_time(emulated, cli, exported):
    path = exported("nin_digits", "int8")
    ran = cli("evaluate", path, "--data", "digits", "--test-count", "20", "--on", emulated, "--json")
    assert (ran.status, ran.json["speed"]) == (0, None)
    assert f"The file ran on {emulated}: Cortex-A53 (emulated by QEMU)" in ran.err
    ran = cli("verify", "nin_digits", path, "--data", "digits", "--test-count", "20", "--on", emulated)
    assert "The file ran on" in ran.err


def test_latency_is_refused_on_emulated_cpus(cli, network):
    for command in (["benchmark", network], ["fit", network, "--targets", "cpu"]):
        ran = cli(*command, "--on", "qemu://cortex-a53")
        assert (ran.status, ran.err.count("\n")) == (2, 1), ran.err
        assert "No latency is measured on an emulated CPU" in ran.err


def test_a_cpu_that_is_not_there_is_one_line(cli, network, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for url, problem in {
        "qemu://m1": "to be one of cortex-a53, cortex-a72",
        "qemu://max": "Run: keras-nin devices install qemu",
        "adb://x": "as ssh://[user@]host[:port]",
    }.items():
        ran = cli("certify", network, "--on", url)
        assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1), ran.err
        assert problem in ran.err
    assert "not installed" in cli("devices").out


def document(**changes):
    """Return a JSON document of one file on this machine and a device, in XNNPACK."""
    same = {"kernels": "xnnpack", "differing_images": 0, "max_lsb": 0.0, "top1_changes": 0, "error": None,
            "first_operator": None, "sha256": "00"}  # fmt: skip
    first = {"index": 1, "op": "MEAN", "name": "pool", "max_lsb": 2.0, "count": 1}
    other = same | {"differing_images": 2, "max_lsb": 1.0, "top1_changes": 1, "first_operator": first} | changes
    file = {"file": "net.tflite", "sha256": "00", "bytes": 1, "data": "digits", "images": 3, "operators": 2}
    file["runs"] = [{"device": "host", **same}, {"device": "qemu://max", **other}]
    host = {"cpu": "A chip", "cores": 1, "system": "Linux", "litert": "2.3.0"}
    return {"schema": "keras_nin.certify/1", "kernels": ["xnnpack"], "files": [file],
            "devices": {"host": host, "qemu://max": host}}  # fmt: skip


def test_limits_hold_for_every_run_on_another_device():
    result = read_certify_result(document())
    checks = check_certify_limits(result, parse_certify_limits("bit-exact,lsb=1"))
    assert [str(check) for check in checks] == [
        "net.tflite on qemu://max, XNNPACK: images with other outputs 2, limit at most 0: FAIL, exceeded",
        "net.tflite on qemu://max, XNNPACK: max abs diff 1 LSB, limit at most 1 LSB: pass",
    ]
    failed = read_certify_result(document(error="killed", differing_images=None, max_lsb=None))
    (check,) = check_certify_limits(failed, parse_certify_limits("lsb=9"))
    assert (check.passed, check.reason) == (False, "killed")


def test_a_document_is_read_back_and_reported(cli, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(document()))
    assert cli("report", "c.json", "-o", "page.html").status == 0
    page = (tmp_path / "page.html").read_text()
    for text in ("1 LSB, top-1 changes 1", "operator 1 MEAN pool (2 LSB)", "baseline"):
        assert text in page
    result = read_certify_result(document())
    assert read_certify_result(result.to_json()) == result
    assert list(certificate_lines(result.files[0])) == [
        "qemu://max, XNNPACK: outputs differ on 2 of 3 images, max abs diff 1 LSB; operator 1 MEAN pool (2 LSB)"
    ]
    damaged = document()
    del damaged["files"][0]["runs"][1]
    (tmp_path / "d.json").write_text(json.dumps(damaged))
    ran = cli("report", "d.json", "-o", "page.html", "--force")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
