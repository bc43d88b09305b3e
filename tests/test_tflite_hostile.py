"""Damaged .tflite files, as tools/fuzz_tflite.py makes them by the thousand: an audit or one InputError, soon."""

import importlib.util
import pathlib
import tracemalloc

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "tools" / "fuzz_tflite.py"
FILES = 200


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz_tflite", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(fuzz):
    return fuzz.hand_written()


def test_the_undamaged_file_is_audited(fuzz, base, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(base)
    assert fuzz.outcome(path)[0] == "audited"


def test_damaged_files_are_audited_or_refused(fuzz, base, tmp_path):
    path = tmp_path / "net.tflite"
    found = []
    for number in range(FILES):
        mutation, damaged = fuzz.mutant("hand-written", base, number)
        path.write_bytes(damaged)
        kind, seconds = fuzz.outcome(path)
        assert seconds < 1, (number, mutation)
        found.append((mutation, kind))
    assert {mutation for mutation, _ in found} == {change.__name__ for change in fuzz.MUTATIONS}
    assert {kind for _, kind in found} == {"audited", "refused"}


def test_a_damaged_file_is_the_same_every_time(fuzz, base):
    for number in range(len(fuzz.MUTATIONS)):
        assert fuzz.mutant("hand-written", base, number) == fuzz.mutant("hand-written", base, number)


def test_refusing_takes_little_memory(fuzz, base, tmp_path):
    path = tmp_path / "net.tflite"
    damaged = [
        fuzz.mutant("hand-written", base, number)[1] for number in range(fuzz.MUTATIONS.index(fuzz.rewired), 140, 7)
    ]
    path.write_bytes(base)
    fuzz.outcome(path)
    tracemalloc.start()
    for content in damaged:
        path.write_bytes(content)
        fuzz.outcome(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_what_is_no_outcome_fails_the_survey(fuzz, tmp_path, monkeypatch, capsys):
    """A child that dies, or an exception of another kind, is counted and makes the report fail."""
    source = tmp_path / "base.tflite"
    source.write_bytes(b"too short to be damaged at all")
    monkeypatch.setattr(fuzz, "BASES", {"own": source.read_bytes})
    monkeypatch.setattr(
        fuzz, "survey", lambda *_: [[0, "noise", "ZeroDivisionError: 1", 0.0], [1, "noise", "refused", 2.0]]
    )
    assert fuzz.report(2) is False
    assert capsys.readouterr().out.count("FAILED") == 2
