"""Budgets of audits: what the items are, and what unknown MACs leave undecided."""

import audits
import pytest

from keras_nin.audit.budget import ITEMS, check_audit_limits, parse_audit_limits
from keras_nin.errors import InputError
from keras_nin.limits import Verdict


@pytest.fixture
def known():
    """70 parameters and 700 MACs outside 1x1 layers, 30 and 300 in them."""
    rows = [audits.row("a", params=70, macs=700, kind="spatial", role=None), audits.row("b", params=30, macs=300)]
    return audits.audit(rows)


def check_one(audit, text):
    (check,) = check_audit_limits(audit, parse_audit_limits(text))
    return check


def test_every_item_has_its_value(known):
    text = "params=1,trainable_params=1,macs=1,weights=1B,peak=1B,peak_int8=1B,activations=1B,"
    checks = check_audit_limits(known, parse_audit_limits(text + "pointwise_share=1,pointwise_params_share=1"))
    assert {check.limit.name: float(check.value) for check in checks} == {
        **{"params": 100, "trainable_params": 40, "macs": 1000, "weights": 160, "peak": 800, "peak_int8": 200},
        **{"activations": 800, "pointwise_share": 0.3, "pointwise_params_share": 0.3},
    }
    assert [check.limit.name for check in checks] == [item.name for item in ITEMS]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("params=100", Verdict.PASS),
        ("params=99", Verdict.EXCEEDED),
        ("params=101..", Verdict.NOT_REACHED),
        ("pointwise_share=0.3", Verdict.PASS),  # exact: 0.3 as a float is less than 300 / 1000 as fractions
        ("pointwise_share=30%..", Verdict.PASS),
        ("pointwise_share=0.299", Verdict.EXCEEDED),
    ],
)
def test_exact_values_decide(known, text, verdict):
    assert check_one(known, text).verdict is verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("macs=2000", Verdict.UNKNOWN),  # the layer may cost anything
        ("macs=999", Verdict.EXCEEDED),  # whatever it costs
        ("macs=1000..", Verdict.PASS),  # whatever it costs
        ("macs=1001..", Verdict.UNKNOWN),
        ("pointwise_share=0.4", Verdict.PASS),  # more MACs elsewhere only lower the share
        ("pointwise_share=0.39", Verdict.UNKNOWN),
        ("pointwise_share=0.4..", Verdict.UNKNOWN),
        ("pointwise_share=0.41..", Verdict.NOT_REACHED),
        ("pointwise_params_share=0.4", Verdict.PASS),
        ("params=100", Verdict.PASS),
    ],
)
def test_unknown_macs_never_count_as_zero(text, verdict):
    check = check_one(audits.small(), text)
    assert check.verdict is verdict
    assert check.reason == ("MACs unknown: odd[red]|x" if verdict is Verdict.UNKNOWN else None)


def test_a_share_of_nothing_is_unknown():
    check = check_one(audits.audit([audits.row("pool", kind="pool", params=0, macs=0)]), "pointwise_share=0.4..")
    assert (check.value, check.verdict) == (None, Verdict.UNKNOWN)


def test_a_wrong_item_names_the_argument():
    with pytest.raises(InputError, match="`require` to be a known name. Received: 'parms'. Did you mean params"):
        parse_audit_limits("parms=1")
