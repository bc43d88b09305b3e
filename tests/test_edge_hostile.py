"""Damaged files through the commands for edge targets: a report or one clear line, and no process is left."""

import importlib
import pathlib

import micro_stand_in
import pytest
import vela_stand_in
from edge_networks import chain

FOLDER = pathlib.Path(__file__).parents[1] / "tools"
# The child process of micro takes half a second each.
COUNTS = {"edgetpu": 100, "ethosu": 8, "micro": 9}


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("fuzz_edge")


def survey(fuzz, command, path):
    """The outcomes, in words, of damaged copies of a file; nothing may have failed or be left over."""
    outcomes, left = fuzz.survey(command, {"net": path.read_bytes()}, COUNTS[command])
    assert [each for each in outcomes if each.kind.startswith("FAILED")] == []
    assert left == []
    return {each.kind for each in outcomes}


def test_the_edge_tpu_s_verdict(fuzz, tmp_path):
    kinds = survey(fuzz, "edgetpu", chain(tmp_path / "net.tflite", "RELU", "TANH", "LOGISTIC"))
    assert {"refused here", "reported: compiles"} <= kinds


def test_micro(fuzz, tmp_path, monkeypatch):
    micro_stand_in.install(tmp_path, monkeypatch)
    kinds = survey(fuzz, "micro", micro_stand_in.softmax(tmp_path / "net.tflite"))
    assert {"refused here", "reported: an arena"} <= kinds


def test_ethos_u_where_vela_crashes_on_what_gets_past_the_reader(fuzz, tmp_path, monkeypatch):
    vela_stand_in.install(tmp_path, monkeypatch, "import signal; os.kill(os.getpid(), signal.SIGSEGV)")
    kinds = survey(fuzz, "ethosu", vela_stand_in.network(tmp_path))
    assert kinds == {"refused here", "refused by Vela (a crash)"}
