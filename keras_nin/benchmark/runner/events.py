"""From the profiler's events to the time of every kernel."""

import collections

import numpy as np

INVOKE = "Invoke"
_DEFAULT, _OPERATOR, _DELEGATE_KERNEL = 1, 2, 8
KINDS = {_OPERATOR: "operator", _DELEGATE_KERNEL: "delegate"}


def runs_of(events, names):
    """Return the runs in what `CompiledModel.profile` returned.

    Returns:
        List of (us of the whole run, kernels, us of each): a kernel is (kind, name, index), in order of execution.
        `kind` is "operator" for an operator that TensorFlow Lite itself runs, whose index is that in the file's main
        subgraph, and "delegate" for a kernel of the delegate, whose index counts from 0 in each partition.
    """
    runs = []
    for event in events.tolist():
        tag, kind, _, elapsed, _, _, index, _, _ = event
        if kind == _DEFAULT and names[tag] == INVOKE:
            runs.append((elapsed, [], []))
        elif kind in KINDS and runs:
            runs[-1][1].append((KINDS[kind], names[tag], index))
            runs[-1][2].append(elapsed)
    return runs


def summary(runs):
    """Return the statistics over `runs` (as `runs_of` returns them) as a JSON-ready dictionary; None without runs.

    Durations are whole microseconds, cut off. `typical` is the mean over the half of the runs whose whole duration is
    nearest the median: it has the resolution that a median of whole numbers lacks, and outliers do not move it. Runs
    that executed other kernels than most did are left out, and `other_runs` counts them.
    """
    if not runs:
        return None
    kernels, _ = collections.Counter(tuple(kernels) for _, kernels, _ in runs).most_common(1)[0]
    kept = [(whole, us) for whole, executed, us in runs if tuple(executed) == kernels]
    whole = np.array([each for each, _ in kept], float)
    us = np.array([each for _, each in kept], float).reshape(len(kept), len(kernels))
    low, high = np.percentile(whole, [25, 75])
    typical = (low <= whole) & (whole <= high)
    return {
        "runs": len(kept),
        "other_runs": len(runs) - len(kept),
        "invoke_us": _statistics(whole, typical),
        "kernels": [
            {"kind": kind, "name": name, "index": index, "us": _statistics(us[:, at], typical)}
            for at, (kind, name, index) in enumerate(kernels)
        ],
    }


def _statistics(us, typical):
    return {
        "median": float(np.median(us)),
        "mean": float(us.mean()),
        "p90": float(np.percentile(us, 90)),
        "typical": float(us[typical].mean()),
    }
