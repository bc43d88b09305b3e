"""Mutation test: change keras_nin in small ways, and see whether the tests that are to notice do.

    python tools/mutation.py [--module TEXT ...] [--per-module N] [--seed N] [--jobs N] [--list] [--write]

Each mutant is one change of one module's syntax tree (operators below), drawn by seed. It is written into a copy of
the tree, and the test files that `TARGETS` maps to the module run there until the first failure. A mutant that no test
notices survives; `EXPLAINED` says of survivors why that is right. --write stores the result as tools/mutation.md. Exit
status 1 where fewer than 95 % of the mutants are killed.
"""

import argparse
import ast
import collections
import concurrent.futures
import copy
import dataclasses
import multiprocessing
import os
import pathlib
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULT = pathlib.Path(__file__).with_suffix(".md")
LEAST_KILLED = 0.95
_TIMEOUT_FACTOR = 3  # of the time that the tests take without a mutation
_TIMEOUT_SECONDS = 15


@dataclasses.dataclass(frozen=True)
class Target:
    """A module under mutation, the test modules that are to notice, and how many mutants are drawn."""

    subject: str
    module: str
    tests: tuple[str, ...]
    count: int


TARGETS = (
    Target("counting, memory", "keras_nin/audit/arithmetic.py", ("test_audit_arithmetic",), 16),
    Target(
        "classification", "keras_nin/audit/classification.py", ("test_audit_classification", "test_audit_findings"), 10
    ),
    Target(
        "classification",
        "keras_nin/audit/graph.py",
        ("test_audit_classification", "test_audit_arithmetic", "test_audit_findings"),
        6,
    ),
    Target("tolerances", "keras_nin/export/parity.py", ("test_export_verification",), 18),
    Target("kernel to layer", "keras_nin/benchmark/kernel_assignment.py", ("test_benchmark_kernel_assignment",), 12),
    Target("kernel to layer", "keras_nin/benchmark/layer_times.py", ("test_benchmark_layer_times",), 6),
    Target("statistics", "keras_nin/benchmark/runner/timing.py", ("test_benchmark_timing",), 12),
    Target("statistics", "keras_nin/metrics.py", ("test_metrics",), 6),
    Target("verdict rules", "keras_nin/edge/edgetpu/rules.py", ("test_edgetpu_rules", "test_edgetpu_verdict"), 12),
    Target("verdict rules", "keras_nin/edge/edgetpu/operators.py", ("test_edgetpu_rules",), 8),
    Target("arena search", "keras_nin/edge/micro/measurement.py", ("test_micro_measurement",), 8),
    Target("quantization", "keras_nin/tflite/quantization.py", ("test_tflite_quantization",), 8),
    Target("quantization", "keras_nin/export/tuning.py", ("test_export_tuning",), 10),
    Target("limits", "keras_nin/limits.py", ("test_limits",), 8),
)
# Survivors that no test can or should kill: by "module: change", why.
EXPLAINED = {
    "keras_nin/edge/micro/measurement.py: 300.0 -> 601.0": "a time limit that no test waits for",
    "keras_nin/export/tuning.py: elements + size > _MAX_MOMENT_ELEMENTS -> elements + size >= _MAX_MOMENT_ELEMENTS": (
        "how many operators are measured at a time changes no result"
    ),
    "keras_nin/export/tuning.py: histogram.maximum > 0 -> histogram.maximum >= 0": "any share of 0 is 0",
    "keras_nin/tflite/quantization.py: 40 -> 41": "any power beyond every integer dtype gives the same",
}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of a module; `number` is its position among all of that module."""

    target: Target
    number: int
    line: int
    operator: str
    before: str
    after: str

    @property
    def change(self) -> str:
        """The change in words that stay the same while other lines move."""
        return f"{self.target.module}: {self.before} -> {self.after}"

    @property
    def source(self) -> str:
        """The module with the change."""
        tree, changes = _changes(self.target)
        *place, _, _, replacement = changes[self.number]
        _put(*place, replacement)
        return ast.unparse(ast.fix_missing_locations(tree))


# Mutation operators: each yields (name, replacement) for a node that it applies to.

_COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}  # fmt: skip


def _comparison(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        changed = copy.deepcopy(node)
        changed.ops[0] = _COMPARISONS[type(node.ops[0])]()
        yield changed


def _arithmetic(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _ARITHMETIC:
        changed = copy.deepcopy(node)
        changed.op = _ARITHMETIC[type(node.op)]()
        yield changed
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield copy.deepcopy(node.operand)


def _constant(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int):
            yield ast.Constant(node.value + 1)
        elif isinstance(node.value, float):
            yield ast.Constant(2 * node.value + 1)


def _boolean(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.BoolOp):
        changed = copy.deepcopy(node)
        changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield changed
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield copy.deepcopy(node.operand)


def _condition(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        changed = copy.deepcopy(node)
        changed.test = ast.UnaryOp(ast.Not(), changed.test)
        yield changed


def _returned(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield ast.Return(ast.Constant(None))


def _dropped_statement(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.AugAssign | ast.Continue | ast.Break | ast.Raise) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield ast.Pass()


def _dropped_member(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Set | ast.Tuple | ast.List) and _is_table(node):
        for position in range(len(node.elts)):
            changed = copy.deepcopy(node)
            del changed.elts[position]
            yield changed
    if isinstance(node, ast.Dict) and len(node.keys) > 1:
        for position in range(len(node.keys)):
            changed = copy.deepcopy(node)
            del changed.keys[position], changed.values[position]
            yield changed


def _is_table(node: ast.Set | ast.Tuple | ast.List) -> bool:
    """Whether a display holds several plain names or constants, and is not assigned to."""
    is_read = isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
    return (
        is_read
        and len(node.elts) > 1
        and all(isinstance(element, ast.Constant | ast.Name | ast.Attribute) for element in node.elts)
    )


OPERATORS: dict[str, Callable[[ast.AST], Iterator[ast.AST]]] = {
    "comparison": _comparison,
    "arithmetic": _arithmetic,
    "constant": _constant,
    "boolean": _boolean,
    "condition": _condition,
    "return": _returned,
    "dropped statement": _dropped_statement,
    "dropped member": _dropped_member,
}


_SKIPPED_FIELDS = frozenset({"annotation", "returns", "decorator_list", "bases", "type_params"})


def _spots(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Yield (parent, field, position in a list) of all that may be changed: not texts, types, errors' content."""
    if isinstance(node, ast.JoinedStr | ast.Raise):
        return
    for field, value in ast.iter_fields(node):
        if field in _SKIPPED_FIELDS:
            continue
        for position, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST) and not _is_type_checking(child):
                yield node, field, position if isinstance(value, list) else None
                yield from _spots(child)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _changes(target: Target) -> tuple[ast.Module, list[tuple[ast.AST, str, int | None, str, ast.AST, ast.AST]]]:
    """Return a module and its changes: parent, field, position in it, operator, node, and what takes its place."""
    tree = ast.parse((ROOT / target.module).read_text())
    changes = []
    for parent, field, position in list(_spots(tree)):
        holder = getattr(parent, field)
        node = holder if position is None else holder[position]
        for operator, change in OPERATORS.items():
            for replacement in change(node):
                changes.append((parent, field, position, operator, node, ast.copy_location(replacement, node)))
    return tree, changes


def mutants(target: Target) -> list[Mutant]:
    """Return all mutants of a module."""
    found = []
    for number, (*_, operator, node, replacement) in enumerate(_changes(target)[1]):
        before, after = _first_line(node), _first_line(replacement)
        if operator == "condition" and isinstance(node, ast.If | ast.IfExp | ast.While):
            before, after = f"if {ast.unparse(node.test)}", f"if not ({ast.unparse(node.test)})"
        found.append(Mutant(target, number, getattr(node, "lineno", 0), operator, before, after))
    return found


def _put(parent: ast.AST, field: str, position: int | None, node: ast.AST) -> None:
    if position is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[position] = node


def _first_line(node: ast.AST) -> str:
    line = ast.unparse(ast.fix_missing_locations(node)).splitlines()[0]
    return line if len(line) <= 100 else f"{line[:97]}..."


def draw(target: Target, count: int, seed: int) -> list[Mutant]:
    """Return `count` mutants of a module, as many kinds of change as there are, at most one a line and kind."""
    rng = random.Random(f"{seed} {target.module}")
    by_operator: dict[str, list[Mutant]] = collections.defaultdict(list)
    for mutant in mutants(target):
        by_operator[mutant.operator].append(mutant)
    for kind in by_operator.values():
        rng.shuffle(kind)
    drawn: list[Mutant] = []
    lines = set()
    while len(drawn) < count and any(by_operator.values()):
        for operator in OPERATORS:
            if by_operator[operator] and len(drawn) < count:
                mutant = by_operator[operator].pop()
                if (mutant.line, operator) not in lines:
                    lines.add((mutant.line, operator))
                    drawn.append(mutant)
    return drawn


class Tree:
    """A copy of the repository in which mutants are tried, one at a time, in processes forked from this one.

    The frameworks are imported before the fork, so that each mutant costs its tests and not their start.
    """

    def __init__(self, folder: str) -> None:
        self.root = pathlib.Path(folder, "tree")
        ignored = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "exported", "runs", "build", "*.egg-info")
        shutil.copytree(ROOT, self.root, ignore=ignored)
        self._clock = time.time()

    def run(self, tests: tuple[str, ...], timeout: float, module: str = "", source: str = "") -> tuple[str, float]:
        """Return what the tests say, "passed", "failed" or "timeout", and how long they took."""
        path = self.root / module if module else None
        original = path.read_text() if path else ""
        if path:
            self._write(path, source)
        start = time.monotonic()
        try:
            process = os.fork()
            if not process:
                self._run_tests(tests)
            status = _wait(process, start + timeout)
        finally:
            if path:
                self._write(path, original)
        outcome = "timeout" if status is None else "passed" if status == 0 else "failed"
        return outcome, time.monotonic() - start

    def _write(self, path: pathlib.Path, text: str) -> None:
        path.write_text(text)
        self._clock += 2  # so that no compiled file of another mutant counts as that of this one
        os.utime(path, (self._clock, self._clock))

    def _run_tests(self, tests: tuple[str, ...]) -> None:
        os.setsid()
        os.chdir(self.root)
        os.environ["PYTHONPATH"] = str(self.root)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
        sys.path[:] = [str(self.root), *(entry for entry in sys.path if pathlib.Path(entry or ".").resolve() != ROOT)]
        log = os.open(self.root.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        status = 3
        try:
            import pytest

            paths = [f"tests/{test}.py" for test in tests]
            status = int(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *paths]))
        finally:
            os._exit(status)


def _wait(process: int, end: float) -> int | None:
    """Return the exit status of a forked process; None where it had to be killed at `end`."""
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def survey(target: Target, count: int, seed: int) -> list[tuple[Mutant, str]]:
    """Try mutants of one module; return each with what the tests said."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(folder)
        outcome, seconds = tree.run(target.tests, 900)
        if outcome != "passed":
            log = (tree.root.parent / "log").read_text()[-3000:]
            raise RuntimeError(f"The tests of {target.module} fail without a mutation:\n{log}")
        for mutant in draw(target, count, seed):
            timeout = _TIMEOUT_SECONDS + _TIMEOUT_FACTOR * seconds
            outcome, taken = tree.run(target.tests, timeout, target.module, mutant.source)
            results.append((mutant, outcome))
            word = "SURVIVED" if outcome == "passed" else "killed"
            where = f"{target.module}:{mutant.line}"
            print(f"{word:8} {taken:5.1f} s  {where}  {mutant.before} -> {mutant.after}", flush=True)
    return results


def report(results: list[tuple[Mutant, str]], seed: int) -> str:
    """Return the result as Markdown."""
    killed = sum(outcome != "passed" for _, outcome in results)
    lines = [
        "# Mutation run",
        "",
        f"`python tools/mutation.py --seed {seed} --write`, Python {platform.python_version()}: "
        f"{len(results)} mutants, {killed} killed ({killed / max(len(results), 1):.1%}).",
        "",
        "| subject | module | tests | mutants | killed |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for target in dict.fromkeys(mutant.target for mutant, _ in results):
        outcomes = [outcome for mutant, outcome in results if mutant.target == target]
        tests = ", ".join(target.tests)
        count = sum(outcome != "passed" for outcome in outcomes)
        lines.append(f"| {target.subject} | `{target.module}` | {tests} | {len(outcomes)} | {count} |")
    kinds = collections.Counter(mutant.operator for mutant, _ in results)
    lines += ["", "Changes: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) + "."]
    lines += ["", "## Survivors", ""]
    survivors = [mutant for mutant, outcome in results if outcome == "passed"]
    for mutant in survivors:
        why = EXPLAINED.get(mutant.change, "not explained")
        lines.append(f"- `{mutant.target.module}:{mutant.line}`: `{mutant.before}` -> `{mutant.after}`: {why}")
    return "\n".join([*lines, *([] if survivors else ["None."]), ""])


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", action="append", help="only modules with this in their path")
    parser.add_argument("--per-module", type=int, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="modules that are tried at a time")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--write", action="store_true", help=f"store the result as {RESULT.name}")
    options = parser.parse_args()
    words = options.module or [""]
    targets = [target for target in TARGETS if any(word in target.module for word in words)]
    if options.list:
        for target in targets:
            for mutant in draw(target, options.per_module or target.count, options.seed):
                print(f"{target.module}:{mutant.line}  {mutant.operator}: {mutant.before} -> {mutant.after}")
        return 0
    sys.path.insert(0, str(ROOT / "tests"))
    import keras  # noqa: F401 - so that forked processes have it
    import pytest  # noqa: F401
    import tensorflow  # noqa: F401

    with concurrent.futures.ProcessPoolExecutor(options.jobs, multiprocessing.get_context("fork")) as pool:
        surveys = [pool.submit(survey, target, options.per_module or target.count, options.seed) for target in targets]
        results = [result for finished in surveys for result in finished.result()]
    text = report(results, options.seed)
    print(f"\n{text}")
    if options.write:
        RESULT.write_text(text)
    killed = sum(outcome != "passed" for _, outcome in results)
    return 0 if killed >= LEAST_KILLED * len(results) else 1


if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
