"""The HTML report in a real browser: at the widths of a desk and of a phone, in both color schemes, and in print."""

import dataclasses
import json
import re
import shutil
import subprocess
from html import escape, unescape

import pytest
import report_profiles
import target_documents as made
from test_report_html import HOSTILE, SHA, everything

from keras_nin.benchmark.sweep import ConvLayer, SweepPoint
from keras_nin.benchmark.sweep_results import SweepRow
from keras_nin.report import documents
from keras_nin.report.html.comparison import compare_files, group_by_file, parse_report_limits
from keras_nin.report.html.page import render_page

pytestmark = pytest.mark.slow
WIDTHS = {375: 812, 1280: 800}  # of a phone and a desk, with the heights of their screens
SCHEMES = {"dark": 0, "light": 1}


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


# Measures each frame with its details folded, then with all of them open.
MEASURING = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">
%s<pre></pre><script>
const box = node => node.getBoundingClientRect();
const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
  Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
const channels = color => color.match(/[\\d.]+/g).map(Number);
const luminance = color => channels(color).slice(0, 3).map(value => value / 255)
  .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
const measure = frame => {
  const inside = frame.contentDocument, root = inside.documentElement, style = frame.contentWindow.getComputedStyle;
  const all = selector => [...inside.querySelectorAll(selector)], has = node => node && box(node).width > 0;
  const ground = node => {
    for (; node; node = node.parentElement) {
      const color = style(node).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0) return color;
    }
  };
  const contrast = node => {
    const [low, high] = [style(node)[node.closest("svg") ? "fill" : "color"], ground(node)].map(luminance)
      .sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const [nav, menu, table] = ["nav", "#menu", ".comparison"].map(name => inside.querySelector(name));
  const shown = {
    width: root.clientWidth, dark: frame.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches,
    table: table && box(table).toJSON(), chart: all(".bars").map(node => box(node).toJSON())[0], contents: [has(nav)],
    folded: all("main details").every(node => !node.open), ground: ground(inside.body),
  };
  menu.click();
  shown.contents.push(has(nav));
  menu.click();
  all("details").forEach(node => node.open = true);
  const texts = all("body *").filter(node => has(node) && !node.closest(".unseen, caption, .skip, .menu input") &&
    [...node.childNodes].some(child => child.nodeType == 3 && child.data.trim()));
  return Object.assign(shown, {
    needed: root.scrollWidth, text: inside.body.innerText, scripts: inside.scripts.length,
    requests: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
    wide: all("body *").filter(node => !node.closest(".scroll, .skip") && box(node).right > root.clientWidth + 0.5)
      .map(node => node.outerHTML.slice(0, 80)),
    pale: texts.filter(node => contrast(node) < 4.5).map(node => [contrast(node), node.outerHTML.slice(0, 80)]),
    covered: all(".legend li").flatMap(entry => texts
      .filter(node => !entry.contains(node) && meet(box(entry), box(node)))
      .map(node => [entry.innerText, node.outerHTML.slice(0, 80)])),
    crossed: all(".plot").flatMap(plot => [...plot.querySelectorAll("text")].filter(text =>
      box(text).right > box(plot).right + 1 || box(text).left < box(plot).left - 1).map(text => text.textContent)),
    plots: all(".plot").map(node => box(node).width),
    bars: all(".layers .bar").map(node => [box(node).width, style(node).backgroundColor]),
  });
};
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(measure);
  document.querySelector("pre").textContent = JSON.stringify(found);
  document.querySelectorAll("iframe").forEach(frame => frame.remove());
};</script>"""


def several_files():
    """Four files with all targets, and what is of none: everything that a page can have."""
    found = []
    for number in range(4):
        audit, record, benchmark = everything(file=f"network_{number}_int8.tflite")
        sha = f"{number}{SHA[1:]}"
        profile = dataclasses.replace(benchmark.profiles[0], sha256=sha)
        fit = made.file_fit(file=audit.name, sha256=sha)
        found += [
            dataclasses.replace(audit, sha256=sha), dataclasses.replace(record, sha256=sha),
            report_profiles.benchmark(profile, warnings=("the machine is busy", f"of {number}")), made.fit(fit),
        ]  # fmt: skip
    points = [SweepPoint(ConvLayer(7, 8, cout, kernel), "int8", 1) for kernel in (1, 3, 5) for cout in (7, 8)]
    rows = {point: SweepRow(point, 5.0 * point.layer.kernel, kernel_us=3.0, runs=100) for point in points}
    return [*found, documents.SweepDocument("sweep.csv", rows, report_profiles.HOST)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages by name: several files with limits, every kind of target, and names that are attacks."""
    folder, targets, several = tmp_path_factory.mktemp("documents"), [], several_files()
    for kind, document in made.documents().items():
        (folder / f"{kind}.json").write_text(json.dumps(document))
        targets += documents.read_documents(folder / f"{kind}.json")
    limits = parse_report_limits("cpu=1ms,edgetpu=full,ethosu=1ms,sram=4KiB,arena=64KiB,flash=1MiB,top1=95%")
    return {
        "several": render_page(several, comparison=compare_files(group_by_file(several), limits), title="Gate camera"),
        "targets": render_page(targets),
        "hostile": render_page(everything(HOSTILE, f"{HOSTILE[0]}.tflite")),
    }


@pytest.fixture(scope="module", params=SCHEMES)
def seen(request, tmp_path_factory, pages):
    """The color scheme, and what a browser says of each page at each width."""
    folder = tmp_path_factory.mktemp("pages")
    names = [(name, width) for name in pages for width in WIDTHS]
    frames = (
        f'<iframe style="border:0" width="{width}" height="{WIDTHS[width]}" srcdoc="{escape(pages[name])}"></iframe>'
        for name, width in names
    )
    (folder / "wrapper.html").write_text(MEASURING % "".join(frames), encoding="utf-8")
    options = ("--window-size=1400,1000", f"--blink-settings=preferredColorScheme={SCHEMES[request.param]}")
    dom = browser(folder, folder / "wrapper.html", *options, "--virtual-time-budget=20000", "--dump-dom")
    found = json.loads(unescape(re.search(r"<pre>(.*?)</pre>", dom, re.DOTALL)[1]))
    return request.param, dict(zip(names, found, strict=True))


def test_nothing_is_wider_than_the_screen_or_hard_to_read(seen):
    scheme, found = seen
    for (name, width), shown in found.items():
        assert shown["width"] == width
        assert shown["dark"] == (scheme == "dark")
        assert (shown["needed"] <= width, shown["wide"]) == (True, []), name
        assert (shown["scripts"], shown["requests"]) == (0, [])
        assert shown["pale"] == []
        assert shown["covered"] == []
        assert shown["crossed"] == []
        assert all(plot > 300 for plot in shown["plots"])
    assert found["several", 375]["ground"] == ("rgb(21, 24, 29)" if scheme == "dark" else "rgb(255, 255, 255)")
    assert len(found["several", 1280]["plots"]) == 5  # four rooflines and the sweep


def test_the_first_screen_compares_all_files(seen):
    _, found = seen
    for width, height in WIDTHS.items():
        shown = found["several", width]
        assert shown["folded"]
        assert 0 < shown["table"]["top"] < shown["table"]["bottom"] < height
        assert shown["contents"] == ([False, True] if width == 375 else [True, False])  # before and after a click
        assert shown["text"].index("network_3_int8") < shown["text"].index("Time by layer role")
    desk = found["several", 1280]
    assert desk["chart"]["bottom"] < WIDTHS[1280]
    assert desk["table"]["right"] <= 1280  # without scrolling
    for title in ("Gate camera", "0 of 4 files within all limits", "Parity", "Every layer", "Roofline", "Sweep"):
        assert title in desk["text"]
    for title in ("Targets", "Ethos-U", "Edge TPU", "TFLite Micro", "Accuracy", "Claims"):
        assert title in found["targets", 375]["text"]


def test_the_bars_of_layers_have_their_lengths_and_colors(seen):
    _, found = seen
    lengths, colors = zip(*found["hostile", 375]["bars"], strict=True)
    times = [layer.us.typical for layer in report_profiles.profile().layers] + [12.0]
    assert max(lengths) > 200
    assert lengths == pytest.approx([max(lengths) * us / max(times) for us in times], abs=1.5)
    assert len(set(colors)) == 6  # spatial twice


def test_it_is_printed_with_what_is_folded_away(tmp_path, pages):
    path, printed = tmp_path / "page.html", tmp_path / "page.pdf"

    def count_pages(text):
        path.write_text(text, encoding="utf-8")
        browser(tmp_path, path, f"--print-to-pdf={printed}")
        return len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes()))

    whole = render_page(everything())
    unfolded = re.sub("<details.*</details>", "", whole[whole.index("</nav>") :], flags=re.DOTALL)
    assert count_pages(whole) > count_pages(whole[: whole.index("</nav>")] + unfolded)
