"""README.md shows what the commands print, and its code runs."""

import re

import pytest
import readme_blocks

SHOWN = readme_blocks.outputs()
# What these print is the same on every machine; the others measure, and only their form is compared.
EXACT = tuple(
    command
    for command in SHOWN
    if command.startswith(("keras-nin audit", "keras-nin compare", "keras-nin claims", "keras-nin edgetpu"))
)
NEEDS_EXPORT = "exported/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


@pytest.fixture
def workplace(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def form(text, blank=""):
    """The text with its numbers, its rules and the host's name taken out, and what else reads `blank`."""
    text = re.sub(r"(Latency: median of).*", r"\1", text)
    text = re.sub(r"^Warning: .*$|.*, LiteRT [\d.]+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"(\d threads? on ).*", r"\1", text)
    text = re.sub(r"(written|up to date): ", "file: ", text)
    text = re.sub(r"-?\d[\d,.]*", "#", text).replace("# ms", "# us")
    return re.sub(r"[─\s]+", " ", text.replace(blank, "")).strip()


def check(command):
    shown, printed = SHOWN[command], readme_blocks.run(command)
    if command in EXACT:
        assert printed == shown
    else:
        # A kernel too short for the profiler's clock has no GMAC/s: a blank, where another run has a number.
        blank = "#" if command.startswith("keras-nin benchmark") else ""
        assert form(printed, blank) == form(shown, blank)


@pytest.mark.parametrize("command", [command for command in SHOWN if readme_blocks.PHOTOGRAPHS not in command])
def test_output(command, workplace):
    if NEEDS_EXPORT in command and not (workplace / "exported").exists():
        readme_blocks.run("keras-nin export")
    check(command)


@pytest.mark.external
@pytest.mark.parametrize("command", [command for command in SHOWN if readme_blocks.PHOTOGRAPHS in command])
def test_output_on_photographs(command, external_data, workplace):
    readme_blocks.link_photographs(external_data.resolve(), workplace)
    check(command)


def test_the_python_code_prints_what_is_shown(workplace):
    code, shown = readme_blocks.python_block()
    assert readme_blocks.execute(code) == shown


def test_there_is_something_to_test():
    assert {*EXACT, "keras-nin export"} < set(SHOWN)
    assert len(EXACT) > 4
    assert all(SHOWN.values())


def test_the_table_of_models_is_that_of_the_shelf():
    assert readme_blocks.models_table() == readme_blocks.shelf_table()


def test_the_table_of_schemes_is_that_of_the_package():
    assert readme_blocks.schemes_table() == readme_blocks.package_schemes_table()


def test_the_zoo_is_as_large_as_it_says():
    from keras_nin import models

    assert f"of {len(models.list_models())} models" in readme_blocks.README.read_text()
