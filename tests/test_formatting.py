"""Tables, numbers with units, and machines as text."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_nin.formatting import (
    escape_unprintable,
    fit_encoding,
    format_bytes,
    format_count,
    format_host,
    format_indexes,
    format_markdown_table,
    format_names,
    format_percent,
    format_ratio_percent,
    format_table,
    format_us,
    printable,
    wrap,
)


def test_columns_are_aligned_and_wide_characters_count_double():
    table = format_table(("layer", "n [us]"), [["数a", "1"], ["[red]", "1,000"]], right=("n [us]",), title="[m]")
    assert table.splitlines() == [
        "[m]",
        " layer   n [us]",
        " " + "─" * (5 + 3 + 6),
        " 数a          1",
        " [red]    1,000",
    ]


def test_a_name_cannot_move_the_cursor_or_break_a_row():
    assert escape_unprintable("a\x1b[31mb\nc\u202e") == "a\\x1b[31mb\\nc\\u202e"
    assert escape_unprintable("é", "ascii") == "\\xe9"
    rows = [["x\x1b[2J\ny", "1"]]
    assert len(format_table(("a", "b"), rows).splitlines()) == 3
    assert "\x1b" not in format_table(("a", "b"), rows) + format_markdown_table(("a", "b"), rows)


def test_a_table_without_rows():
    assert format_table(("a", "b"), []) == " a   b\n ─────"


@pytest.mark.parametrize(
    "name", ["block/conv1", "conv 1", "卷积", "свёртка", "🙂", "👩‍💻", "❤️", "می‌خواهم", "é", "a\\b", "$x_1$"]
)
def test_an_ordinary_name_stays(name):
    assert escape_unprintable(name) == printable(name) == name


@settings(max_examples=30)
@given(
    st.one_of(st.text(), st.text(st.sampled_from("a|\x1b\n\r\t\u200d\u202e\u2028\ud800\x9b👩卷"))), st.integers(1, 30)
)
def test_any_name_becomes_one_printable_line(name, limit):
    shown = printable(name, limit)
    assert len(shown) <= limit
    assert all(char.isprintable() or char in "\u200c\u200d" for char in shown)
    assert shown.splitlines() in ([], [shown])
    shown.encode()


def test_an_endless_value_is_shortened_in_little_time():
    assert printable("a\x1b" * 10**7, 20) == "a\\x1ba\\x1b…\\x1ba\\x1b"
    assert len(printable(10**1_000_000)) == 200
    assert printable(-(10**100)) == str(-(10**100))
    assert printable(None) == "None"
    assert printable("x\u200d\u200d\u200d") == "x\\u200d\\u200d\\u200d"


def test_fit_encoding():
    assert fit_encoding(" ──é", "utf-8") == " ──é"
    assert fit_encoding(" ──é", "ascii") == " --\\xe9"


def test_a_text_table_needs_no_rich_table():
    code = (
        "import sys; from keras_nin.formatting import format_table\n"
        "format_table(('a',), [['1']]); print('rich.table' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_markdown_table():
    table = format_markdown_table(("a|b", "n"), [["x|y", "1"], ["two\nlines", "2"]], right=("n",))
    assert table == "| a\\|b | n |\n| --- | ---: |\n| x\\|y | 1 |\n| two lines | 2 |"


def test_numbers_with_units():
    assert [format_bytes(count) for count in (0, 1000, 2**20 - 1, 2**20)] == [
        "0.0 KiB",
        "1.0 KiB",
        "1,024.0 KiB",
        "1.00 MiB",
    ]
    assert [format_us(us) for us in (0.04, 28.49, 999.94, 1000, 1_234_567)] == [
        *("0.0 us", "28.5 us", "999.9 us", "1.000 ms"),
        "1,234.567 ms",
    ]
    assert [format_percent(0.992), format_percent(0.5, 0), format_percent(None)] == ["99.2%", "50%", "-"]
    assert [format_ratio_percent(2, 5), format_ratio_percent(0, 0)] == ["40.0%", "none"]
    assert [format_count(1, "thread"), format_count(2500, "run"), format_count(2, "entry", "entries")] == [
        *("1 thread", "2,500 runs"),
        "2 entries",
    ]


def test_names_and_lines_of_limited_length():
    assert format_names(["a", "b"]) == "a, b"
    assert format_names([str(number) for number in range(7)]) == "0, 1, 2, 3, 4 and 2 more"
    assert [format_indexes(indexes) for indexes in ([4], [1, 2, 3, 5, 8], range(3, 9), [0, 1, 2, 3, 4, 9])] == [
        *("operator 4", "operators 1, 2, 3, 5, 8", "operators 3 to 8", "6 operators from 0 to 9"),
    ]
    assert [printable("abcdefgh", length) for length in (8, 7, 4, 1)] == ["abcdefgh", "abc…fgh", "ab…h", "…"]
    assert wrap("one two three", 8) == ["one two", "  three"]


def test_a_machine_in_one_line():
    host = {"cpu": "Some CPU", "cores": 4, "system": "Linux 6", "python": "3.11", "litert": "2.3.0"}
    assert format_host(host) == "Some CPU, 4 cores, Linux 6, LiteRT 2.3.0"
    assert format_host({"cores": 1}) == "1 core"
    assert format_host({}) == "unknown machine"
