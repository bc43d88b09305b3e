"""Sections of a report that come from targets and scores: what their JSON holds stands in the page."""

import json
import re

import pytest
import target_documents as made
import tflite_writer
from edge_networks import chain
from test_report_html import HOSTILE, Page, seen

from keras_nin.benchmark import comparison
from keras_nin.errors import InputError
from keras_nin.report import documents
from keras_nin.report.html import page as page_module


@pytest.fixture
def page(tmp_path):
    """A function that returns the `Page` of documents."""

    def render(*given):
        found = []
        for number, document in enumerate(given):
            (tmp_path / f"{number}.json").write_text(json.dumps(document))
            found += documents.read_documents(tmp_path / f"{number}.json")
        return Page(page_module.render_page(page_module.group_by_file(found), others=found))

    return render


def test_every_kind_has_its_section(page):
    shown = page(*made.documents().values())
    for title in (
        "Targets", "Edge TPU: 1 of 3 operators mapped", "Ethos-U, as Vela expects it", "Accuracy: net_int8", "Claims",
        "TFLite Micro: an arena of 11.6 KiB", "counted: holds", "timed: does not hold",
    ):  # fmt: skip
        assert title in shown.text
    assert "some/where" not in shown.text
    ids = shown.attributes("id")
    assert len(ids) == len(set(ids))
    assert all(later - earlier <= 1 for earlier, later in zip(shown.headings, shown.headings[1:], strict=False))


def test_what_has_the_hash_of_a_file_is_of_that_file(page):
    shown = page(made.sweep().to_json(), made.micro().to_json(), made.sweep().to_json())
    assert shown.headings.count(2) == 3  # contents, overview, one file
    assert shown.text.count("Ethos-U, as Vela expects it") == 2  # contents and section: the same again is no other


def test_the_table_of_targets_has_a_column_for_each_file_and_every_reason(page):
    text = " ".join(page(made.fit().to_json()).text.split())
    for cells in (
        "figure net_int8 net_float32", "this CPU, 1 thread 1.25 ms does not run", "CPU 95 % interval 1.24 to 1.27 ms",
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
        "net_int8.tflite on ethos-u55-128 at 500 MHz, Ethos_U55_High_End_Embedded, Shared_Sram, as Vela 5.2.0" in text
    )
    assert "fire2_expand1x1 pointwise expand NPU 1 6,400 100 50.0%" in text
    assert "lrn: Vela gives no reason" in text
    assert "ethos-u85-256: refused: Expected another file" in text


def test_an_arena_that_does_not_exist_has_its_reason(page):
    text = page(made.micro_abort().to_json()).text
    assert "TFLite Micro: none works: abort" in text
    assert "No arena up to 2.00 MiB works: the runtime ends with SIGABRT" in text


def test_scores_and_claims_stand_as_the_commands_print_them(page):
    text = " ".join(page(made.evaluate(), made.claims()).text.split())
    assert "Top-1 91.7 % on 12 images." in text
    assert "cat 4 75.0 % 100.0 %" in text
    assert "cat 1 . 3" in text  # the confusion: one cat taken for an ant
    assert "18,950 images per second, inference alone: 12 runs on 1 thread, batch 1; Test CPU" in text
    assert "shape 12x12x32 12x12x32 yes" in text
    assert "difference at most 1e-05 2e-06 yes" in text
    assert "ratio 23 4.5 (4.25 to 4.75) NO" in text
    assert "agreed - no (declared: yes) -" in text
    assert "Measured in 5 processes, in each 50 warm runs of every layer in turns; Test CPU" in text


def test_a_comparison_of_runs_names_hosts_and_runs(page):
    import report_profiles

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
    text = Page((tmp_path / "report.html").read_text()).text
    assert "Edge TPU: 1 of 2 operators mapped" in text
    assert "net.tflite: 1 of 2 operators on the Edge TPU" in text
    assert str(tmp_path) not in text


def test_a_file_with_nothing_to_judge_says_so(cli, tmp_path):
    tensors = [tflite_writer.tensor(name, (1, 8)) for name in "ab"]
    tflite_writer.write(tmp_path / "net.tflite", tensors, [tflite_writer.custom("edgetpu-custom-op", [0], [1])])
    assert cli("report", tmp_path / "net.tflite", "-o", "report.html").status == 0
    text = (tmp_path / "report.html").read_text()
    assert "Edge TPU: not judged" in text
    assert str(tmp_path) not in text


NAMES = ("schema", "accelerator", "target", "targets")  # what is one of some words is refused otherwise


@pytest.mark.parametrize("kind", made.documents())
def test_names_that_are_attacks_are_text(page, kind):
    document = json.loads(json.dumps(made.documents()[kind]))

    def attack(value):
        if isinstance(value, dict):
            return {key: value[key] if key in NAMES else attack(value[key]) for key in value}
        if isinstance(value, list):
            return [attack(each) for each in value]
        return HOSTILE[0] + HOSTILE[1] if isinstance(value, str) else value

    shown = page(attack(document))
    assert not {"script", "link", "iframe"} & {tag for tag, _ in shown.tags}
    assert all(source.startswith("data:") for source in shown.attributes("src"))
    assert "alert(1)" in shown.text


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"),
    [
        ("fit", ("targets",), ["cpu", "tpu"], "Expected `target` to be one of"),
        ("ethosu", ("results",), [], "one at least"),
        ("ethosu", ("results", 1, "sha256"), "00", "results of one file"),
        ("ethosu", ("results", 0, "clock_hz"), 0, "above 0"),
        ("micro", ("arena",), None, "neither"),
        ("evaluate", ("confusion", "matrix", 1), [1], "each of 3 classes"),
        ("claims", ("claims", 0, "figures", 0), 7, "list of figures"),
        ("edgetpu", ("total",), None, "the total"),
    ],
)
def test_a_damaged_document_is_refused(page, kind, path, value, message):
    document = json.loads(json.dumps(made.documents()[kind]))
    *way, last = path
    place = document
    for key in way:
        place = place[key]
    place[last] = value
    with pytest.raises(InputError, match=re.escape(message)):
        page(document)


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_targets_without_scrolling_sideways(tmp_path, width):
    found = []
    for kind, document in made.documents().items():
        (tmp_path / f"{kind}.json").write_text(json.dumps(document))
        found += documents.read_documents(tmp_path / f"{kind}.json")
    shown = seen(tmp_path, page_module.render_page(page_module.group_by_file(found), others=found), width)
    assert shown["needed"] <= width, shown["wide"]
    assert (shown["wide"], shown["scripts"], shown["asked"]) == ([], 0, [])
    assert min(shown["pictures"]) > 100
    for title in ("Targets", "Ethos-U, as Vela expects it", "Edge TPU", "TFLite Micro", "Accuracy", "Claims"):
        assert title in shown["text"]
