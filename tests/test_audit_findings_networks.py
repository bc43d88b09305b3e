"""Findings on whole networks, as reviewed: a change of a rule shows here which alarms come and go."""

import json

import findings_snapshot
import pytest

from keras_nin import models
from keras_nin.audit import audit_model
from keras_nin.rewrite import simplify_model

SNAPSHOT = json.loads(findings_snapshot.PATH.read_text())


def test_the_snapshot_has_the_zoo_and_the_applications():
    assert list(SNAPSHOT) == [*models.list_models(), *findings_snapshot.APPLICATIONS]


def check(name):
    result = audit_model(findings_snapshot.build(name))
    assert findings_snapshot.summary(result.findings) == SNAPSHOT[name]
    rows = {row.name for row in result.rows}
    for finding in result.findings:
        assert set(finding.layers) <= rows
        assert finding.message.endswith(".")
        assert list(finding.saves) == ["params", "macs", "bytes"]
        assert all(type(value) is int for value in finding.saves.values())
        assert finding.saves["params"] <= result.total.params
        assert finding.saves["macs"] <= result.total.macs


@pytest.mark.parametrize("name", models.list_models())
def test_zoo(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", findings_snapshot.APPLICATIONS)
def test_applications(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("DenseNet121", 3), ("MobileNetV3Small", 1)])
def test_what_applications_leave_to_simplify_is_exact(name, steps):
    model = findings_snapshot.build(name)
    result = simplify_model(model)
    assert len(result.steps) == steps
    assert result.difference <= 1e-5
    saved = [sum(step.saves[what] for step in result.steps) for what in ("params", "macs")]
    assert saved == [before - after for before, after in (result.params, result.macs)]
