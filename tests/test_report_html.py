"""The HTML report: what stands in the page, that nothing in it acts, and the verdicts of its first table."""

import collections
import dataclasses
import re
from html.parser import HTMLParser

import pytest
import report_profiles
import target_documents as made

from keras_nin.audit.records import Finding
from keras_nin.benchmark import comparison, layer_times
from keras_nin.edge.ethosu.records import EthosURefusal, EthosUResult
from keras_nin.errors import InputError
from keras_nin.export.parity import Parity, ParityCheck
from keras_nin.report.accuracy import check_table
from keras_nin.report.documents import CalibrationDocument, ExportDocument, NamedAudit, RatiosDocument
from keras_nin.report.html.comparison import compare_files, group_by_file, parse_report_limits
from keras_nin.report.html.page import render_page

SHA = "ab" * 32
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=http://example.com/x onerror=alert(1)>',
    "</title></style></svg>]]>-->",
    "{{ 7 * 7 }} $\\frac{1}{",
    "\u202egnp.exe \x1b[31m \ud800",
    "a/very/long/tensor/name" * 12,
)


class Page(HTMLParser):
    """What a browser would make of the page: its tags with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.headings = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_data(self, data):
        self.text += data

    def attributes(self, name):
        """The values of an attribute, of all tags."""
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def parity(passed=True):
    check = ParityCheck("max_abs_diff_lsb", 0.01 if passed else 2.0, 0.06, passed)
    return Parity("digits", 360, 0.004, check.value, 0.001, 0.99, 0.98, 0.97, None, None, (check,), snr_db=31.4)


def export_record(**changes):
    calibration = CalibrationDocument("digits", 100)
    record = ExportDocument("small_int8.tflite", SHA, 1000, "small", "digits", "int8", calibration, parity())
    return dataclasses.replace(record, **changes)


def everything(names=(), file="small_int8.tflite"):
    """All that can be known of one file."""
    audit = report_profiles.audit(names=names)
    finding = Finding("heavy-head", (audit.rows[-1].name,), f"{audit.rows[-1].name} is heavy.", {"bytes": 2048})
    audit = dataclasses.replace(audit, findings=(finding,))
    profile = report_profiles.profile(file=file, rows=audit.rows, peaks=report_profiles.PEAKS)
    benchmark = report_profiles.benchmark(profile, warnings=("the machine is busy",))
    return NamedAudit(file, audit, SHA, 1000), export_record(file=file), benchmark


@pytest.fixture(scope="module")
def whole():
    """The page of one file of which everything is known."""
    return render_page(everything())


@pytest.fixture(scope="module")
def hostile():
    """The page of a file whose every name is an attack."""
    return render_page(everything(HOSTILE, f"{HOSTILE[0]}.tflite"))


def test_every_section_is_there_and_linked(whole):
    page = Page(whole)
    for title in ("All files", "Time by layer role", "Parity", "Latency on 1 thread", "1x1 by role", "By block",
                  "Every layer", "Roofline", "Audit", "Findings"):  # fmt: skip
        assert title in page.text
    targets = [link.removeprefix("#") for link in page.attributes("href")]
    assert set(targets) <= set(page.attributes("id"))
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert {*sections, "file-1-parity", "file-1-run-1", "file-1-audit"} <= set(targets)


def test_it_is_in_order_for_those_who_do_not_see_it(whole):
    page = Page(whole)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(page.headings, page.headings[1:], strict=False))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert all(attributes.get("aria-label") for _, attributes in page.tags if attributes.get("role") == "img")
    assert set(page.attributes("aria-labelledby")) <= set(ids)


def test_every_latency_has_its_host_threads_and_runs(whole):
    page = Page(whole)
    line = "Median of 500 runs on 1 thread, batch 1; Test CPU, 2 cores, Linux x86_64, LiteRT 2.3.0"
    assert page.text.count(line) == 3  # whole runs, layers, roofline
    assert "Latency: median at batch 1, on Test CPU, 2 cores, Linux x86_64, LiteRT 2.3.0" in page.text
    assert "; 400 runs" in page.text
    assert "Warning: the machine is busy" in page.text


def test_the_bars_are_all_layers_in_order_with_kind_and_role(whole):
    layers = whole[whole.index('class="bars layers"') :]
    bars = re.findall(r'<span class="name">(.*?)<small> (.*?)</small>.*?class="bar (\w+)" style="width:(.*?)%"', layers)
    names = [row.name for row in report_profiles.audit().rows]
    assert [bar[0] for bar in bars] == [*names, "runtime overhead"]
    assert [bar[1] for bar in bars[:6]] == ["spatial", "pool", "1x1 reduce", "1x1 expand", "spatial", "1x1 head"]
    widths = [float(bar[3]) for bar in bars]
    times = [layer.us.typical for layer in report_profiles.profile().layers]
    assert widths[:6] == pytest.approx([100 * us / max(times) for us in times], abs=0.01)


def test_random_weights_and_calibration_are_labeled():
    calibration = CalibrationDocument("random", 10, latency_only=True)
    text = Page(render_page([export_record(weights="random (seed 0)", calibration=calibration)])).text
    assert "weights: random (seed 0)" in text
    assert "random calibration: for latency only" in text
    assert "random" not in Page(render_page([export_record()])).text


def test_the_verdict_on_parity_is_in_words(whole):
    text = " ".join(Page(whole).text.split())
    for words in (
        "Parity pass",
        "max abs diff (LSB) 0.01 0.06 pass",
        "LSB = one quantization step of the output",
        "Top-1 match 99.0%. Top-1: model 98.0%, file 97.0%.",
    ):
        assert words in text
    assert "Parity FAIL" in " ".join(Page(render_page([export_record(parity=parity(passed=False))])).text.split())
    assert "Not compared with its model" in Page(render_page([export_record(parity=None)])).text


def test_names_are_text_and_nothing_else(hostile):
    page = Page(hostile)
    tags = collections.Counter(tag for tag, _ in page.tags)
    assert not {"script", "iframe", "object", "embed", "link", "form", "base", "foreignobject", "img"} & set(tags)
    assert tags["svg"] == 1  # the roofline
    assert HOSTILE[0] in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "\\u202egnp.exe \\x1b[31m \\ud800" in page.text
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    hostile.encode()


def test_nothing_is_asked_of_a_network(whole, hostile):
    for text in (whole, hostile):
        page = Page(text)
        assert page.attributes("src") == []
        assert all(link.startswith("#") for link in page.attributes("href"))
        assert not re.search(r"url\(|@import", text)
        (policy,) = (
            attributes["content"] for tag, attributes in page.tags if "Policy" in attributes.get("http-equiv", "")
        )
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")


def test_the_same_documents_give_the_same_page(whole):
    assert render_page(everything()) == whole


def test_documents_belong_to_a_file_by_its_hash():
    audit, record, benchmark = everything()
    renamed = dataclasses.replace(benchmark.profiles[0], file="renamed.tflite")
    other = report_profiles.profile(sha256="cd" * 32)
    first, second = group_by_file([report_profiles.benchmark(renamed, other), audit, record, benchmark])
    assert (first.audit, first.export) == (audit.audit, record)
    assert len(first.profiles) == 2  # the same profile under another name, and under its own
    assert (second.audit, second.export, second.profiles) == (None, None, (other,))


def test_ratios_and_compared_runs_are_sections():
    first = report_profiles.profile()
    second = dataclasses.replace(first, file="other.tflite", sha256="cd" * 32, threads=2)
    slower = dataclasses.replace(first, total=dataclasses.replace(first.total, median=2 * first.total.median, low=None))
    compared = comparison.compare_runs(report_profiles.benchmark(first), report_profiles.benchmark(slower))
    ratios = RatiosDocument(
        report_profiles.benchmark(first, second),
        (
            comparison.LatencyRatio(second.file, first.file, 1, 1.25, 1.2, 1.3),
            comparison.LatencyRatio("c", "a", 1, 2.0, None, None),
        ),
    )
    text = Page(render_page((ratios, compared))).text
    for shown in ("1.250", "1.200 to 1.300", f"{second.file}: Median of 500 runs on 2 threads", "2.000", "unknown"):
        assert shown in text


def rows(page_text):
    """The rows of the first table: name and cells, as words."""
    table = page_text[page_text.index('<table class="comparison"') : page_text.index("</table>")]
    cells = (re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in table.split("<tr>")[1:])
    return [[" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in row] for row in cells]


LIMITS = "cpu=5ms,edgetpu=full,ethosu=1ms,sram=8KiB,arena=64KiB,flash=900B,top1=0.97"


def test_every_figure_has_its_limit_and_its_verdict():
    audit, record, benchmark = everything()
    fit = made.fit(made.file_fit(file="other_name.tflite"))
    fit = dataclasses.replace(fit, results=(dataclasses.replace(fit.results[0], sha256=SHA),))
    documents = (audit, record, benchmark, fit)
    compared = compare_files(group_by_file(documents), parse_report_limits(LIMITS))
    text = render_page(documents, comparison=compared)
    head, row = rows(text)
    assert head == [
        "File", "Size \u2264 0.9 KiB", "Top-1 \u2265 97%", "Latency 1 thread, Test CPU \u2264 5 ms",
        "Edge TPU operators, predicted \u2265 100%", "Arena TFLite Micro \u2264 64 KiB",
        "Ethos-U ethos-u55-128 \u2264 1 ms sram \u2264 8 KiB",
    ]  # fmt: skip
    share = f"{layer_times.sum_pointwise(report_profiles.profile()).share:.1%} in 1x1"
    median = f"{report_profiles.profile().total.median:,.1f} us"  # of the benchmark, not of `fit`
    assert row[:4] == [
        "small_int8 FAIL: 2 of 7 limits", "FAIL 1.0 KiB 34,000,000 MACs", "pass 97.0% model 98.0%, parity pass",
        f"pass {median} {share}",
    ]  # fmt: skip
    assert row[4:] == [
        "pass 13 of 13 on-chip", "pass 11.7 KiB bit-exact", "pass 0.132 ms SRAM 8.1 KiB FAIL"
    ]  # fmt: skip
    assert [check.limit.name for check in compared.checks if not check.passed] == ["flash", "sram"]
    assert "0 of 1 file within all limits" in Page(text).text


def test_a_figure_that_is_missing_or_means_nothing_fails_its_limit():
    float_file = dataclasses.replace(made.fit(made.float_fit()), targets=("edgetpu", "ethosu", "micro"))
    compared = compare_files(group_by_file([float_file]), parse_report_limits(LIMITS))
    (row,) = compared.rows
    assert [check.limit.name for check in row.checks if check.passed] == []
    cells = [[line.text for line in lines] for lines in row.cells]
    assert cells[1:] == [
        ["not measured"], ["not measured"], ["does not compile", "Model not quantized"], ["needs the extra micro"],
        ["nothing on the NPU", "SRAM 0.0 KiB"],
    ]  # fmt: skip
    reasons = {check.limit.name: check.reason for check in row.checks}
    assert reasons["cpu"] == "not measured: no document of the report has it"
    assert "tflite-micro" in reasons["arena"]


def test_a_limit_holds_for_every_machine_and_accelerator():
    fast, slow = report_profiles.profile(), report_profiles.profile(threads=2)
    slow = dataclasses.replace(slow, total=dataclasses.replace(slow.total, median=9000.0))
    estimates = dataclasses.replace(made.sweep(), refusals=())
    reports = group_by_file([report_profiles.benchmark(fast, slow), estimates])
    compared = compare_files(reports, parse_report_limits("cpu=5ms,ethosu=1ms"))
    assert [column.condition for column in compared.columns] == [
        "", "1 thread, Test CPU", "2 threads, Test CPU", "ethos-u55-128", "ethos-u55-256"
    ]  # fmt: skip
    verdicts = {check.subject: check.verdict.value for check in compared.rows[0].checks}
    assert verdicts["small_int8.tflite (1 thread, Test CPU)"] == "pass"
    assert verdicts["small_int8.tflite (2 threads, Test CPU)"] == "exceeded"
    # One layer of the estimates is on the CPU: their times are not the whole.
    assert {check.verdict.value for check in compared.rows[1].checks} == {"unknown"}


def test_an_accelerator_has_a_column_for_each_of_its_configurations():
    first = made.estimate()
    other = dataclasses.replace(first, memory_mode="Dedicated_Sram", us=2 * first.us)
    results = [EthosUResult(first.file, (found,), ()) for found in (first, other)]
    refused = dataclasses.replace(made.sweep(), refusals=(EthosURefusal(first.accelerator, "no"),), estimates=(other,))
    name = f"{first.accelerator}, {first.system_config}"
    for documents in (results, [*results, made.fit(made.file_fit(sha256=first.sha256))]):
        compared = compare_files(group_by_file(documents), parse_report_limits("ethosu=1s"))
        columns = [column.condition for column in compared.columns if column.heading == "Ethos-U"]
        assert columns == [f"{name}, {first.memory_mode}", f"{name}, Dedicated_Sram"]
        times = [lines[0].text for lines in compared.rows[0].cells[-2:]]
        assert times == [f"{us / 1000:,.3f} ms + CPU" for us in (first.us, other.us)]
        assert compared.rows[0].checks[-1].subject == f"{compared.rows[0].report.title} ({columns[1]})"
    assert f"{name}, Dedicated_Sram" in Page(render_page(results)).text
    compared = compare_files(group_by_file([dataclasses.replace(refused, estimates=(first,)), results[0]]))
    assert [column.condition for column in compared.columns][-1] == first.accelerator  # one configuration: not named


def test_limits_of_other_commands_and_unknown_ones_are_refused():
    with pytest.raises(InputError, match="Did you mean cpu, edgetpu"):
        parse_report_limits("gpu=5ms")


def test_bars_of_very_different_files_have_scales_of_their_own():
    from keras_nin.report.html import charts

    fast = report_profiles.profile()
    half = dataclasses.replace(fast, layers=fast.layers[:4], overhead_us=None)
    chart = charts.chart_times([("a", fast), ("b", half)])
    assert not chart.is_relative
    totals = [sum(layer.us.typical for layer in fast.layers) + 12.0, sum(layer.us.typical for layer in half.layers)]
    widths = [sum(segment.width for segment in bar.segments) for bar in chart.bars]
    assert widths == pytest.approx([1, totals[1] / totals[0]])
    tiny = dataclasses.replace(fast, layers=fast.layers[1:2], overhead_us=-3.0)  # an overhead below zero has no part
    chart = charts.chart_times([("a", fast), ("b", tiny)])
    assert chart.is_relative
    assert [sum(segment.width for segment in bar.segments) for bar in chart.bars] == pytest.approx([1, 1])
    assert [segment.style.key for segment in chart.bars[1].segments] == ["other"]


def test_a_check_that_this_version_does_not_know():
    check = ParityCheck("<b>of another version", 1.0, 2.0, True)
    record = export_record(parity=dataclasses.replace(parity(), checks=(check,)))
    assert check_table(record.parity).rows[0][0] == "<b>of another version"
    whole = [NamedAudit("small_int8.tflite", report_profiles.audit(), SHA, 1000), record]
    assert "&lt;b&gt;of another version" in render_page(whole)
