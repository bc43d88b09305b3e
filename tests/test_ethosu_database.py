"""Vela's debug database, read whole or refused."""

import csv

import pytest
from vela_stand_in import MACS, RECORDED

from keras_nin.edge.ethosu import estimate, vela
from keras_nin.errors import InputError

TEXT = (RECORDED / "network_debug.xml").read_text()
OPERATORS = 13
NAME = '"main_1/nin_digits_1/pool1._1/MaxPool2d"'
ROW = f'157,4,114,"MaxPool",{NAME},2560,1408,1408,3456,0,320,0\n'


@pytest.fixture(scope="module")
def summary():
    (path,) = RECORDED.glob("*_summary_*.csv")
    with open(path, newline="") as lines:
        return next(csv.DictReader(lines))


def test_every_operation_is_read_and_knows_its_operator(summary):
    found = vela.parse_operations(TEXT, OPERATORS)
    assert len(found) == 51
    assert [each.source for each in found] == sorted(each.source for each in found)
    assert {each.source for each in found} == set(range(OPERATORS))
    assert found[0].operator == "Conv2D"
    assert found[0].name.startswith("main_1/nin_digits_1/mlpconv1_conv3x3._1/Relu;")
    assert [each.macs for each in found if each.operator == "Conv2D"] == list(MACS.values())
    assert not any(each.on_cpu for each in found)


def test_sums_are_the_totals_of_vela(summary):
    found = vela.parse_operations(TEXT, OPERATORS)
    assert sum(each.cycles for each in found) == int(summary["cycles_total"])
    assert sum(each.npu_cycles for each in found) == int(summary["cycles_npu"])
    assert sum(each.macs for each in found) == int(summary["nn_macs"])
    moved = {
        name: estimate.sum_by_memory(found, "read").get(name, 0) + estimate.sum_by_memory(found, "written").get(name, 0)
        for name in ("SRAM", "off-chip flash")
    }
    assert moved == {
        "SRAM": int(summary["sram_total_bytes"]),
        "off-chip flash": int(summary["off_chip_flash_total_bytes"]),
    }


@pytest.mark.parametrize("name", ['a "quoted", name', "1, 2\n3", '",1,2,3', "7", "", "½"])
def test_a_name_may_be_anything(name):
    assert ROW in TEXT
    # Vela leaves what is a number without quotation marks, and quotes nothing else.
    written = name if name.isnumeric() else f'"{name}"'
    found = vela.parse_operations(TEXT.replace(ROW, ROW.replace(NAME, written)), OPERATORS)
    (pool,) = [each for each in found if each.id == "157"]
    assert (pool.name, pool.cycles, pool.macs, pool.source) == (name.strip('"'), 1408, 3456, 3)
    assert len(found) == 51


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ('name="perf"', 'name="performance"', "no table 'perf'"),
        ('name="source"', 'name="sources"', "no table 'source'"),
        ('"op_cycles"', '"cycles"', "a table 'perf' without op_cycles"),
        (ROW, ROW.replace("1408", "-1408"), "'-1408' as op_cycles"),
        (ROW, ROW.replace("1408", "9" * 19), "as op_cycles"),
        (ROW, ROW.replace(",320,0", ",320"), "50 operations, details of 51"),
        (ROW, "157,4\n", "in table 'perf'"),
    ],
)
def test_another_database_is_refused(before, after, problem):
    assert before in TEXT
    with pytest.raises(InputError, match="Expected a debug database of Vela 5.2") as error:
        vela.parse_operations(TEXT.replace(before, after), OPERATORS)
    assert problem in str(error.value)


def test_an_operator_number_that_two_sources_have_joins_none():
    row = '4,"MaxPool",1,1,4,4,24,3\n'
    assert row in TEXT
    found = vela.parse_operations(TEXT.replace(row, row.replace(",3\n", ",0\n")), OPERATORS)
    assert [each.source for each in found[:7]] == [None, None, 1, 1, 2, 2, None]
    assert {each.source for each in vela.parse_operations(TEXT, 12)} == {*range(12), None}
