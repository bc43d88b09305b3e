"""Budgets: strict units, ranges, and what cannot be shown to hold."""

import re
from fractions import Fraction

import audits
import pytest

from keras_nin.audit import budget
from keras_nin.errors import InputError


@pytest.fixture
def known():
    """70 parameters and 700 MACs outside 1x1 layers, 30 and 300 in them."""
    rows = [audits.row("a", params=70, macs=700, kind="spatial", role=None), audits.row("b", params=30, macs=300)]
    return audits.audit(rows)


def one(result, text):
    (judged,) = budget.check_audit_limits(result, budget.parse_audit_limits(text))
    return judged


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("params=1.1M", 1_100_000),
        ("params=1300000", 1_300_000),
        ("macs=0.4G", 400_000_000),
        ("macs=400k", 400_000),
        ("weights=1.3MiB", Fraction(13, 10) * 2**20),
        ("peak=2MB", 2_000_000),
        ("peak_int8=64KiB", 64 * 1024),
        ("activations=1kB", 1000),
        ("activations=0B", 0),
        ("pointwise_share=40%", Fraction(2, 5)),
        ("pointwise_params_share=0.4", Fraction(2, 5)),
        (" params = 1k ", 1000),
    ],
)
def test_units(text, value):
    (limit,) = budget.parse_audit_limits(text)
    assert (limit.low, limit.high) == (None, value)


def test_ranges():
    ends = {text: budget.parse_audit_limits(f"params={text}")[0] for text in ("..5", "5..", "3..5", "0..2M", "5..5")}
    assert [(limit.low, limit.high) for limit in ends.values()] == [
        (None, 5),
        (5, None),
        (3, 5),
        (0, 2_000_000),
        (5, 5),
    ]
    assert [limit.item for limit in budget.parse_audit_limits("params=1,macs=2,params=0..")] == [
        "params",
        "macs",
        "params",
    ]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "params=1m",
            "params=1K",
            "params=1e6",
            "params=-1",
            "params=1_000",
            "params=1 M",
            "params=1MiB",
            "params=40%",
        ),
        *("weights=100", "weights=1M", "weights=1mib", "weights=1KB", "peak=1mb", "peak=nan", "peak=inf"),
        *(
            "pointwise_share=41",
            "pointwise_share=101%",
            "pointwise_share=0.4k",
            "params=",
            "params",
            "",
            "=1",
            "params=..",
        ),
        *("params=5..3", "params=1..2M", "params=1...2", "params=1.", "params=.5", "params=١", "params=1,", "param=1"),
        "params=" + "9" * 5000,
    ],
)
def test_what_is_no_budget(text):
    with pytest.raises(InputError, match="Expected .* Received:"):
        budget.parse_audit_limits(text)


def test_a_wrong_item_and_a_wrong_unit_say_what_is_right():
    with pytest.raises(InputError, match="Received: 'parms'. Did you mean params"):
        budget.parse_audit_limits("parms=1")
    with pytest.raises(InputError, match=re.escape("such as 500B, 64KiB, 1.3MiB or 2MB (units as written: B, kB, MB")):
        budget.parse_audit_limits("peak=5")


def test_figures(known):
    text = "params=1,trainable_params=1,macs=1,weights=1B,peak=1B,peak_int8=1B,activations=1B"
    figures = {
        result.limit.item: result.figure for result in budget.check_audit_limits(known, budget.parse_audit_limits(text))
    }
    assert figures == {
        "params": 100,
        "trainable_params": 40,
        "macs": 1000,
        "weights": 160,
        "peak": 800,
        "peak_int8": 200,
        "activations": 800,
    }
    assert one(known, "pointwise_share=1").figure == pytest.approx(0.3)
    assert one(known, "pointwise_params_share=1").figure == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("params=100", "holds"),
        ("params=99", "exceeded"),
        ("params=100..", "holds"),
        ("params=101..", "not reached"),
        ("params=99..101", "holds"),
        ("pointwise_share=0.3", "holds"),  # exact: 0.3 as a float is less than 300 / 1000 as fractions
        ("pointwise_share=30%..", "holds"),
        ("pointwise_share=0.299", "exceeded"),
    ],
)
def test_verdicts(known, text, verdict):
    result = one(known, text)
    assert (result.verdict, result.passed) == (verdict, verdict == "holds")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("macs=2000", "not known"),  # the layer may cost anything
        ("macs=999", "exceeded"),  # whatever it costs
        ("macs=1000..", "holds"),  # whatever it costs
        ("macs=1001..", "not known"),
        ("pointwise_share=0.4", "holds"),  # more MACs elsewhere only lower the share
        ("pointwise_share=0.39", "not known"),
        ("pointwise_share=0.4..", "not known"),
        ("pointwise_share=0.41..", "not reached"),
        ("pointwise_params_share=0.4", "holds"),
        ("params=100", "holds"),
    ],
)
def test_unknown_macs_are_never_taken_for_none(text, verdict):
    result = one(audits.small(), text)
    assert result.verdict == verdict
    assert result.reason == ("MACs not known: odd[red]|x" if verdict == "not known" else None)


def test_a_share_of_nothing_is_not_known():
    result = one(audits.audit([audits.row("pool", kind="pool", params=0, macs=0)]), "pointwise_share=0.4..")
    assert (result.figure, result.verdict) == (None, "not known")


def test_lines_and_json(known):
    result = one(known, "params=90..95")
    assert str(result) == "Budget params: 100, at least 90 and at most 95: exceeded"
    assert str(one(known, "peak=1KiB")) == "Budget peak: 800 bytes (0.8 KiB), at most 1,024 bytes (1.0 KiB): holds"
    assert str(one(known, "pointwise_share=40%..")) == "Budget pointwise_share: 30%, at least 40%: not reached"
    assert result.to_json() == {
        **{"item": "params", "figure": 100, "at_least": 90, "at_most": 95},
        **{"passed": False, "verdict": "exceeded", "reason": None},
    }
