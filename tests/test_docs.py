"""README.md and docs/ show what the commands print, and their code runs."""

import re

import pytest
from tiers import by_tier

import docs
from keras_nin.benchmark import measurement

PAGES = {str(page.relative_to(docs.ROOT)): page for page in docs.list_pages()}
GENERATED = [name for name, page in PAGES.items() if docs.read_blocks(page)]
# Pages that train, or export a large network: a quarter of what all pages take, and other tests do both.
LONG = ("docs/guides/quantization_aware_training.md", "docs/tutorials/squeezenet_latency.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    """Times are masked, so they need not be good ones."""
    measure = measurement.measure_files
    monkeypatch.setattr(
        measurement, "measure_files", lambda *files, **options: measure(*files, **options | {"seconds": 0.3})
    )


def check_page(name, folder, with_photos=False):
    """Run the blocks of a page in order and compare what they print with what the page shows."""
    variables = {}
    with docs.working_folder(folder / name.replace("/", "_")):
        for block in docs.read_blocks(PAGES[name]):
            if block.needs_photos and not with_photos:
                continue
            printed, shown = block.run(variables), block.shown()
            if block.kind == "table":
                assert printed == shown, f"{name}: table {block.argument}: run python tools/docs.py"
            else:
                assert docs.mask_measurements(printed) == docs.mask_measurements(shown), f"{name}: {block.argument}"


@pytest.mark.parametrize("name", by_tier(GENERATED, wide=LONG))
def test_page_shows_what_is_printed(name, folder):
    check_page(name, folder)


@pytest.mark.external
@pytest.mark.wide  # a minute; tests/test_external.py exports on photographs
@pytest.mark.parametrize(
    "name", [name for name in GENERATED if any(block.needs_photos for block in docs.read_blocks(PAGES[name]))]
)
def test_page_shows_what_is_printed_for_photographs(name, external_data, tmp_path):
    check_page(name, tmp_path, with_photos=True)


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
        ("rms diff (LSB): 1.541 (limit 11.78) pass", "rms diff (LSB): 1.6 (limit 11.78) pass", False),
        ("cpu 40 us, limit at most 50 us: pass", "cpu 41 us, limit at most 50 us: pass", True),
        ("cpu 40 us, limit at most 50 us: pass", "cpu 40 us, limit at most 60 us: pass", False),
        ("Warning: the machine is busy: load average 2.0\nsize 1", "size 1", True),
        ("Note: calibrated on noise", "", False),
        ("written: a.tflite", "up to date: a.tflite", False),
        ("rms diff: 1.541 (limit 11.78) pass", "rms diff: 1.541 (limit 12) pass", False),
        ("rms diff: 1.541 (limit 11.78) pass", "rms diff: 1.541 (limit 11.78) FAIL", False),
        ("top-1 99.2%", "top-1 99.1%", False),
        ("max abs diff 0.0001 LSB", "max abs diff 0.0002 LSB", True),
        ("max abs diff 23.6 LSB", "max abs diff 23.7 LSB", False),
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
        (
            "             a.tflite\n ──────\n size            1\n CPU runs       20\n",
            "             a.tflite\n ──────\n size            1\n CPU runs       30\n",
            True,
        ),
        (
            "             a.tflite\n ──────\n size            1\n CPU runs       20\n",
            "             a.tflite\n ──────\n size            2\n CPU runs       20\n",
            False,
        ),
    ],
)
def test_only_measurements_are_masked(before, after, same):
    assert (docs.mask_measurements(before) == docs.mask_measurements(after)) is same
