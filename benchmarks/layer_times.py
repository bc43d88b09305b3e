"""Both ways to time layers against each other: the runtime's profiler, and each operator alone.

python benchmarks/layer_times.py FILE.tflite... [--rounds N] [--seconds S] [--threads N]

The two take turns, `--rounds` times, S seconds each; a layer's time is the median over the rounds of its medians, which
another process disturbs less than the means in the tables. Exit status 1 where fewer than 90 % of the layers above 20
us are within 15 %, or the median ratio is not within 5 %.
"""

import argparse
import statistics
import sys

from keras_nin.benchmark import measure_file
from keras_nin.benchmark.records import PROFILER
from keras_nin.formatting import format_table
from keras_nin.report import latency

LEAST_US = 20.0
NEAR, LEAST_NEAR, MEDIAN = 0.15, 0.9, 0.05
_CUT_OFF_US = 0.5  # what the profiler's clock takes off a median
COLUMNS = ("layer", "operator", "profiler us", "alone us", "ratio")


def main():
    """Print the comparison of every file, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    passed = [compare(file, options) for file in options.files]
    return 0 if all(passed) else 1


def compare(file, options):
    """Print the comparison for one file; return whether it passes."""
    taken = {"profiler": [], "single": []}
    for _ in range(options.rounds):
        for method, profiles in taken.items():
            profiles.append(measure_file(file, options.threads, seconds=options.seconds, method=method))
    profiled, alone = (times(profiles) for profiles in taken.values())
    operators = {row.name: row.op for row in taken["single"][0].layers}
    ratios = {name: alone[name] / us for name, us in profiled.items() if us >= LEAST_US and name in alone}
    first = taken["profiler"][0]
    print(latency.latency_headline(first), f"(first of {options.rounds} rounds)")
    if not ratios:
        print(f"no layer takes {LEAST_US:.0f} us\n")
        return True
    near = sum(abs(ratio - 1) <= NEAR for ratio in ratios.values()) / len(ratios)
    middle = statistics.median(ratios.values())
    print(f"{len(ratios)} layers above {LEAST_US:.0f} us: {near:.0%} within {NEAR:.0%}, median ratio {middle:.3f}")
    rows = [
        [name, operators[name], f"{profiled[name]:.1f}", f"{alone[name]:.1f}", f"{ratio:.2f}"]
        for name, ratio in ratios.items()
        if abs(ratio - 1) > NEAR
    ]
    print(format_table(COLUMNS, rows, right=COLUMNS[2:]) if rows else "no exceptions", end="\n\n")
    return near >= LEAST_NEAR and abs(middle - 1) <= MEDIAN


def times(profiles):
    """Return the median over profiles of each layer's time by name, with what the runtime put in for it."""
    found = {}
    for each in profiles:
        names = {row.name for row in each.layers if row.operators}
        sums = {}
        for row in each.layers:
            if row.us is not None:
                name = owner(row, names)
                sums[name] = sums.get(name, 0) + row.us.median + (_CUT_OFF_US if each.method == PROFILER else 0)
        for name, us in sums.items():
            found.setdefault(name, []).append(us)
    return {name: statistics.median(values) for name, values in found.items()}


def owner(row, names):
    """Return the name of the layer that a row belongs to: "dense" of "dense (Static Reshape)"."""
    name = row.name
    while not row.operators and name not in names and " (" in name:
        name = name[: name.rindex(" (")]
    return name


if __name__ == "__main__":
    sys.exit(main())
