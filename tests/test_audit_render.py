"""What an audit looks like: on a terminal of any width, piped, as Markdown and CSV."""

import csv
import dataclasses
import io
import re

import audits
import pytest
from rich.console import Console

from keras_nin import models
from keras_nin.audit import audit_model
from keras_nin.audit.records import group_by_block
from keras_nin.audit.tables import KINDS, ROLES, AuditView
from keras_nin.audit.terminal import format_bar, print_audit
from keras_nin.errors import InputError

NETWORKS = ("nin_digits", "squeezenet_v1_1", "googlenet_bn")


@pytest.fixture(scope="module")
def built():
    return {name: audit_model(models.build_model(name)) for name in NETWORKS}


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


# On a terminal


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_fits_and_every_number_is_whole(built, name, width, depth):
    result = built[name]
    text = printed(result, width, depth=depth)
    assert max(map(len, text.splitlines())) <= width
    shown = numbers(text)
    assert {f"{result.total.params:,}", f"{result.total.macs:,}"} <= shown
    records = {0: [], 1: group_by_block(result.rows), 2: result.rows}[depth]
    for record in records:
        assert {f"{record.params:,}", f"{record.macs:,}"} <= shown
    joined = "".join(text.split())
    assert all(record.name in joined for record in records if record.name and len(record.name) < width * 3 // 8)


def test_the_foot_names_what_was_left_out_and_a_wide_terminal_has_it(built):
    narrow, wide = (" ".join(printed(built["squeezenet_v1_1"], width).split()) for width in (80, 200))
    assert "No room here for type, kernel, share_of_params: widen the terminal, choose with --columns" in narrow
    assert "Concatenate merge" not in narrow
    assert "No room here" not in wide
    assert "fire2_concat Concatenate merge" in wide


def test_chosen_columns_give_way_from_the_last(built):
    text = printed(built["squeezenet_v1_1"], 40, columns="name,params,macs,weight_bytes,input_shape")
    assert "input_shape" in text.split("No room here for ")[1].split(":")[0]
    assert "1,235,496" in text
    assert "21,290,688" in text


def test_numbers_stay_whole_where_nothing_fits(built):
    text = printed(built["squeezenet_v1_1"], 12)
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


def test_1x1_rows_are_coloured_on_a_terminal_alone(small):
    assert "\x1b[36m" in printed(small, 120, color="standard")
    assert "\x1b" not in str(small)


# Piped


def test_piped_bytes_do_not_depend_on_the_surroundings(small, monkeypatch):
    before = str(small)
    for name, value in (("COLUMNS", "40"), ("FORCE_COLOR", "1"), ("TERM", "dumb"), ("LANG", "C")):
        monkeypatch.setenv(name, value)
    assert str(small) == before
    assert "\x1b" not in before


def test_piped_tables_of_the_zoo_stay_readable(built):
    assert max(map(len, str(built["squeezenet_v1_1"]).splitlines())) <= 130


def test_findings_and_unknown_layers_are_told_everywhere(small):
    line = "collapse: layer0, layer1, layer2, layer3, layer4 and 2 more: They are one. Saves 5 params, 2.0 KiB."
    warning = "MACs not known, so not in the total: odd[red]"
    for text in (str(small), printed(small, 130), small.to_markdown()):
        assert line in " ".join(text.split())
        assert warning in text
    assert "Findings" not in str(dataclasses.replace(small, findings=()))


def test_depth(small):
    totals = small.to_text(depth=0)
    assert totals.startswith("small\n\nTotal: 100 params")
    blocks = small.to_text(depth=1).splitlines()
    assert blocks[1].split() == ["name", "layers", "params", "share", "of", "params", "MACs", "share", "of", "MACs"]
    assert [line.split() for line in blocks[3:6]] == [
        ["a", "2", "70", "70.0%", "700", "70.0%"],
        ["(no", "block)", "1", "0", "0.0%", "0", "0.0%"],
        ["b", "1", "30", "30.0%", "300", "30.0%"],
    ]


def test_blocks_sum_to_the_total(built):
    for result in built.values():
        blocks = group_by_block(result.rows)
        assert sum(block.layers for block in blocks) == len(result.rows)
        for key in ("params", "trainable_params", "macs", "pointwise_params", "pointwise_macs", "activation_bytes"):
            assert sum(getattr(block, key) for block in blocks) == getattr(result.total, key)


def test_only_keeps_the_totals_and_adds_what_is_shown(small):
    text = small.to_text(only=("pointwise", "other"))
    assert "Shown: 3 of 4 layers, 40 params (40.0%), 400 MACs (40.0%)" in text
    assert "1,000 MACs" in text
    assert "a_3x3" not in text
    assert [row.name for row in AuditView(only="reduce,head").rows(small)] == ["a_1x1", "b_1x1"]
    assert "Shown" not in str(small)
    assert AuditView(only="dense").records(small) == []
    assert "Shown: 0 of 4 layers" in small.to_text(only="dense")


def test_sort(small):
    def order(key):
        return [row.name for row in AuditView(sort=key).records(small)]

    assert order("macs") == ["a_3x3", "b_1x1", "a_1x1", "odd[red]|x"]  # not known: last
    assert order("share_of_params") == ["a_3x3", "b_1x1", "a_1x1", "odd[red]|x"]
    assert order("kind") == ["odd[red]|x", "a_1x1", "b_1x1", "a_3x3"]
    assert order("kernel")[0] == "a_3x3"
    assert [block.name for block in AuditView(depth=1, sort="layers").records(small)] == ["a", None, "b"]


def test_shapes_of_one_and_of_several_tensors_sort_together():
    rows = [
        audits.row("one"),
        audits.row("two", input_shape=((1, 9, 9, 4), (1, 5, 5, 4))),
        audits.row("n", input_shape=None),
    ]
    assert [row.name for row in AuditView(sort="input_shape").records(audits.audit(rows))] == ["two", "one", "n"]


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"columns": "name,mac"}, "Expected `columns` to be a known name. Received: 'mac'. Did you mean macs"),
        ({"sort": "parms"}, "Received: 'parms'. Did you mean params"),
        ({"only": "pointwize"}, "Received: 'pointwize'. Did you mean pointwise"),
        ({"only": ("pool,",)}, "Received: ''"),
        ({"only": (1,)}, "Expected `only` to be names"),
        ({"columns": "name,name"}, "each column once"),
        ({"columns": ()}, "each column once"),
        ({"depth": 3}, "Expected `depth` to be one of 0, 1, 2. Received: 3"),
        ({"depth": 0, "sort": "macs"}, "depth 0, which shows totals alone"),
        ({"depth": 1, "columns": "kernel"}, "Received: 'kernel'"),
    ],
)
def test_bad_views(view, message):
    with pytest.raises(InputError, match=re.escape(message)):
        AuditView(**view)


def test_every_kind_and_role_can_be_asked_for(built):
    rows = [row for result in built.values() for row in result.rows]
    assert {row.kind for row in rows} <= {*KINDS}
    assert {row.role for row in rows} <= {*ROLES, None}


# CSV and Markdown


def test_csv_has_all_keys_of_the_json_rows_and_raw_numbers(built):
    result = built["squeezenet_v1_1"]
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert list(rows[0])[:-2] == list(result.to_json()["rows"][0])
    assert list(rows[0])[-2:] == ["share_of_params", "share_of_macs"]
    assert sum(int(row["macs"]) for row in rows) == 349_151_936
    assert sum(float(row["share_of_macs"]) for row in rows) == pytest.approx(1, abs=1e-4)
    assert (rows[2]["kernel"], rows[2]["output_shape"]) == ("1x1", "55x55x16")


def test_csv_and_markdown_take_views(small):
    assert small.to_csv(columns="name,macs", sort="macs", only="pointwise") == "name,macs\nb_1x1,300\na_1x1,100\n"
    assert small.to_csv(columns="macs", only="other") == 'macs\n""\n'
    lines = small.to_markdown(depth=1, columns=("name", "macs")).splitlines()
    assert lines[:3] == ["| name | MACs |", "| --- | ---: |", "| a | 700 |"]
    with pytest.raises(InputError, match="depth of 1 or 2 for CSV"):
        small.to_csv(depth=0)
    with pytest.raises(TypeError):
        small.to_csv(dept=1)


def test_markdown_without_a_table(small):
    assert small.to_markdown(depth=0).startswith("- Total: 100 params")
    assert "odd[red]\\|x" in small.to_markdown()


# Bytes


def test_bytes_of_a_file_are_those_of_its_own_types():
    whole = audits.audit([audits.row("a", activation_bytes=100)])
    mixed = audits.audit([audits.row("a", activation_bytes=100), audits.row("b")])
    for result in (whole, mixed):
        assert "Peak activation memory: 0.8 KiB at the file's own types\n" in str(result)
        assert "Bytes are those of the file's own types." in str(result)
    plain = str(audits.audit([audits.row("a")]))
    assert "Peak activation memory: 0.8 KiB float32, 0.2 KiB int8" in plain
    assert "Bytes of activations are at float32" in plain
