"""README.md and docs/ show what the commands print, and their code runs."""

import re

import pytest

import docs

PAGES = {str(page.relative_to(docs.ROOT)): page for page in docs.list_pages()}
GENERATED = [name for name, page in PAGES.items() if docs.read_blocks(page)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with docs.working_folder(tmp_path_factory.mktemp("docs")) as path:
        yield path


def check_page(name, with_photos):
    """Run the blocks of a page in order and compare what they print with what the page shows."""
    variables = {}
    for block in docs.read_blocks(PAGES[name]):
        if block.needs_photos and not with_photos:
            continue
        printed, shown = block.run(variables), block.shown()
        if block.kind == "table":
            assert printed == shown, f"{name}: table {block.argument}: run python tools/docs.py"
        else:
            assert docs.mask_measurements(printed) == docs.mask_measurements(shown), f"{name}: {block.argument}"


@pytest.mark.parametrize("name", [name for name in GENERATED if name == "README.md"])
def test_readme_shows_what_is_printed(name, folder):
    check_page(name, with_photos=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in GENERATED if name != "README.md"])
def test_page_shows_what_is_printed(name, folder):
    check_page(name, with_photos=False)


@pytest.mark.external
@pytest.mark.parametrize(
    "name", [name for name in GENERATED if any(block.needs_photos for block in docs.read_blocks(PAGES[name]))]
)
def test_page_shows_what_is_printed_for_photographs(name, external_data, folder, monkeypatch):
    check_page(name, with_photos=True)


def test_every_command_has_a_page_with_its_help():
    from keras_nin.cli import main

    for command in main.COMMANDS:
        page = f"docs/commands/{command.replace('-', '_')}.md"
        assert any(block.argument == f"keras-nin {command} --help" for block in docs.read_blocks(PAGES[page]))


def test_readme_is_short_and_shows_the_whole_job():
    text = PAGES["README.md"].read_text()
    assert len(text.splitlines()) <= 200
    assert len(re.findall(r"^python3 -m venv", text, re.MULTILINE)) == 2
    commands = [block.argument for block in docs.read_blocks(PAGES["README.md"])]
    assert any(command.startswith("keras-nin export") for command in commands)


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("latency 12.5 us on 1 thread on A chip", "latency 3.1 ms on 1 thread on Another", True),
        ("SNR 42.1 dB", "SNR 41.9 dB", True),
        ("rms diff: 1.541 (limit 11.78) pass", "rms diff: 1.6 (limit 11.78) pass", True),
        ("rms diff: 1.541 (limit 11.78) pass", "rms diff: 1.541 (limit 12) pass", False),
        ("rms diff: 1.541 (limit 11.78) pass", "rms diff: 1.541 (limit 11.78) FAIL", False),
        ("top-1 99.2%", "top-1 99.1%", False),
        ("69,840 bytes", "69,856 bytes", False),
        (
            " layer   us   MACs\n ──────\n conv1  5.5     10\n",
            " layer   us   MACs\n ──────\n conv1  6.1     10\n",
            True,
        ),
        (
            " layer   us   MACs\n ──────\n conv1  5.5     10\n",
            " layer   us   MACs\n ──────\n conv1  5.5     11\n",
            False,
        ),
    ],
)
def test_only_measurements_are_masked(before, after, same):
    assert (docs.mask_measurements(before) == docs.mask_measurements(after)) is same
