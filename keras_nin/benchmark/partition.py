"""Which operators TensorFlow Lite hands to the delegate together, and in which order everything then runs."""

_SIDE_EFFECTS = frozenset({"CALL_ONCE", "IF", "WHILE"})
_KEPT_STATE = "resource"


def subsets(main, alone):
    """Return the operators of a graph in order of execution, as the runtime groups them for a delegate.

    As `PartitionGraphIntoIndependentNodeSubsets` of TensorFlow Lite does it: each group takes, in the file's order,
    every operator of its kind whose inputs are there, also past operators of the other kind, so that operators of
    parallel branches may change places.

    Args:
        main: `keras_nin.tflite.graph.Subgraph`.
        alone: indexes of the operators that TensorFlow Lite runs itself; the delegate has the others.

    Returns:
        List of (whether the delegate has them, indexes of operators), the two kinds in turns.
    """
    waiting = {tensor for operator in main.operators for tensor in operator.outputs}
    left = list(main.operators)
    before = _earlier_effects(main)
    done, groups = set(), []
    while left:
        delegated, members = None, []
        progress = True
        while progress:
            later = []
            for operator in left:
                ready = waiting.isdisjoint(operator.inputs) and before.get(operator.index, -1) in done | {-1}
                if ready and delegated in (None, operator.index not in alone):
                    delegated = operator.index not in alone
                    members.append(operator.index)
                    waiting.difference_update(operator.outputs)
                    done.add(operator.index)
                else:
                    later.append(operator)
            progress, left = len(later) < len(left), later
        if not members:  # a file whose operators wait for one another: as it stands
            return [*groups, (False, [operator.index for operator in left])]
        groups.append((delegated, members))
    return groups


def _earlier_effects(main):
    """Return for each operator with side effects the index of the one before it, which must run first."""
    with_effects = [
        operator.index
        for operator in main.operators
        if operator.op in _SIDE_EFFECTS
        or any(main.tensors[each].dtype == _KEPT_STATE for each in (*operator.inputs, *operator.outputs) if each >= 0)
    ]
    return dict(zip(with_effects[1:], with_effects, strict=False))


def kernel_groups(main, kernels):
    """Return which operators are behind which kernels: the runtime's own one by one, the delegate's in groups.

    Args:
        main: `keras_nin.tflite.graph.Subgraph`.
        kernels: the runner's, in order of execution.

    Returns:
        List of (whether the delegate ran them, indexes of operators, positions in `kernels`) in order of execution;
        None where the kernels do not come in the order in which these operators would run.
    """
    alone = {kernel["index"] for kernel in kernels if kernel["kind"] == "operator"}
    found, at = [], 0
    for delegated, operators in subsets(main, alone):
        if delegated:
            end = at
            while end < len(kernels) and kernels[end]["kind"] == "delegate":
                end += 1
            found.append((True, operators, list(range(at, end))))
            at = end
            continue
        for index in operators:
            if at == len(kernels) or (kernels[at]["kind"], kernels[at]["index"]) != ("operator", index):
                return None
            found.append((False, [index], [at]))
            at += 1
    return found if at == len(kernels) else None
