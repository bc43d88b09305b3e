"""Vela's operations, joined to the layers of the network."""

import dataclasses

import pytest

from keras_nin.audit.records import AuditRow
from keras_nin.edge.ethosu import estimate, records
from keras_nin.edge.ethosu.records import EthosUFinding, VelaOperation
from keras_nin.errors import InputError


def row(name, type_, kind, role=None, macs=0):
    """A row of an audit of which only what names the layer counts here."""
    unused = dict.fromkeys([field.name for field in dataclasses.fields(AuditRow)][5:], 0)
    return AuditRow(name, type_, kind, role, (1, 1), **unused | {"macs": macs, "block": "fire"})


ROWS = [
    row("squeeze", "CONV_2D", "pointwise", "reduce", 512),
    row("join", "CONCATENATION", "merge"),
    row("lrn", "LOCAL_RESPONSE_NORMALIZATION", "norm"),
]


def operation(source, operator="Conv2D", cycles=10, npu_cycles=10, macs=512, **fields):
    access = fields.pop("access_cycles", {})
    defaults = {"id": "1", "name": "tensor", "access_cycles": access, "read": {"SRAM": 3}, "written": {}}
    return VelaOperation(
        source=source, operator=operator, cycles=cycles, npu_cycles=npu_cycles, macs=macs, **defaults | fields
    )


def test_each_operation_is_in_one_layer_and_sums_stay():
    elsewhere = operation(None, name="x")
    left = operation(2, "Passthrough", 0, 0, 0)
    operations = [operation(0, macs=512), operation(0, "Relu", 0, 0, 0), elsewhere, elsewhere, left]
    layers = estimate.join_layers(ROWS, operations, "ethos-u55-128")
    assert [(each.name, each.index, each.target, each.operations) for each in layers] == [
        ("squeeze", 0, "NPU", 2),
        ("join", 1, "none", 0),
        ("lrn", 2, "CPU", 1),
        ("x", None, "NPU", 2),
    ]
    assert sum(each.cycles for each in layers) == 30
    assert sum(each.macs for each in layers) == 3 * 512
    assert layers[0].network_macs == layers[0].macs == 512
    assert (layers[0].kind, layers[0].role, layers[0].block) == ("pointwise", "reduce", "fire")
    assert layers[0].utilization == 512 / (10 * 128)
    assert layers[0].share == 10 / 30
    assert layers[0].read == {"SRAM": 6}
    assert (layers[1].share, layers[1].utilization, layers[1].bound) == (0, None, None)
    assert (layers[3].kind, layers[3].op, layers[3].network_macs) == ("other", None, None)


def test_a_layer_may_be_in_both_places():
    (layer,) = estimate.join_layers(ROWS[:1], [operation(0), operation(0, "Passthrough", 0, 0, 0)], "ethos-u55-128")
    assert layer.target == "NPU+CPU"


def test_what_binds_a_layer_is_what_most_of_its_cycles_wait_for():
    waiting = operation(0, cycles=30, npu_cycles=4, access_cycles={"SRAM": 5, "DRAM": 30})
    computing = operation(0, cycles=20, npu_cycles=20, access_cycles={"SRAM": 19})
    assert estimate.join_layers(ROWS[:1], [waiting, computing], "ethos-u55-128")[0].bound == "DRAM"
    shorter = dataclasses.replace(waiting, cycles=19)
    assert estimate.join_layers(ROWS[:1], [shorter, computing], "ethos-u55-128")[0].bound == "NPU"


def test_without_cycles_there_are_no_shares():
    layers = estimate.join_layers(ROWS, [operation(0, "Passthrough", 0, 0, 0)], "ethos-u55-128")
    assert [(each.share, each.utilization) for each in layers] == [(None, None)] * 3


@pytest.mark.parametrize(("name", "macs"), [("ethos-u55-32", 32), ("ethos-u65-512", 512), ("ethos-u85-2048", 2048)])
def test_macs_per_cycle(name, macs):
    assert records.macs_per_cycle(name) == macs


def test_chosen_accelerators():
    assert records.parse_accelerators(["ethos-u85-256, ethos-u55-32", "ethos-u55-32"]) == (
        "ethos-u85-256",
        "ethos-u55-32",
    )
    assert records.parse_accelerators(["ethos-u55-32,all"]) == records.ACCELERATORS
    with pytest.raises(InputError, match=r"Received: 'ethos-u55-512'\. Did you mean ethos-u"):
        records.parse_accelerators(["ethos-u55-512"])


def judged(operations, system_config="Ethos_U55_Deep_Embedded", said=()):
    layers = estimate.join_layers(ROWS, operations, "ethos-u55-128")
    return [
        (each.rule, each.layers) for each in estimate.collect_findings(layers, "ethos-u55-128", system_config, said)
    ]


def test_findings_of_what_is_left_to_the_cpu():
    left = operation(2, "Passthrough", 0, 0, 0)
    assert judged([operation(0)]) == []
    assert judged([operation(0), left]) == [("cpu", ("lrn",)), ("time-without-cpu", ())]
    assert judged([operation(0), left], said=[EthosUFinding("cpu", "why", ("lrn",))]) == [("time-without-cpu", ())]
    assert judged([left]) == [("cpu", ("lrn",)), ("nothing-on-npu", ())]


def test_finding_of_an_operator_that_is_cut_into_many():
    assert judged([operation(0), *[operation(0, "Relu")] * 99]) == [("split", ("squeeze",))]
    assert judged([operation(0), *[operation(0, "Relu")] * 98]) == []
    assert judged([operation(0), *[operation(0, "Relu")] * 99, operation(1, cycles=19_100)]) == []


def test_finding_of_macs_that_vela_counts_otherwise():
    assert judged([operation(0, macs=511)]) == [("macs", ("squeeze",))]
    assert judged([operation(0), operation(0, "Relu", macs=88)]) == []


def test_finding_of_a_system_of_another_family():
    assert judged([operation(0)], "Ethos_U85_SYS_DRAM_Mid") == [("other-family", ())]
    assert judged([operation(0)], "my_board") == []
