"""The HTML report: what stands in the page, that nothing in it acts, and how a real browser shows it."""

import collections
import dataclasses
import json
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser

import pytest
import report_profiles

from keras_nin.audit.records import Finding
from keras_nin.benchmark import comparison
from keras_nin.export.parity import Parity, ParityCheck
from keras_nin.report.documents import CalibrationDocument, ExportDocument, NamedAudit, RatiosDocument
from keras_nin.report.html.page import group_by_file, render_page

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
    for title in ("Overview", "Audit", "Findings", "Parity", "Latency on 1 thread", "1x1 by role", "By block",
                  "Every layer", "Roofline"):  # fmt: skip
        assert title in page.text
    targets = [link.removeprefix("#") for link in page.attributes("href")]
    assert set(targets) <= set(page.attributes("id"))
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert set(sections) <= set(targets)


def test_it_is_in_order_for_those_who_do_not_see_it(whole):
    page = Page(whole)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(page.headings, page.headings[1:], strict=False))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert set(page.attributes("aria-labelledby")) <= set(ids)


def test_every_latency_has_its_host_threads_and_runs(whole):
    page = Page(whole)
    line = "Median of 500 runs on 1 thread, batch 1; Test CPU, 2 cores, Linux x86_64, LiteRT 2.3.0"
    assert page.text.count(line) >= 5  # whole runs, kinds, blocks, layers, roofline
    assert "; 400 runs" in page.text
    assert "Warning: the machine is busy" in page.text


def test_the_bars_are_all_layers_in_order_with_kind_and_role(whole):
    bars = re.findall(r'<span class="name">(.*?)<small> (.*?)</small>.*?class="bar (\w+)" style="width:(.*?)%"', whole)
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
        "Parity: pass",
        "max abs diff (LSB) 0.01 0.06 pass",
        "LSB = one quantization step of the output",
        "Top-1 match 99.0%. Top-1: model 98.0%, file 97.0%.",
    ):
        assert words in text
    assert "Parity: FAIL" in Page(render_page([export_record(parity=parity(passed=False))])).text
    assert "Not compared with its model" in Page(render_page([export_record(parity=None)])).text


def test_names_are_text_and_nothing_else(hostile):
    page = Page(hostile)
    tags = collections.Counter(tag for tag, _ in page.tags)
    assert not {"script", "iframe", "object", "embed", "link", "svg", "form", "base"} & set(tags)
    assert HOSTILE[0] in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "\\u202egnp.exe \\x1b[31m \\ud800" in page.text
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    hostile.encode()


def test_nothing_is_asked_of_a_network(whole, hostile):
    for text in (whole, hostile):
        page = Page(text)
        assert all(source.startswith("data:image/") for source in page.attributes("src"))
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


def browser(tmp_path, page, *options):
    """Open a page in a real browser that can reach nothing, and return what it prints."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium: it opens the report as its reader does")
    flags = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'browser'}",
    )  # fmt: skip
    ran = subprocess.run([program, *flags, *options, page.as_uri()], capture_output=True, timeout=120, check=True)
    return ran.stdout.decode()


MEASURING = """<!doctype html><meta charset="utf-8">
<iframe style="border:0" width="{width}" height="800" srcdoc="{page}"></iframe><pre></pre><script>onload = () => {{
  const frame = document.querySelector("iframe"), inside = frame.contentDocument, root = inside.documentElement;
  document.querySelector("pre").textContent = JSON.stringify({{
    width: root.clientWidth, needed: root.scrollWidth, text: inside.body.innerText,
    scripts: inside.scripts.length, pictures: [...inside.images].map(image => image.naturalWidth),
    requests: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
    wide: [...inside.querySelectorAll("body *")].filter(node => !node.closest(".scroll, .skip") &&
      node.getBoundingClientRect().right > root.clientWidth + 0.5).map(node => node.outerHTML.slice(0, 80)),
    bars: [...inside.querySelectorAll(".bar")].map(node => node.getBoundingClientRect().width),
    colors: [...inside.querySelectorAll(".bar")].map(node => getComputedStyle(node).backgroundColor),
  }});
  frame.remove();
}}</script>"""


def seen(tmp_path, text, width):
    """What a browser says of the page in a window of that width."""
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(MEASURING.format(width=width, page=escape(text)), encoding="utf-8")
    dom = browser(tmp_path, wrapper, "--window-size=1400,1000", "--virtual-time-budget=20000", "--dump-dom")
    return json.loads(unescape(re.search(r"<pre>(.*?)</pre>", dom, re.DOTALL).group(1)))


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("page", ["whole", "hostile"])
def test_a_browser_shows_it_without_scrolling_sideways(tmp_path, request, page, width):
    shown = seen(tmp_path, request.getfixturevalue(page), width)
    assert shown["width"] == width
    assert shown["needed"] <= width, shown["wide"]
    assert shown["wide"] == []
    assert (shown["scripts"], shown["requests"]) == (0, [])
    assert len(shown["pictures"]) == 2
    assert min(shown["pictures"]) > 100
    for title in ("Overview", "Audit", "Findings", "Parity", "Every layer", "Roofline"):
        assert title in shown["text"]


@pytest.mark.slow
def test_a_browser_draws_the_bars_in_their_lengths_and_colors(tmp_path, whole):
    shown = seen(tmp_path, whole, 360)
    times = [layer.us.typical for layer in report_profiles.profile().layers] + [12.0]
    longest = max(shown["bars"])
    assert longest > 200
    assert shown["bars"] == pytest.approx([longest * us / max(times) for us in times], abs=1.5)
    assert len(set(shown["colors"])) == 6  # spatial twice


@pytest.mark.slow
def test_a_browser_prints_it_with_what_is_folded_away(tmp_path, whole):
    path, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    path.write_text(whole, encoding="utf-8")
    browser(tmp_path, path, f"--print-to-pdf={printed}")
    pages = len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes()))
    path.write_text(re.sub("<details>.*?</details>", "", whole, flags=re.DOTALL), encoding="utf-8")
    browser(tmp_path, path, f"--print-to-pdf={printed}")
    assert pages > 2
    assert len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes())) < pages
