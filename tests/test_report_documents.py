"""Sections of a report that come from targets and scores: what their JSON holds stands in the page."""

import json
import re

import pytest
import report_profiles
import target_documents as made
import tflite_writer
from edge_networks import chain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_report_html import HOSTILE, Page, rows

from keras_nin.benchmark import comparison
from keras_nin.errors import InputError
from keras_nin.report import documents
from keras_nin.report.html import page as html
from keras_nin.report.html.page import render_page


@pytest.fixture
def page(tmp_path):
    """A function that returns the `Page` of documents."""

    def render(*sources):
        found = []
        for number, document in enumerate(sources):
            (tmp_path / f"{number}.json").write_text(json.dumps(document))
            found += documents.read_documents(tmp_path / f"{number}.json")
        return Page(render_page(found))

    return render


def test_every_kind_has_its_section(page):
    shown = page(*made.documents().values())
    for title in (
        "Targets", "Edge TPU 1 of 3 operators mapped", "Ethos-U 0.000 ms + CPU on ethos-u55-128, estimated by Vela",
        "Accuracy: net_int8", "Claims", "TFLite Micro arena of 11.6 KiB", "counted: holds", "timed: does not hold",
    ):  # fmt: skip
        assert title in " ".join(shown.text.split())
    assert "some/where" not in shown.text
    ids = shown.attributes("id")
    assert len(ids) == len(set(ids))
    assert all(later - earlier <= 1 for earlier, later in zip(shown.headings, shown.headings[1:], strict=False))


def test_what_has_the_hash_of_a_file_is_of_that_file(page):
    shown = page(made.sweep().to_json(), made.micro().to_json(), made.sweep().to_json())
    assert shown.headings.count(2) == 2  # all files, one file
    assert shown.text.count("on ethos-u55-128, estimated by Vela") == 1  # the same again is no other


def test_an_edge_tpu_verdict_is_joined_to_its_file_by_hash(cli, tmp_path):
    chain(tmp_path / "net.tflite", "RELU", "ELU")
    (tmp_path / "net.json").write_text(cli("edgetpu", tmp_path / "net.tflite", "--json").out)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "net.tflite").rename(tmp_path / "elsewhere" / "renamed.tflite")
    assert cli("report", "elsewhere/renamed.tflite", "net.json", "-o", "report.html").status == 0
    text = (tmp_path / "report.html").read_text()
    head, row = rows(text)
    assert head[:3] == ["File", "Size", "Edge TPU operators, predicted"]
    assert (row[0], row[2]) == ("renamed", "1 of 2 on-chip")
    assert text.count("<h3>Edge TPU</h3>") == 1
    old = json.loads((tmp_path / "net.json").read_text())
    del old["sha256"]  # a document of version 0.2.0
    (tmp_path / "net.json").write_text(json.dumps(old))
    assert cli("report", "elsewhere/renamed.tflite", "net.json", "-o", "old.html").status == 0
    assert "not joined to a file: the JSON has no hash" in (tmp_path / "old.html").read_text()


def test_scores_with_a_hash_are_of_their_file(page):
    scores = made.evaluate() | {"sha256": made.SHA}
    shown = page(made.micro().to_json(), scores)
    assert shown.headings.count(2) == 2
    assert "Accuracy on insects top-1 91.7%" in " ".join(shown.text.split())


def test_scores_of_another_task_stand_in_the_first_table(tmp_path):
    output = {"output": None, "task": "regression", "images": 12, "scores": {"mae": 0.5, "rmse": 0.75, "r2": None}}
    none = {"top1": None, "top5": None, "per_class": [], "confusion": {"classes": [], "matrix": []}}
    scores = made.evaluate() | none | {"sha256": made.SHA, "outputs": [output]}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    head, row = rows(text := render_page(documents.read_documents(tmp_path / "scores.json")))
    assert (head, row[2]) == (["File", "Size", "Scores"], "MAE 0.5")
    assert "MAE 0.5, RMSE 0.75 (regression)" in text


def test_the_table_of_targets_has_a_column_for_each_file_and_every_reason(page):
    text = " ".join(page(made.fit().to_json()).text.split())
    for cells in (
        "figure net_int8 net_float32", "this CPU, 1 thread 1.250 ms does not run", "CPU 95% interval 1.24 to 1.27 ms",
        "Edge TPU all mapped Model not quantized", "ethos-u55-128 0.132 ms nothing on the NPU",
        "TFLite Micro arena 11.7 KiB needs the extra micro",
    ):  # fmt: skip
        assert cells in text
    assert "this CPU, net_float32.tflite: does not run: Expected it to run. Received: a crash" in text
    assert "CPU: measured, median at batch 1 on 1 thread; Test CPU, 2 cores" in text
    assert "Warning: the machine is busy" in text


def test_an_estimate_says_what_is_on_the_cpu_and_who_expects_it(page):
    text = " ".join(page(made.sweep().to_json()).text.split())
    assert (
        "net_int8.tflite on ethos-u55-128 at 500 MHz, Ethos_U55_High_End_Embedded, Shared_Sram, estimated by Vela 5.2.0"
        in text
    )
    assert "fire2_expand1x1 pointwise expand NPU 1 6,400 100 50.0%" in text
    assert "lrn: Vela gives no reason" in text
    assert "ethos-u85-256: refused: Expected another file" in text


def test_an_arena_that_does_not_exist_has_its_reason(page):
    text = page(made.micro_abort().to_json()).text
    assert "no arena works: abort" in text
    assert "No arena up to 2.00 MiB works: the runtime ends with SIGABRT" in text


def test_scores_and_claims_stand_as_the_commands_print_them(page):
    text = " ".join(page(made.evaluate(), made.claims()).text.split())
    assert "Top-1 91.7% on 12 images." in text
    assert "cat 4 75.0% 100.0%" in text
    assert "2 cat 1 . 3" in text  # one cat was predicted as an ant
    assert "18,950 images per second, inference only: 12 runs on 1 thread, batch 1; Test CPU" in text
    assert "shape 12x12x32 12x12x32 yes" in text
    assert "difference at most 1e-05 2e-06 yes" in text
    assert "ratio 23 4.5 (4.25 to 4.75) NO" in text
    assert "agreed - no (declared: yes) -" in text
    assert "5 processes with 50 warm, interleaved runs of every layer in each" in text


def test_a_comparison_of_runs_names_hosts_and_runs(page):
    before = report_profiles.benchmark()
    both = comparison.compare_runs(before, before).to_json()
    assert "Before and after: batch 1; Test CPU, 2 cores, Linux x86_64, LiteRT 2.3.0" in page(both).text
    assert "500, 500" in page(both).text
    other = page(both | {"after_host": report_profiles.HOST | {"cpu": "Other CPU"}}).text
    assert "Before: batch 1; Test CPU" in other
    assert "After: batch 1; Other CPU" in other
    old = {key: value for key, value in both.items() if key not in ("before_host", "after_host")}
    assert "Before and after: batch 1" not in page(old).text


def test_a_file_has_its_verdict_without_being_asked(cli, tmp_path):
    chain(tmp_path / "net.tflite", "RELU", "ELU")
    assert cli("report", tmp_path / "net.tflite", "-o", "report.html").status == 0
    text = " ".join(Page((tmp_path / "report.html").read_text()).text.split())
    assert "Edge TPU 1 of 2 operators mapped" in text
    assert "net.tflite: 1 of 2 operators on the Edge TPU" in text
    assert str(tmp_path) not in text


def test_a_file_with_nothing_to_judge_says_so(cli, tmp_path):
    tensors = [tflite_writer.tensor(name, (1, 8)) for name in "ab"]
    tflite_writer.write(tmp_path / "net.tflite", tensors, [tflite_writer.custom("edgetpu-custom-op", [0], [1])])
    assert cli("report", tmp_path / "net.tflite", "-o", "report.html").status == 0
    text = " ".join(Page((tmp_path / "report.html").read_text()).text.split())
    assert "Edge TPU no verdict" in text
    assert str(tmp_path) not in text


WORDS = ("schema", "accelerator", "target", "targets")  # other words for these are refused


def attack(value):
    """A document whose every text is markup."""
    if isinstance(value, dict):
        return {key: value[key] if key in WORDS else attack(value[key]) for key in value}
    if isinstance(value, list):
        return [attack(item) for item in value]
    return HOSTILE[0] + HOSTILE[1] if isinstance(value, str) else value


def test_names_that_are_attacks_are_text(page):
    for document in json.loads(json.dumps(made.documents())).values():
        shown = page(attack(document))
        assert not {"script", "link", "iframe"} & {tag for tag, _ in shown.tags}
        assert shown.attributes("src") == []
        assert "alert(1)" in shown.text


def replace(document, path, value):
    """A copy of a JSON document with another value at `path`."""
    changed = json.loads(json.dumps(document))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def test_damaged_documents_are_refused_with_their_path(page):
    documents = made.documents()
    for kind, path, value, message in (
        ("fit", ("targets",), ["cpu", "tpu"], "Expected `target` to be one of"),
        ("ethosu", ("results",), [], "at least one"),
        ("ethosu", ("results", 1, "sha256"), "00", "results of one file"),
        ("ethosu", ("results", 0, "clock_hz"), 0, "above 0"),
        ("micro", ("arena",), None, "neither"),
        ("micro", ("file_bytes",), "1", "Expected a whole number for MicroResult.file_bytes. Received: '1'"),
        ("evaluate", ("confusion", "matrix", 1), [1], "each of 3 classes"),
        ("claims", ("claims", 0, "figures", 0), 7, "Expected a JSON object for figures of a claim"),
        ("edgetpu", ("total",), None, "Expected a JSON object for total"),
    ):
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            page(replace(documents[kind], path, value))
        assert caught.value.path.endswith("0.json")


def paths(document, path=()):
    """The path of every value in a JSON document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*path, key))


@pytest.fixture(scope="module")
def valid_documents():
    """A document of every kind, without figures in its page: they only take time here."""
    benchmark = report_profiles.benchmark(report_profiles.profile(peaks=report_profiles.PEAKS))
    return json.loads(
        json.dumps(
            {
                "benchmark": benchmark.to_json(),
                "audit": report_profiles.audit().to_json(),
                "runs": comparison.compare_runs(benchmark, benchmark).to_json(),
                "export": EXPORT,
                **made.documents(),
            }
        )
    )


EXPORT = {
    "schema": "keras_nin.export_file/1",
    **{"file": "net_int8.tflite", "sha256": "ab" * 32, "bytes": 1000, "model": "net", "weights": "digits"},
    "scheme": "int8",
    "calibration": {"source": "digits", "count": 100},
    "parity": {
        **{"source": "digits", "images": 360, "lsb": 0.004, "max_abs_diff_lsb": 3.0, "rms_diff_lsb": 0.2},
        **{"top1_match": 0.99, "model_top1": 0.98, "file_top1": 0.98, "model_top5": None, "file_top5": None},
        "checks": [{"name": "top1_match", "value": 0.99, "limit": 0.9, "passed": True}],
    },
}
OTHER_VALUES = (None, -1, 0, 10**400, float("nan"), "<b>", [], {}, [None], True)


@settings(
    max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_other_value_anywhere_is_refused_or_shown(tmp_path, monkeypatch, valid_documents, data):
    """Nothing but `InputError` leaves a document that someone has changed: what is read can be made a page."""
    for name in ("plot_bare_roofline", "plot_sweep", "themed_svg"):
        monkeypatch.setitem(html._environment().globals, name, lambda *records: "")
    document = valid_documents[data.draw(st.sampled_from(sorted(valid_documents)))]
    path = data.draw(st.sampled_from(list(paths(document))))
    changed = replace(document, path, data.draw(st.sampled_from(OTHER_VALUES)))
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    try:
        found = documents.read_documents(tmp_path / "changed.json")
    except InputError:
        return
    assert "<b>" not in render_page(found)
