"""An audit on a terminal of any width."""

import dataclasses
import io
import re

import audits
import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from keras_nin import models
from keras_nin.audit import audit_model
from keras_nin.audit.records import group_by_block
from keras_nin.audit.tables import AuditView
from keras_nin.audit.terminal import format_bar, print_audit


@pytest.fixture(scope="module")
def squeezenet():
    with keras.StatelessScope(initialize_variables=False):
        return audit_model(models.build_model("squeezenet_v1_1"), name="squeezenet_v1_1")


@pytest.fixture
def small():
    return audits.small()


def printed(result, width, encoding="utf-8", color=None, **view):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="")
    console = Console(file=file, width=width, force_terminal=True, color_system=color, highlight=False)
    print_audit(result, console, AuditView(**view))
    file.flush()
    return raw.getvalue().decode(encoding)


def numbers(text):
    return set(re.findall(r"\d[\d,]*", text))


@settings(max_examples=20, deadline=None)
@given(width=st.integers(60, 220), depth=st.sampled_from([0, 1, 2]))
def test_it_fits_and_every_number_is_whole(squeezenet, width, depth):
    text = printed(squeezenet, width, depth=depth)
    assert max(map(len, text.splitlines())) <= width
    shown = numbers(text)
    assert {f"{squeezenet.total.params:,}", f"{squeezenet.total.macs:,}"} <= shown
    records = {0: [], 1: group_by_block(squeezenet.rows), 2: squeezenet.rows}[depth]
    for record in records:
        assert {f"{record.params:,}", f"{record.macs:,}"} <= shown
    joined = "".join(text.split())
    assert all(record.name in joined for record in records if record.name and len(record.name) < width * 3 // 8)


def test_the_foot_names_what_was_left_out_and_a_wide_terminal_has_it(squeezenet):
    narrow, wide = (" ".join(printed(squeezenet, width).split()) for width in (80, 200))
    assert "No room here for type, kernel, share_of_params: widen the terminal, choose fewer columns" in narrow
    assert "Concatenate merge" not in narrow
    assert "No room here" not in wide
    assert "fire2_concat Concatenate merge" in wide


def test_chosen_columns_give_way_from_the_last(squeezenet):
    text = printed(squeezenet, 40, columns="name,params,macs,weight_bytes,input_shape")
    assert "input_shape" in text.split("No room here for ")[1].split(":")[0]
    assert "1,235,496" in text
    assert "21,290,688" in text


def test_numbers_stay_whole_where_nothing_fits(squeezenet):
    text = printed(squeezenet, 12)
    assert "27,878,400" in text.split("Total:")[0]


def test_long_names_fold():
    result = audits.audit([audits.row("n" * 200, macs=10**12)])
    text = printed(result, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert sum(len(line.split()[0]) for line in text.splitlines() if line.startswith("nn")) == 200
    assert "1,000,000,000,000" in text


def test_markup_and_control_codes_in_names_are_shown_as_they_are(small):
    assert "odd[red]|x" in printed(small, 120)
    evil = dataclasses.replace(small, model="\x1b[2J", rows=(audits.row("a\x1b[31m\n[/bold]"), *small.rows))
    text = printed(evil, 120)
    assert "a\\x1b[31m\\n[/bold]" in text
    assert "\x1b" not in text


def test_bars():
    assert [format_bar(part, 4) for part in (0, 1 / 32, 0.5, 1)] == ["", "▏", "██", "████"]
    assert [format_bar(part, 4, ascii_only=True) for part in (0, 0.5, 1)] == ["", "##", "####"]
    assert format_bar(0.9999, 4) == "████"


def test_the_largest_share_has_the_longest_bar(small):
    lines = printed(small, 120, sort="macs").splitlines()
    lengths = [line.count("█") for line in lines if line.startswith(("a_", "b_"))]
    assert [line.split()[0] for line in lines if line.startswith(("a_", "b_"))] == ["a_3x3", "b_1x1", "a_1x1"]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[2]


def test_an_encoding_without_blocks_gets_ascii(small):
    rows = (*small.rows, audits.row("é_1x1"))
    text = printed(dataclasses.replace(small, rows=rows), 120, encoding="ascii")
    assert "####" in text
    assert "\\xe9_1x1" in text


def test_1x1_rows_are_colored_on_a_terminal_alone(small):
    assert "\x1b[36m" in printed(small, 120, color="standard")
    assert "\x1b" not in str(small)
