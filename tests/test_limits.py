"""Limits: their units and ranges, and what counts as kept."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_nin import InputError
from keras_nin.limits import (
    LimitItem,
    Unit,
    Verdict,
    all_passed,
    check_limit,
    format_value,
    parse_byte_count,
    parse_limits,
)
from keras_nin.report.accuracy import OutputScores
from keras_nin.workflows.evaluation import EvaluateResult, check_evaluation_limits, parse_evaluation_limits

PARAMS = LimitItem("params", Unit.COUNT)
PEAK = LimitItem("peak", Unit.BYTES)
TIME = LimitItem("time", Unit.TIME)
SHARE = LimitItem("share", Unit.SHARE)
NPU = LimitItem("npu", Unit.SHARE, at_least=True)
ITEMS = (PARAMS, PEAK, TIME, SHARE, NPU)


def parse(text, **options):
    return parse_limits(text, ITEMS, argument="budget", **options)


@pytest.mark.parametrize(
    ("text", "item", "low", "high"),
    [
        ("params=1300000", PARAMS, None, 1_300_000),
        ("params=..1.3M", PARAMS, None, 1_300_000),
        ("params=1k..2k", PARAMS, 1000, 2000),
        ("params=0..0", PARAMS, 0, 0),
        ("peak=1.5KiB", PEAK, None, 1536),
        ("peak=2MB..", PEAK, 2_000_000, None),
        ("peak=1kB..1MiB", PEAK, 1000, 2**20),
        ("time=500us", TIME, None, 500),
        ("time=1.5ms..2s", TIME, 1500, 2_000_000),
        ("share=40%", SHARE, None, Fraction(2, 5)),
        ("share=0.4..", SHARE, Fraction(2, 5), None),
        ("npu=95%", NPU, Fraction(19, 20), None),
        ("npu=full", NPU, 1, None),
        ("npu=..50%", NPU, None, Fraction(1, 2)),
        (" params = 5 ", PARAMS, None, 5),
    ],
)
def test_ranges_and_units(text, item, low, high):
    (limit,) = parse(text)
    assert (limit.item, limit.low, limit.high) == (item, low, high)


def test_several_limits_and_a_bare_one():
    limits = parse("95%,peak=1MiB", bare_item="npu")
    assert [(limit.name, limit.low, limit.high) for limit in limits] == [
        ("npu", Fraction(19, 20), None),
        ("peak", None, 2**20),
    ]
    assert parse("full", bare_item="npu")[0].low == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prams=1", "Expected `budget` to be a known name. Received: 'prams'. Did you mean params"),
        ("95%", "Expected `budget` to be a known name. Received: '95%'"),
        ("params", "Expected `budget` as ITEM=LIMIT, such as params=1300000. Received: 'params'"),
        ("params=", "Expected `budget` as ITEM=LIMIT"),
        ("params=..", "with at least one end of a range"),
        ("params=2..1", "with a range from low to high"),
        ("params=1..2k", "with a unit at both ends of a range, or at neither"),
        ("params=1K", "to give params as a count such as 1300000, 1300k or 1.3M (units as written: k, M, G)"),
        ("params=-1", "to give params as a count"),
        ("params=1e6", "to give params as a count"),
        ("params=full", "to give params as a count"),
        ("peak=100", "to give peak as a size in bytes such as 500B"),
        ("peak=1mib", "(units as written: B, kB, MB, GB, KiB, MiB, GiB)"),
        ("time=5", "to give time as a time such as 500us, 20ms or 1.5s"),
        ("share=1.5", "to give a share from 0 to 1, or to 100%"),
        ("npu=101%", "to give a share from 0 to 1, or to 100%"),
        ("", "Expected `budget` to be a known name"),
    ],
)
def test_what_is_no_limit_is_refused_in_one_line(text, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        parse(text)
    assert caught.value.argument == "budget"
    assert "\n" not in str(caught.value)


def test_byte_counts():
    assert parse_byte_count(" 256KiB", argument="sram") == 256 * 1024
    for text in ("256", "0.5B", "1 KiB", ""):
        with pytest.raises(InputError, match="Expected `sram` as a size in bytes such as"):
            parse_byte_count(text, argument="sram")


numbers = st.integers(0, 10**6)


@given(low=st.none() | numbers, high=st.none() | numbers, value=numbers)
def test_a_known_value_passes_where_it_lies_in_the_range(low, high, value):
    if low is None and high is None:
        return
    if low is not None and high is not None and low > high:
        low, high = high, low
    (limit,) = parse(f"params={'' if low is None else low}..{'' if high is None else high}")
    check = check_limit(limit, value)
    inside = (low is None or value >= low) and (high is None or value <= high)
    assert check.passed == inside
    if not inside:
        assert check.verdict is (Verdict.EXCEEDED if high is not None and value > high else Verdict.NOT_REACHED)
    assert check.to_json() == {
        "item": "params", "value": value, "at_least": low, "at_most": high, "passed": inside,
        "verdict": check.verdict.value, "reason": None,
    }  # fmt: skip


def test_a_share_at_its_limit_passes():
    """19 of 20 as a float is a little less than 95%."""
    (limit,) = parse("npu=95%")
    assert Fraction(95, 100) > 19 / 20
    assert check_limit(limit, 19 / 20).passed
    assert not check_limit(limit, 0.9499999).passed


@given(bounds=st.tuples(numbers, numbers).map(sorted), limit=numbers, at_least=st.booleans())
def test_what_is_known_in_part_passes_only_where_all_that_it_can_be_passes(bounds, limit, at_least):
    least, most = bounds
    (parsed,) = parse(f"params={limit}.." if at_least else f"params={limit}")
    check = check_limit(parsed, least, bounds=(least, most), reason="why")
    could_be = [least >= limit, most >= limit] if at_least else [least <= limit, most <= limit]
    assert check.passed == all(could_be)
    assert (check.verdict is Verdict.UNKNOWN) == (any(could_be) and not all(could_be))
    assert check.reason == ("why" if check.verdict is Verdict.UNKNOWN else None)


def test_more_than_is_known():
    (limit,) = parse("params=100")
    assert check_limit(limit, 101, bounds=(101, None)).verdict is Verdict.EXCEEDED
    assert check_limit(limit, 99, bounds=(99, None), reason="why").verdict is Verdict.UNKNOWN
    assert check_limit(parse("params=99..")[0], 99, bounds=(99, None)).passed


def test_no_value_never_passes():
    for text in ("params=5", "params=5..", "npu=full"):
        check = check_limit(parse(text)[0], None, reason="no such runtime", subject="net.tflite")
        assert (check.passed, check.verdict) == (False, Verdict.UNKNOWN)
        assert str(check).endswith("FAIL, unknown (no such runtime)")
        assert check.to_json()["subject"] == "net.tflite"
    assert not all_passed([check])


@pytest.mark.parametrize(
    ("text", "value", "line"),
    [
        ("params=1.3M", 1_235_496, "params 1,235,496, limit at most 1,300,000: pass"),
        (
            "peak=512KiB",
            982_144,
            "peak 982,144 bytes (959.1 KiB), limit at most 524,288 bytes (512.0 KiB): FAIL, exceeded",
        ),
        ("npu=95%", 0.5, "npu 50%, limit at least 95%: FAIL, not reached"),
        ("time=500us..2ms", 1500, "time 1.500 ms, limit at least 500.0 us and at most 2.000 ms: pass"),
    ],
)
def test_a_check_as_text(text, value, line):
    check = check_limit(parse(text)[0], value)
    assert str(check) == line
    assert str(check_limit(check.limit, value, subject="x")) == f"x: {line}"


def test_shares_keep_their_digits():
    assert format_value(Unit.SHARE, Fraction(999, 1000)) == "99.9%"
    assert format_value(Unit.SHARE, Fraction(2, 3)) == "66.6667%"


def test_scores_of_an_evaluation():
    """The worst of several outputs counts, in the direction of each score."""
    outputs = [
        OutputScores(name, "regression", 4, {"mae": mae, "r2": r2})
        for name, mae, r2 in (("a", 0.5, 0.9), ("b", 2.0, -1.0))
    ]
    result = EvaluateResult("net.tflite", tuple(outputs), "data", None, None, False, 0, None)
    checks = check_evaluation_limits(result, parse_evaluation_limits("mae=2,mae=1.5,r2=0.5,rmse=1,top1=0%"))
    assert [(check.value, check.passed) for check in checks] == [
        (2.0, True), (2.0, False), (-1.0, False), (None, False), (None, False),
    ]  # fmt: skip
    assert str(checks[1]) == "net.tflite: mae 2, limit at most 1.5: FAIL, exceeded"
