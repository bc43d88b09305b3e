"""What is written holds text and nothing else, whatever layers, models, classes, files and machines are called."""

import ast
import csv
import dataclasses
import io
import json
import re
import shlex
import xml.etree.ElementTree
from html.parser import HTMLParser

import audits
import latency_records
import markdown_it
import micro_stand_in
import pytest
import report_profiles
import target_documents
import tflite_writer
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_nin import files, formatting
from keras_nin.audit import tables
from keras_nin.benchmark import comparison, sweep_results
from keras_nin.benchmark.records import BenchmarkResult
from keras_nin.cli import main
from keras_nin.edge.micro import MicroFinding, format_c_array
from keras_nin.formatting import printable
from keras_nin.report import documents, latency
from keras_nin.report.cards import format_yaml
from keras_nin.report.html import page as html
from keras_nin.results import Result
from keras_nin.tflite.reader import read_model

# By the format that they are for; in the default tier each check has those of its own, and all of them in one name.
ATTACKS = {
    "html": (
        *("<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "</title></style></svg>]]>--><!--"),
        *("&lt;b&gt;", "{{ 7 * 7 }}{% raw %}", "\x00<b>"),
    ),
    "csv": (
        *("=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '=cmd|"/c calc"!A0', "a;=1+1", 'a","=1', "\uff1d1+1"),
        *("a\nb", "-1.5"),
    ),
    "markdown": (
        *("a|b", "a\\|b", "a\\", "`code`", "**bold**", "_a_ __init__", "[a](javascript:alert(1))", "![a](b.png)"),
        *(
            "[a]: http://b",
            "# a",
            "- [x] a",
            "~~a~~",
            "$\\frac{1}{$",
            "<http://a>",
            "&#124;",
            "a  \n\n# b",
            "<b>",
            "---",
        ),
    ),
    "terminal": (
        *("\x1b[2J\x1b]0;a\x07", "a\r\x1b[Kb", "\u202egnp.exe", "\u2066a", "a\u2028b\x85c\x0bd", "\ud800"),
        *("\ufeff", "[red]a[/]", "e" + "\u0301" * 500, "x" * 5000),
    ),
    "c_array": ("*/ int x; /*", "x????/", "x???/", "x\\\n#error", "// a\\", "??/\n", "a\\b"),
    "script": ('"""', "''' + 1", '\\"""\\', "%s{0}%(a)s", "$(touch a)", "`touch a`", "a'b", 'a"b', "a\nb", "-rf"),
    "yaml": ("null", "yes", "1e5", "a: b", "a #b", "&a *b", "...\n---", "---\n", "!!python/object", "\x7f\ufffe"),
    "json": ("\ud800", "\ud83d", 'a"b\\'),
    "file_name": (
        *("../../etc/passwd", "..", ".hidden", "-rf", "CON", "nul.a", "a:b", "a/b\\c", "~", "/", " a. "),
        *("卷" * 300, "a" * 300),
    ),
    "error": ("\x1b[2J", "a\nb", "\u202ea", "a" * 10000),
}
EVERY = tuple(name for names in ATTACKS.values() for name in names)
JOINED = "".join(name for name in EVERY if len(name) < 100)
PLAIN = ("block/conv1", "conv 1", "卷积", "свёртка", "🙂", "👩\u200d💻", "fire2_squeeze1x1", "net-v1.2 (copy)")
_SPECIAL = st.sampled_from("|\\`*_[]()<>&~$#!=+-@;,'\"\t\r\n \x1b\x00\x9b\u202e\u2028\u200d\ud800?/{}%.:卷👩a1")
NAMES = st.one_of(st.text(_SPECIAL, min_size=1, max_size=12), st.text(st.characters(), min_size=1, max_size=12))
IS_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def is_printable(text):
    return all(char.isprintable() or char in "\u200c\u200d" for char in text)


def check_terminal(name):
    """A table has its lines, none of them endless, and no character that moves a cursor."""
    lines = formatting.format_table((name, "n"), [[name, "1"], ["a", name]], right=("n",), title=name).splitlines()
    assert len(lines) == 5
    assert all(is_printable(line) and len(line) < 2000 for line in lines)
    audit = hostile_audit(name)
    for text in (str(audit), repr(audit), formatting.format_names([name, name]), formatting.format_host({"cpu": name})):
        assert all(is_printable(line) and len(line) < 5000 for line in text.splitlines())
    assert len(str(audit).splitlines()[1:]) >= len(str(hostile_audit("a")).splitlines()[1:])


def hostile_audit(name):
    rows = [
        audits.row(name),
        audits.row(f"{name}2", kind="other", role=None, type=name, macs=None),
        audits.row("c", block=name),
    ]
    finding = tables.Finding("collapse", (name,), f"Layer {name}.", {"params": 5})
    return audits.audit(rows, [finding], model=name)


def check_markdown(name):
    """A table has its rows and cells, and nothing in them is markup."""
    text = tables.format_audit_markdown(hostile_audit(name))
    plain = tables.format_audit_markdown(hostile_audit("a"))
    assert [(token.type, token.tag) for token in parse_markdown(text)] == [
        (token.type, token.tag) for token in parse_markdown(plain)
    ]
    table = formatting.format_markdown_table((name, "n"), [[name, "1"], ["a", name]])
    cells = [token.content for token in parse_markdown(table) if token.type == "inline"]
    shown = printable(" ".join(name.splitlines()), formatting.TEXT_LIMIT).strip()
    assert [read_inline(cell) for cell in cells] == [shown, "n", shown, "1", "a", shown]


def parse_markdown(text):
    """The tokens of a text, without what only says that letters follow one another."""
    tokens = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    assert not {token.type for token in tokens} & {"html_block", "fence", "code_block"}
    return [token for token in tokens if token.type != "softbreak"]


def read_inline(text):
    """What a reader sees of a cell, in which nothing is markup."""
    (inline,) = markdown_it.MarkdownIt("commonmark").enable("strikethrough").parseInline(text)
    assert {token.type for token in inline.children} <= {"text", "text_special"}, text
    return "".join(token.content for token in inline.children)


def check_csv(name):
    """Every row has its cells, and no spreadsheet takes one for a formula."""
    profile = latency_records.profile(latency_records.layer(name, 5.0), latency_records.layer("b", 1.0, block=name))
    profile = dataclasses.replace(profile, file=name, host=latency_records.HOST | {"cpu": name})
    benchmark = latency.format_benchmark_csv(BenchmarkResult(profile.host, (profile,), ()))
    for text, count in ((tables.format_audit_csv(hostile_audit(name)), 4), (benchmark, 5)):
        head, *rows = lines = list(csv.reader(io.StringIO(text), strict=True))
        assert len(lines) == count
        assert {len(row) for row in rows} == {len(head)}
        for cell in (cell for row in rows for part in row for cell in part.split(";")):
            assert is_printable(cell)
            assert not IS_FORMULA.match(cell) or re.fullmatch(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", cell, re.I)
        text.encode()


def test_a_sweep_goes_on_whatever_the_machine_is_called(tmp_path):
    path = tmp_path / "sweep.csv"
    row = sweep_results.SweepRow(sweep_results.SweepPoint(sweep_results.ConvLayer(14, 8, 8, 1), "int8", 1), 12.5)
    for name in (*ATTACKS["csv"], *ATTACKS["terminal"], *PLAIN):
        machine = sweep_results.identify_machine({"cpu": name, "cores": 4, "litert": "-2"})
        path.write_text(sweep_results.format_sweep_csv([row], machine))
        assert sweep_results.read_sweep(path, machine) == {row.point: row}


class Structure(HTMLParser):
    """The elements of a page and the names of their attributes; the text is left out."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = {name: value for name, value in attributes if name in ("id", "href", "src", "class", "style")}
        self.elements.append((tag, [name for name, _ in attributes], values))

    def handle_endtag(self, tag):
        self.elements.append(f"/{tag}")

    def handle_comment(self, data):
        self.elements.append("comment")


# Texts of documents that are no names: others are refused, or say what a page shows.
KEPT = tuple("schema accelerator target targets kind role state dtype sha256 task mode method api op".split())


def rename(value, name, kept=KEPT):
    """A document whose every free text is `name`."""
    if isinstance(value, dict):
        return {key: value[key] if key in kept else rename(value[key], name, kept) for key in value}
    if isinstance(value, list):
        return [rename(item, name, kept) for item in value]
    return name if isinstance(value, str) else value


@pytest.fixture(scope="module")
def check_html(tmp_path_factory):
    """A page and a notebook's table have the elements that they have for an ordinary name."""
    benchmark = report_profiles.benchmark(report_profiles.profile())  # without figures, which take most of the time
    made = {"benchmark": benchmark.to_json(), "audit": report_profiles.audit().to_json()}
    made |= {"runs": comparison.compare_runs(benchmark, benchmark).to_json(), **target_documents.documents()}
    made = json.loads(json.dumps(made))
    path = tmp_path_factory.mktemp("documents") / "named.json"

    def render(name):
        found = []
        for document in made.values():
            path.write_text(json.dumps(rename(document, name)))
            found += documents.read_documents(path)
        return html.render_page(found, title=name)

    plain = Structure(render("a")).elements

    def check(name):
        name = f"a{name}b"  # the last part of a path is never empty
        page = render(name)
        page.encode()
        assert all(is_printable(line) for line in page.splitlines())
        assert Structure(page).elements == plain
        assert Structure(Named(name)._repr_html_()).elements == Structure(Named("a")._repr_html_()).elements
        assert is_printable(repr(Named(name)))
        assert len(repr(Named(name))) < 5000

    return check


@dataclasses.dataclass(frozen=True, repr=False)
class Named(Result):
    name: str

    def _summary(self):
        return self.name

    def _rows(self):
        return [{"name": self.name, "n": 1}]


@pytest.fixture(scope="module")
def check_c_array(tmp_path_factory):
    """Without its comments, the C++ is that of ordinary names."""
    path = tmp_path_factory.mktemp("array") / "net.tflite"
    from test_micro_cpp import micro

    def render(name):
        tensors = [tflite_writer.tensor(name, (1, 4), quantization=micro_stand_in.quantization(0.5, 3)) for _ in "ab"]
        tflite_writer.write(path, tensors, [tflite_writer.custom(name, [0], [1])])
        graph = read_model(path)
        result = micro(graph, file=name, arena=None, finding=MicroFinding("abort", name))
        header, source = sorted(format_c_array(result, graph, "net").items(), reverse=True)
        return [re.sub(r"0x..,\s*|kDataSize = \d+", "", read_cpp(text)) for _, text in (header, source)]

    plain = render("a")

    def check(name):
        if "\x00" in name or not name.isascii() and not name.isprintable():
            name = printable(name)  # no text that a file can hold
        assert render(name) == plain

    return check


def read_cpp(text):
    """What a C++ compiler reads: trigraphs and continued lines first, then without comments."""
    assert text.isascii()
    text = text.replace("??/", "\\").replace("\\\n", "")
    assert "/*" not in re.sub(r"//[^\n]*", "", text)
    return re.sub(r"//[^\n]*", "", text)


@pytest.fixture(scope="module")
def check_script(tmp_path_factory):
    """The classification script is the same program, and there is a label for each class."""
    from keras_nin.export import SCHEMES
    from keras_nin.export.converted_model import ConvertedModel

    path = tmp_path_factory.mktemp("script") / "net.tflite"
    tensors = [tflite_writer.tensor(name, shape, "FLOAT32") for name, shape in (("in", (1, 8, 8, 3)), ("out", (1, 2)))]
    tflite_writer.write(path, tensors, [tflite_writer.custom("any", [0], [1])])
    converted = ConvertedModel(
        "net", SCHEMES["float32"], read_model(path), "random", "00", None, {"preset": "torch"}, {}, (None,)
    )

    def companions(name):
        return dataclasses.replace(converted, model=name, classes=(name, "b")).companion_files()

    def program(text):
        tree = ast.parse(text)
        docstring = ast.get_docstring(tree, clean=False)
        tree.body = tree.body[1:]
        return ast.dump(tree), docstring

    plain, _ = program(companions("a")["a_float32.py"])

    def check(name):
        (labels_name, labels), (script_name, script) = companions(name).items()
        tree, docstring = program(script)
        assert tree == plain
        words = shlex.split(docstring.partition(": ")[2])
        assert words == ["python", script_name, "photo.jpg"]
        assert labels_name.endswith("_labels.txt")
        assert labels.splitlines() == [printable(name, 10**6), "b"]

    return check


def check_yaml(name):
    """YAML loads to the same values."""
    shown = printable(name, 10**6)
    values = {"license": name, "results": [{"name": name, "value": 0.5}, name], "more": {"name": name}}
    expected = {"license": shown, "results": [{"name": shown, "value": 0.5}, shown], "more": {"name": shown}}
    text = format_yaml(values)
    assert yaml.safe_load(text) == expected
    assert list(yaml.safe_load_all(f"---\n{text}---\n"))[0] == expected
    assert "\n---" not in text


def check_json(name):
    """JSON keeps names, and half a character is no reason for text that nobody can read."""
    text = files.dump_json({name: name})
    text.encode()
    shown = "".join(f"\\u{ord(char):04x}" if "\ud800" <= char <= "\udfff" else char for char in name)
    assert json.loads(text) == {shown: shown}


def check_file_name(name):
    """A file that is named after a model lies in its folder, on every system."""
    stem = files.safe_stem(name)
    assert 0 < len(stem.encode()) <= 160
    assert is_printable(stem)
    assert not set(stem) & set('/\\:*?"<>|')
    assert stem[0] not in "-.~ "
    assert stem[-1] not in ". "
    assert stem.partition(".")[0].upper() not in ("CON", "NUL", "COM1")


def check_error(name):
    """An error is one line."""
    err = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", err)
        assert main.run(["audit", f"a{name}"]) == 2
    (line,) = err.getvalue().splitlines()
    assert is_printable(line)
    assert len(line) < 5000


CHECKS = {
    **{
        "terminal": check_terminal,
        "markdown": check_markdown,
        "csv": check_csv,
        "yaml": check_yaml,
        "json": check_json,
    },
    **{"file_name": check_file_name, "error": check_error},
}


@pytest.fixture
def check(request):
    """The check of a format; some need files or records that are made once."""
    return CHECKS.get(request.param) or request.getfixturevalue(f"check_{request.param}")


FORMATS = [format for format in ATTACKS if format != "html"]


@pytest.mark.parametrize("check", FORMATS, indirect=True)
def test_names_that_attack_a_format_are_text(request, check):
    for name in (*ATTACKS[request.node.callspec.params["check"]], JOINED):
        check(name)


def test_names_that_attack_a_format_are_text_in_a_page(check_html):
    check_html(JOINED)


@pytest.mark.slow
@pytest.mark.parametrize("check", FORMATS, indirect=True)
def test_any_name_is_text(check):
    for name in (*PLAIN, *EVERY):
        check(name)
    settings(max_examples=30 if check.__name__ == "check" else 200)(given(NAMES)(check))()


@pytest.mark.slow
def test_any_name_is_text_in_a_page(check_html):
    settings(max_examples=10)(given(NAMES)(check_html))()


@pytest.mark.slow
def test_figures_have_any_name(tmp_path):
    """Figures are drawn, also where what is no name in a document is one, and as SVG they are well-formed."""
    made = report_profiles.benchmark(report_profiles.profile(peaks=report_profiles.PEAKS)).to_json()
    for kept in (KEPT, ("schema",)):
        text = json.dumps(rename(json.loads(json.dumps(made)), JOINED, kept))
        (tmp_path / "named.json").write_text(text)
        found = documents.read_documents(tmp_path / "named.json")
        assert html.render_plots(found)
        for svg in re.findall(r"<svg.*?</svg>", html.render_page(found), re.S):
            tree = xml.etree.ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="any" ', 1))
            assert {element.tag for element in tree.iter()} <= {"svg", "g", "path", "defs", "use", "text", "tspan"}


@pytest.mark.parametrize("name", PLAIN)
def test_ordinary_names_stay_as_they_are(name):
    assert name in formatting.format_table(("a",), [[name]])
    assert name in files.dump_json([name])
    assert f"\n{name}," in tables.format_audit_csv(hostile_audit(name))
    if "_" not in name:
        assert f"| {name} |" in formatting.format_markdown_table(("a",), [[name]])
