"""The Edge TPU's verdicts against what the real compiler made of others' files.

python benchmarks/edgetpu_verdicts.py FOLDER [FILE.tflite...]

FOLDER holds .tflite files and truth.json (see docs/edgetpu.md). Each figure is given twice: with all rules, and with
those left out that only files of the same repository taught. Further files, of no known result, get a verdict each.
"""

import dataclasses
import pathlib
import sys
from collections import Counter, defaultdict

from keras_nin import files
from keras_nin.edge.edgetpu import Status, check_edgetpu, compiler
from keras_nin.edge.edgetpu.rules import REPEATS, RULES, Origin
from keras_nin.formatting import format_markdown_table
from keras_nin.report.edge import format_edgetpu_overview


@dataclasses.dataclass
class Score:
    """How many models, operators, statuses and numbers of mapped parts were predicted, of how many."""

    models: int = 0
    right_models: int = 0
    operators: int = 0
    right_operators: int = 0
    logs: int = 0
    right_logs: int = 0
    statuses: int = 0
    right_statuses: int = 0
    subgraphs: int = 0
    right_subgraphs: int = 0

    def __add__(self, other):
        return Score(*(sum(pair) for pair in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def cells(self):
        """Return "right/all" of each."""
        pairs = iter(dataclasses.astuple(self))
        return [f"{right}/{every}" for every, right in zip(pairs, pairs, strict=True)]


COLUMNS = ("models", "operators", "logs", "statuses", "mapped parts")


@dataclasses.dataclass(frozen=True)
class Truth:
    """What the compiler made of a file: operators left on the CPU, its tables, the number of mapped parts if known."""

    file: str
    repository: str
    on_cpu: Counter
    logs: tuple
    subgraphs: int | None
    several: bool


def read(folder):
    """Return the `Truth` of each file of a folder."""
    found = []
    for entry in files.read_json(pathlib.Path(folder) / "truth.json"):
        logs = tuple(plain_rows(log["rows"]) for log in entry.get("compiler_logs", ()))
        subgraphs = entry.get("edgetpu_subgraphs")
        left = entry.get("cpu_ops_after_compile")
        on_cpu = count_cpu_rows(logs[0]) if left is None else Counter(left)
        # Without a count the log tells: with one part alone, what comes after the cut has a status of its own.
        several = allows_multiple_subgraphs(logs[0]) if subgraphs is None else subgraphs > 1
        found.append(Truth(entry["file"], entry["repository"], on_cpu, logs, subgraphs, several))
    return found


def plain_rows(rows):
    """Return a log's rows without the remark that the collection of logs put before `Status.BATCH`."""
    return [(op, count, status.removeprefix("(second line of a longer reason) ")) for op, count, status in rows]


def count_cpu_rows(rows):
    """Return the number of operators of each type that a log's rows leave on the CPU."""
    on_cpu = Counter()
    for op, count, status in rows:
        if status != Status.MAPPED:
            on_cpu[op] += count
    return on_cpu


def allows_multiple_subgraphs(rows):
    """Return whether a log is of a run that allowed several subgraphs: no operator came after the cut."""
    return all(status != Status.SECOND_SUBGRAPH for _, _, status in rows)


def count_matching(predicted, found, operators):
    """Return how many of `operators`, counted by type, two counts of those on the CPU agree on."""
    return sum(count - abs(predicted[op] - found[op]) for op, count in operators.items())


def score(truth, verdict):
    """Return the `Score` of one verdict and its disagreements as lines."""
    every, predicted = Counter(each.op for each in verdict.operators), verdict.count_cpu_operators()
    result = Score(1, int(predicted == truth.on_cpu), every.total())
    result.right_operators = count_matching(predicted, truth.on_cpu, every)
    lines = [
        f"{truth.file} {truth.repository}: {predicted[op]} {op} on the CPU predicted, {truth.on_cpu[op]} found"
        for op in sorted(predicted | truth.on_cpu)
        if predicted[op] != truth.on_cpu[op]
    ]
    for rows in truth.logs:
        wrong = compiler.compare_with_compiler(verdict, rows)
        table = compiler.count_rows(rows)
        result += Score(logs=1, right_logs=int(not wrong), statuses=len(table))
        result.right_statuses += sum(table[key] == verdict.count_rows()[key] for key in table)
        lines += [
            f"{truth.file} {truth.repository}: {each.op} {each.status!r}, {each.predicted} not {each.compiled}"
            for each in wrong
        ]
    if truth.subgraphs is not None:
        result += Score(subgraphs=1, right_subgraphs=int(verdict.subgraphs == truth.subgraphs))
    return result, lines


def evaluate(folder, truths, leave_out):
    """Return (`Score` by repository, disagreements, verdicts); `leave_out` forgets what the repository alone taught."""
    by_repository, lines, verdicts = defaultdict(Score), [], []
    for truth in truths:
        without = truth.repository if leave_out else None
        verdict = check_edgetpu(pathlib.Path(folder) / truth.file, multiple_subgraphs=truth.several, without=without)
        result, wrong = score(truth, verdict)
        by_repository[truth.repository] += result
        lines += wrong
        verdicts.append(verdict)
    return by_repository, lines, verdicts


def baseline(truths, verdicts):
    """Return the `Score` of "everything maps"."""
    total = Score()
    for truth, verdict in zip(truths, verdicts, strict=True):
        every = Counter(each.op for each in verdict.operators)
        right = count_matching(Counter(), truth.on_cpu, every)
        total += Score(1, int(not truth.on_cpu), every.total(), right)
    return total


def rules_table(truths, verdicts):
    """Return a table of the rules: how often each decided here, in how many files and repositories."""
    decided, seen = Counter(), defaultdict(set)
    for truth, verdict in zip(truths, verdicts, strict=True):
        for each in verdict.operators:
            decided[each.rule] += 1
            seen[each.rule].add((truth.repository, truth.file))
    rows = []
    named = [(rule.name, rule.source) for rule in RULES] + [("repeated", REPEATS)]
    for name, source in named:
        repositories = {repository for repository, _ in seen[name]}
        state = "refuted by " + ", ".join(source.refuted_by) if source.refuted_by else ""
        state = state or ("" if decided[name] else "nothing here can confirm it")
        rows.append([name, source.kind, str(decided[name]), str(len(seen[name])), str(len(repositories)), state])
    return format_markdown_table(
        ("rule", "from", "operators", "files", "repositories", ""), rows, right=("operators", "files", "repositories")
    )


def held_out_table(judged):
    """Return a table of the operators whose number on the CPU differs, by repository.

    Args:
        judged: pairs of `Truth` and `Verdict`.
    """
    predicted, found, seen = Counter(), Counter(), defaultdict(set)
    for truth, verdict in judged:
        on_cpu = verdict.count_cpu_operators()
        for op in on_cpu | truth.on_cpu:
            if on_cpu[op] != truth.on_cpu[op]:
                key = truth.repository, op
                predicted[key] += on_cpu[op]
                found[key] += truth.on_cpu[op]
                seen[key].add(truth.file)
    rows = [[*key, str(len(seen[key])), str(predicted[key]), str(found[key])] for key in sorted(seen)]
    columns = ("repository", "operator", "files", "on the CPU: predicted", "found")
    return format_markdown_table(columns, rows, right=columns[2:])


def main(folder, *others):
    """Print all of it."""
    truths = read(folder)
    by_repository, lines, verdicts = evaluate(folder, truths, leave_out=False)
    held_out, _, blind = evaluate(folder, truths, leave_out=True)
    held_out_wrong = list(zip(truths, blind, strict=True))
    total, held_out_total = sum(by_repository.values(), Score()), sum(held_out.values(), Score())
    everything = baseline(truths, verdicts)
    columns = ("", *COLUMNS)
    rows = [
        ["all rules", *total.cells()],
        ["each repository left out", *held_out_total.cells()],
        ["everything maps", *everything.cells()[:2], "", "", ""],
    ]
    print(format_markdown_table(columns, rows, right=COLUMNS))
    print("\nBy repository, all rules; then with what its files alone taught left out:\n")
    both = ("repository", *COLUMNS, "models (left out)", "operators (left out)", "logs (left out)")
    rows = [[name, *by_repository[name].cells(), *held_out[name].cells()[:3]] for name in sorted(by_repository)]
    print(format_markdown_table(both, rows, right=both[1:]))
    print("\nRules, in the order in which they are asked:\n")
    print(rules_table(truths, verdicts))
    learned = sum(rule.source.kind is Origin.DATA for rule in RULES) + 1
    print(f"\n{learned} of {len(RULES) + 1} rules are learned from data.")
    print(f"\nDisagreements, all rules: {len(lines)}\n")
    print("\n".join(f"- {line}" for line in lines) or "None.")
    print("\nOperators judged otherwise where what a repository's files alone taught is left out:\n")
    print(held_out_table(held_out_wrong))
    if others:
        print("\nFiles without a known result:\n")
        judged = [dataclasses.replace(check_edgetpu(path), model=pathlib.Path(path).name) for path in others]
        print(format_edgetpu_overview(judged))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
