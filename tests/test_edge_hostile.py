"""Damaged files through the commands that hand them to a runtime or a compiler: no crash, and no process is left."""

import fuzz_tflite as fuzz
import micro_stand_in
import pytest
import vela_stand_in


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(fuzz.MARK, str(tmp_path))


def survey(command, path, count):
    """The kinds of outcomes of damaged copies of a file; nothing may have failed or be left over."""
    outcomes = list(fuzz.survey([command], {"net": path.read_bytes()}, range(count)))
    assert [outcome for outcome in outcomes if outcome.failed] == []
    assert fuzz.survivors() == []
    return {outcome.kind for outcome in outcomes}


def test_micro(tmp_path, monkeypatch):
    micro_stand_in.install(tmp_path, monkeypatch)
    assert survey("micro", micro_stand_in.softmax(tmp_path / "net.tflite"), 9) == {"done", "refused"}


def test_ethos_u_where_vela_crashes_on_what_gets_past_the_reader(tmp_path, monkeypatch):
    vela_stand_in.install(tmp_path, monkeypatch, "import signal; os.kill(os.getpid(), signal.SIGSEGV)")
    kinds = survey("ethosu", vela_stand_in.network(tmp_path), 8)
    assert kinds == {"refused", "crashed in the child process"}
