"""From the profiler's events to the time of every kernel."""

import collections
import dataclasses

import numpy as np

INVOKE = "Invoke"
_DEFAULT, _OPERATOR, _DELEGATE_KERNEL = 1, 2, 8
_FAR_OUT = 3  # Tukey's: so many interquartile ranges from the quartiles
_RESOLUTION_US = 1
KINDS = {_OPERATOR: "operator", _DELEGATE_KERNEL: "delegate"}


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs that executed the same kernels, as (kind, name, index) in order of execution.

    `kind` is "operator" for an operator that TensorFlow Lite itself runs, whose index is that in the file's main
    subgraph, and "delegate" for a kernel of the delegate, whose index counts from 0 in each partition.

    Attributes:
        kernels: tuple of them.
        whole: us of each run, array of shape (runs,).
        us: of each kernel, array of shape (runs, kernels).
    """

    kernels: tuple[tuple[str, str, int], ...]
    whole: np.ndarray
    us: np.ndarray


def runs_of(events, names):
    """Return a list of `Runs`, one of each sequence of kernels, in what `CompiledModel.profile` returned."""
    tags, types = events["tag"], events["type"]
    invokes = (types == _DEFAULT) & np.isin(tags, [tag for tag, name in names.items() if name == INVOKE])
    run = np.cumsum(invokes) - 1
    chosen = np.isin(types, list(KINDS)) & (run >= 0)
    run, us, whole = run[chosen], events["elapsed_us"][chosen].astype(np.float64), events["elapsed_us"][invokes]
    codes, kernels = _codes(events[chosen], names)
    counts = np.bincount(run, minlength=len(whole))
    found = []
    for count in np.unique(counts):
        members = np.flatnonzero(counts == count)
        rows = np.flatnonzero(np.isin(run, members)).reshape(len(members), count)
        for sequence in np.unique(codes[rows], axis=0):
            same = (codes[rows] == sequence).all(axis=1)
            executed = tuple(kernels[code] for code in sequence)
            found.append(Runs(executed, whole[members[same]].astype(np.float64), us[rows[same]]))
    return found


def _codes(events, names):
    """Return the kernel of each event as a position in the list that comes with it."""
    kinds = np.empty(len(events), [("type", np.int32), ("tag", np.uint64), ("index", np.uint64)])
    for field in kinds.dtype.names:
        kinds[field] = events[field]
    distinct, codes = np.unique(kinds, return_inverse=True)
    return codes, [(KINDS[int(type_)], names[int(tag)], int(index)) for type_, tag, index in distinct]


def summary(runs):
    """Return the statistics over a list of `Runs` as a JSON-ready dictionary; None without any.

    Durations are whole microseconds, cut off. `typical` is the mean over the half of the runs whose whole duration is
    nearest the median, which has the resolution that a median of whole numbers lacks, without the kernel's own
    outliers: on a busy machine most runs near the median were interrupted too, each in another kernel. Runs that
    executed other kernels than most did are left out, and `other_runs` counts them.
    """
    if not runs:
        return None
    counts = collections.Counter()
    for each in runs:
        counts[each.kernels] += len(each.whole)
    kernels, kept = counts.most_common(1)[0]
    whole = np.concatenate([each.whole for each in runs if each.kernels == kernels])
    us = np.concatenate([each.us for each in runs if each.kernels == kernels])
    away = np.abs(whole - np.median(whole))
    typical = away <= np.percentile(away, 50, method="inverted_cdf")
    return {
        "runs": kept,
        "other_runs": sum(counts.values()) - kept,
        "invoke_us": _statistics(whole, typical),
        "kernels": [
            {"kind": kind, "name": name, "index": index, "us": _statistics(us[:, at], typical)}
            for at, (kind, name, index) in enumerate(kernels)
        ],
    }


def _statistics(us, typical):
    q1, median, q3, p90 = np.percentile(us, [25, 50, 75, 90])
    reach = _FAR_OUT * (q3 - q1 + _RESOLUTION_US)
    kept = us[typical & (us >= q1 - reach) & (us <= q3 + reach)]
    return {
        "median": float(median),
        "mean": float(us.mean()),
        "p90": float(p90),
        "typical": float(kept.mean() if len(kept) else median),
    }
