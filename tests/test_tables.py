"""Plain text and Markdown tables."""

import subprocess
import sys

from keras_nin.formatting import escape_unprintable, fit_encoding, format_markdown_table, format_table


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


def test_fit_encoding():
    assert fit_encoding(" ──é", "utf-8") == " ──é"
    assert fit_encoding(" ──é", "ascii") == " --\\xe9"


def test_a_text_table_needs_no_rich_table():
    code = (
        "import sys; from keras_nin.formatting import text_table\n"
        "text_table(('a',), [['1']]); print('rich.table' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
