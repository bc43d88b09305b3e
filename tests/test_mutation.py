"""tools/mutation.py: what it changes, and that the modules and tests that it names exist."""

import ast
import importlib.util
import pathlib
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def mutation():
    spec = importlib.util.spec_from_file_location("mutation", ROOT / "tools" / "mutation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changes(mutation, tmp_path, monkeypatch, code):
    """Return (operator, before, after) of every mutant of some code; each is valid and differs from it."""
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    (tmp_path / "module.py").write_text(textwrap.dedent(code))
    found = mutation.mutants(mutation.Target("test", "module.py", (), 1))
    original = ast.unparse(ast.parse(textwrap.dedent(code)))
    for mutant in found:
        assert ast.unparse(ast.parse(mutant.source)) != original
    assert len({mutant.source for mutant in found}) == len(found)
    return {(mutant.operator, mutant.before, mutant.after) for mutant in found}


def test_every_operator(mutation, tmp_path, monkeypatch):
    code = """
        NAMES = {"a", "b"}
        def f(x):
            if x < 2 and not x:
                x += 1
            return -x
    """
    assert changes(mutation, tmp_path, monkeypatch, code) == {
        ("dropped member", "{'a', 'b'}", "{'b'}"),
        ("dropped member", "{'a', 'b'}", "{'a'}"),
        ("condition", "if x < 2 and (not x)", "if not (x < 2 and (not x))"),
        ("boolean", "x < 2 and (not x)", "x < 2 or not x"),
        ("boolean", "not x", "x"),
        ("comparison", "x < 2", "x <= 2"),
        ("constant", "2", "3"),
        ("arithmetic", "x += 1", "x -= 1"),
        ("dropped statement", "x += 1", "pass"),
        ("constant", "1", "2"),
        ("return", "return -x", "return None"),
        ("arithmetic", "-x", "x"),
    }


def test_texts_types_and_errors_are_left_alone(mutation, tmp_path, monkeypatch):
    code = '''
        """One of 2."""
        if TYPE_CHECKING:
            SIZE = 2
        def f(x: tuple[1, 2] = None) -> 3:
            text = f"{x + 1} of 2"
            raise ValueError(x + 1)
    '''
    assert {operator for operator, *_ in changes(mutation, tmp_path, monkeypatch, code)} == {"dropped statement"}


def test_a_draw_is_the_same_every_time_and_takes_all_kinds(mutation):
    target = mutation.TARGETS[0]
    drawn = mutation.draw(target, 8, seed=0)
    assert [mutant.change for mutant in drawn] == [mutant.change for mutant in mutation.draw(target, 8, seed=0)]
    assert len({mutant.operator for mutant in drawn}) == 8


def test_targets_exist_and_are_many_enough(mutation):
    for target in mutation.TARGETS:
        assert (ROOT / target.module).is_file()
        for test in target.tests:
            assert (ROOT / "tests" / f"{test}.py").is_file()
    assert sum(target.count for target in mutation.TARGETS) >= 100
