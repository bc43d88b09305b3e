"""The Edge TPU's verdicts, scored on third-party files of which the compiler's result is known.

python benchmarks/edgetpu_verdicts.py [--collect] FOLDER...

Each FOLDER holds .tflite files and truth.json (see docs/concepts/edgetpu_evidence.md). The figure to quote is "each
author left out": every bound and every rule is fitted without the files of the author whose files are scored.
--collect writes what the files show to keras_nin/edge/edgetpu/evidence.json instead, from the files whose result the
verdict explains operator by operator.
"""

import dataclasses
import functools
import json
import pathlib
import sys
from collections import Counter, defaultdict

from keras_nin import files
from keras_nin.edge.edgetpu import Status, check_edgetpu, compiler, evidence
from keras_nin.edge.edgetpu.operators import bind_operators
from keras_nin.edge.edgetpu.rules import LARGE_MAP, REPEATED, RULES
from keras_nin.formatting import format_markdown_table, format_percent
from keras_nin.tflite.reader import read_model

EVIDENCE = pathlib.Path(evidence.__file__).with_name("evidence.json")
ELSEWHERE = "elsewhere"  # observations of further files, in rules.toml
COLUMNS = ("models", "operators", "tables", "rows of tables", "mapped subgraphs")


@dataclasses.dataclass
class Score:
    """How many models, operators, tables, their rows and numbers of subgraphs were predicted, of how many."""

    models: int = 0
    right_models: int = 0
    operators: int = 0
    right_operators: int = 0
    tables: int = 0
    right_tables: int = 0
    rows: int = 0
    right_rows: int = 0
    subgraphs: int = 0
    right_subgraphs: int = 0

    def __add__(self, other):
        return Score(*(sum(pair) for pair in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def cells(self):
        """Return "right/all" of each."""
        pairs = iter(dataclasses.astuple(self))
        return [f"{right}/{every}" for every, right in zip(pairs, pairs, strict=True)]


@dataclasses.dataclass(frozen=True)
class Truth:
    """What the compiler made of a file: operators left on the CPU, its tables, the number of subgraphs if known."""

    path: pathlib.Path
    repository: str
    on_cpu: Counter
    tables: tuple
    subgraphs: int | None
    several: bool

    @property
    def author(self):
        """The owner of the repository."""
        return self.repository.partition("/")[0]

    def predict(self, *without):
        """Return the verdict without what some authors or repositories show."""
        return check_edgetpu(self.path, multiple_subgraphs=self.several, without=without)

    @functools.cached_property
    def explained(self):
        """The verdict by all evidence, where it is the compiler's in every count and row; else None."""
        verdict = self.predict()
        return None if score(self, verdict)[1] else verdict


def read(*folders):
    """Return the `Truth` of each file of some folders."""
    found = []
    for folder in map(pathlib.Path, folders):
        for entry in files.read_json(folder / "truth.json"):
            tables = tuple(plain_rows(log["rows"]) for log in entry.get("compiler_logs", ()))
            subgraphs = entry.get("edgetpu_subgraphs")
            left = entry.get("cpu_ops_after_compile")
            on_cpu = count_cpu_rows(tables[0]) if left is None else Counter(left)
            # Without a count the table tells: with one subgraph alone, what comes after the cut has its own status.
            several = allows_multiple_subgraphs(tables[0]) if subgraphs is None else subgraphs > 1
            found.append(Truth(folder / entry["file"], entry["repository"], on_cpu, tables, subgraphs, several))
    return found


def plain_rows(rows):
    """Return a table's rows without the remark that the collection of logs put before `Status.BATCH`."""
    return [(op, count, status.removeprefix("(second line of a longer reason) ")) for op, count, status in rows]


def count_cpu_rows(rows):
    """Return the number of operators of each type that a table's rows leave on the CPU."""
    on_cpu = Counter()
    for op, count, status in rows:
        if status != Status.MAPPED:
            on_cpu[op] += count
    return on_cpu


def allows_multiple_subgraphs(rows):
    """Return whether a table is of a run that allowed several subgraphs: no operator came after the cut."""
    return all(status != Status.SECOND_SUBGRAPH for _, _, status in rows)


def score(truth, verdict):
    """Return the `Score` of one verdict and its disagreements as lines."""
    every, predicted = Counter(each.op for each in verdict.operators), verdict.count_cpu_operators()
    wrong = {op: abs(predicted[op] - truth.on_cpu[op]) for op in every}
    result = Score(1, int(predicted == truth.on_cpu), every.total(), every.total() - sum(wrong.values()))
    name = f"{truth.path.name} {truth.repository}"
    lines = [
        f"{name}: {predicted[op]} {op} on the CPU predicted, {truth.on_cpu[op]} found" for op in wrong if wrong[op]
    ]
    for rows in truth.tables:
        differences = compiler.compare_with_compiler(verdict, rows)
        table = compiler.count_rows(rows)
        result += Score(tables=1, right_tables=int(not differences), rows=len(table))
        result.right_rows += sum(table[key] == verdict.count_rows()[key] for key in table)
        lines += [f"{name}: {each.op} {each.status!r}, {each.predicted} not {each.compiled}" for each in differences]
    if truth.subgraphs is not None:
        result += Score(subgraphs=1, right_subgraphs=int(verdict.subgraphs == truth.subgraphs))
    return result, lines


def evaluate(truths, without=lambda truth: ()):
    """Return (`Score` by author, disagreements, verdicts), without what `without` names for each file."""
    by_author, lines, verdicts = defaultdict(Score), [], []
    for truth in truths:
        verdict = truth.predict(*without(truth))
        result, wrong = score(truth, verdict)
        by_author[truth.author] += result
        lines += wrong
        verdicts.append(verdict)
    return by_author, lines, verdicts


def total(by_author):
    """Return the sum of scores."""
    return sum(by_author.values(), Score())


def baseline(truths, verdicts):
    """Return the `Score` of "everything maps"."""
    result = Score()
    for truth, verdict in zip(truths, verdicts, strict=True):
        result += Score(1, int(not truth.on_cpu), len(verdict.operators), len(verdict.operators) - truth.on_cpu.total())
    return result


def find_wrong(truth, verdict):
    """Return the indexes of operators that a verdict places wrongly.

    Where the counts alone are known and not which operators they are, the certain ones are taken to be wrong first.
    """
    if truth.explained:
        pairs = zip(verdict.operators, truth.explained.operators, strict=True)
        return {one.index for one, other in pairs if (one.mapped, one.dropped) != (other.mapped, other.dropped)}
    wrong, predicted = set(), verdict.count_cpu_operators()
    for op in {operator.op for operator in verdict.operators}:
        excess = predicted[op] - truth.on_cpu[op]
        suspects = [each for each in verdict.operators if each.op == op and each.on_cpu == (excess > 0)]
        wrong |= {each.index for each in sorted(suspects, key=lambda each: not each.is_certain)[: abs(excess)]}
    return wrong


def calibration_table(pairs):
    """Return how many operators of each confidence are placed rightly; `pairs`: pairs of `Truth` and verdict."""
    counts, right = Counter(), Counter()
    for truth, verdict in pairs:
        wrong = find_wrong(truth, verdict)
        for operator in verdict.operators:
            counts[operator.confidence] += 1
            right[operator.confidence] += operator.index not in wrong
    rows = [
        [name, str(counts[name]), str(right[name]), format_percent(right[name] / counts[name], 2)] for name in counts
    ]
    columns = ("confidence", "operators", "right", "share")
    return format_markdown_table(columns, sorted(rows, key=lambda row: -int(row[1])), right=columns[1:])


def operator_table(pairs):
    """Return how many operators of each type are placed rightly, the types with mistakes first."""
    counts, wrong = Counter(), Counter()
    for truth, verdict in pairs:
        mistakes = find_wrong(truth, verdict)
        for operator in verdict.operators:
            counts[operator.op] += 1
            wrong[operator.op] += operator.index in mistakes
    rows = [
        [op, str(counts[op]), str(wrong[op]), format_percent(1 - wrong[op] / counts[op])]
        for op in sorted(counts, key=lambda op: (-wrong[op], op))
    ]
    columns = ("operator", "count", "wrong", "right")
    return format_markdown_table(columns, rows, right=columns[1:])


def mistakes_table(pairs):
    """Return the operators whose number on the CPU differs, by author."""
    predicted, found, seen = Counter(), Counter(), defaultdict(set)
    for truth, verdict in pairs:
        on_cpu = verdict.count_cpu_operators()
        for op in on_cpu | truth.on_cpu:
            if on_cpu[op] != truth.on_cpu[op]:
                key = truth.author, op
                predicted[key] += on_cpu[op]
                found[key] += truth.on_cpu[op]
                seen[key].add(truth.path)
    rows = [[*key, str(len(seen[key])), str(predicted[key]), str(found[key])] for key in sorted(seen)]
    columns = ("author", "operator", "files", "on the CPU: predicted", "found")
    return format_markdown_table(columns, rows, right=columns[2:])


# What the files show


def collect(truths):
    """Return what the files show by repository, as entries of evidence.json."""
    entries = {}
    for truth in sorted(truths, key=lambda truth: (truth.repository, truth.path.name)):
        if truth.explained:
            entry = entries.setdefault(truth.repository, {"mapped": {}, "bounds": {}, "confirmed": {}, "refuted": {}})
            collect_file(truth, entry)
    return [
        {"author": name.partition("/")[0], "source": name} | {key: dict(sorted(entry[key].items())) for key in entry}
        for name, entry in entries.items()
    ]


def collect_file(truth, entry):
    """Add what one file shows to the entry of its repository.

    Where there is a table, an operator that comes after the cut passed the rules, and one that has a status of its own
    broke one. Without a table, what comes after the cut shows nothing.
    """
    seen = {"mapped": set(), "confirmed": set(), "refuted": set()}
    on_cpu = set()
    for operator, verdict in zip(bind_operators(read_model(truth.path)), truth.explained.operators, strict=True):
        is_exposed = truth.tables or truth.several or not on_cpu.intersection(operator.record.inputs)
        if verdict.on_cpu:
            on_cpu.update(operator.record.outputs)
        if verdict.mapped:
            seen["mapped"].add(operator.op)
            add_bound(entry["bounds"], LARGE_MAP, operator.largest_map(), refused=False)
        is_accepted = verdict.mapped or (truth.tables and verdict.rule == "one-part")
        if verdict.rule == REPEATED:
            seen["confirmed"].add(REPEATED)
        for rule in RULES:
            is_refused = rule.name == verdict.rule
            if rule.operators and operator.op not in rule.operators or not (is_accepted or (is_refused and is_exposed)):
                continue
            if is_refused:
                seen["confirmed"].add(rule.name)
            if rule.size:
                add_bound(entry["bounds"], rule.name, rule.size(operator), refused=is_refused)
            elif is_accepted and rule.violation(operator):
                seen["refuted"].add(rule.name)
    for counts, names in seen.items():
        for name in names:
            entry[counts][name] = entry[counts].get(name, 0) + 1


def add_bound(bounds, rule, size, *, refused):
    """Widen the bounds of a rule by a size that was accepted or refused."""
    if size:
        accepted, smallest = bounds.get(rule, (0, 0))
        bounds[rule] = [accepted, min(size, smallest or size)] if refused else [max(accepted, size), smallest]


def write_evidence(truths):
    """Write evidence.json; return how many files are explained."""
    entries = collect(truths)
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    files.write_file(EVIDENCE, f"[\n{lines}\n]\n")
    return sum(truth.explained is not None for truth in truths)


def main(*folders):
    """Print all of it."""
    truths = read(*folders)
    authors, repositories = ({getattr(truth, key) for truth in truths} for key in ("author", "repository"))
    everything, lines, verdicts = evaluate(truths)
    left_out, _, blind = evaluate(truths, lambda truth: (truth.author,))
    alone, _, _ = evaluate(truths, lambda truth: (truth.author, ELSEWHERE))
    by_repository, _, _ = evaluate(truths, lambda truth: (truth.repository,))
    pairs = list(zip(truths, blind, strict=True))
    print(f"{len(truths)} files of {len(repositories)} repositories by {len(authors)} authors.\n")
    rows = [
        ["each author left out", *total(left_out).cells()],
        ["... and without what further files are said to show", *total(alone).cells()],
        ["each repository left out", *total(by_repository).cells()],
        ["all evidence (the same files: not an estimate)", *total(everything).cells()],
        ["everything maps", *baseline(truths, verdicts).cells()[:2], "", "", ""],
    ]
    print(format_markdown_table(("", *COLUMNS), rows, right=COLUMNS))
    print("\nEach author left out, by the confidence of the verdict on each operator:\n")
    print(calibration_table(pairs))
    print("\nBy author:\n")
    columns = ("author", *(f"{name}{suffix}" for suffix in (" (left out)", "") for name in COLUMNS[:3]))
    rows = [[name, *left_out[name].cells()[:3], *everything[name].cells()[:3]] for name in sorted(everything)]
    print(format_markdown_table(columns, rows, right=columns[1:]))
    print("\nBy operator, each author left out:\n")
    print(operator_table(pairs))
    print("\nWrong where the author is left out:\n")
    print(mistakes_table(pairs))
    print(f"\nWrong with all evidence: {len(lines)}\n")
    print("\n".join(f"- {line}" for line in lines) or "None.")


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    if sys.argv[1] == "--collect":
        known = read(*sys.argv[2:])
        print(f"{write_evidence(known)} of {len(known)} files explained")
    else:
        main(*sys.argv[1:])
