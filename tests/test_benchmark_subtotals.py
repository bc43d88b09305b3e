"""What layers cost together."""

import pytest
from latency_records import layer, profile

from keras_nin.benchmark import layer_times


@pytest.fixture
def measured():
    return profile(
        layer("squeeze", 10.0, "pointwise", "reduce", "fire", 1_000_000),
        layer("expand", 20.0, "pointwise", "expand", "fire", 2_000_000),
        layer("expand2", 5.0, "pointwise", "expand", "fire2", 500_000),
        layer("conv", 30.0, "spatial", None, "fire", 9_000_000),
        layer("pool", 1.0, "pool"),
        layer("copy", 2.0, "other", None, "fire", None, op=None, operators=()),
        layer("flat", None, "reshape"),
        layer("custom", 3.0, "other", macs=None),
        overhead=-1.0,
    )


def test_by_kind_and_role(measured):
    found = {each.name: each for each in layer_times.sum_by_role(measured)}
    assert list(found) == ["1x1 reduce", "1x1 expand", "spatial", "other", "runtime overhead"]
    expand, other = found["1x1 expand"], found["other"]
    assert (expand.rows, expand.us, expand.macs) == (2, 25.0, 2_500_000)
    assert expand.gmacs_per_s == pytest.approx(2_500_000 / 25e-6 / 1e9)
    assert (other.rows, other.us, other.macs, other.gmacs_per_s) == (4, 6.0, 0, None)
    assert found["runtime overhead"].us == -1.0


@pytest.mark.parametrize("function", [layer_times.sum_by_role, layer_times.sum_by_block])
def test_they_add_up_to_the_run(measured, function):
    found = function(measured)
    assert sum(each.us for each in found) == pytest.approx(measured.total.median)
    assert sum(each.share for each in found) == pytest.approx(1)
    assert sum(each.rows for each in found) == len(measured.layers)
    assert sum(each.macs for each in found) == sum(row.macs or 0 for row in measured.layers)


def test_by_block_in_order_of_execution(measured):
    found = layer_times.sum_by_block(measured)
    assert [each.name for each in found] == ["fire", "fire2", "(no block)", "runtime overhead"]
    assert (found[0].us, found[0].macs) == (62.0, 12_000_000)


def test_all_pointwise_layers(measured):
    found = layer_times.sum_pointwise(measured)
    assert (found.name, found.rows, found.us) == ("1x1", 3, 35.0)
    assert found.share == pytest.approx(35 / measured.total.median)


def test_a_profile_without_layers_has_none():
    assert layer_times.sum_by_role(profile(overhead=None)) == ()
