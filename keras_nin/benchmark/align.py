"""The kernels that ran for a partition against its operators: the cheapest way to explain the ones by the others."""

import heapq
from dataclasses import dataclass

from keras_nin.benchmark import kernels as table

# What it costs to take a match for another variant than the expected one, a kernel for an insertion, an operator for
# one without kernel; and to leave one without an explanation. Whole numbers: ties are ties.
_OTHER_VARIANT, _INSERTED, _NO_KERNEL, _UNEXPLAINED = 2, 1, 1, 8
_ACTIVATION = "Clamp"
_MOST_STATES = 500_000


@dataclass(frozen=True)
class Node:
    """An operator: its type, and what its kernels depend on.

    Whether it is a plain matrix product, has a fused activation, may have several kernels, reads constants alone.
    """

    op: str
    is_product: bool = False
    is_activated: bool = False
    is_divisible: bool = False
    is_constant: bool = False


@dataclass(frozen=True)
class Alignment:
    """What the kernels are, all by position; a kernel in neither dictionary is unexplained.

    `main` is from kernels to lists of the nodes that they compute, `inserted` from kernels to the node that each was
    put in for.
    """

    main: dict
    inserted: dict


def align(nodes, names, late=False):
    """Return the `Alignment` of the kernels of a partition with its operators, both in order of execution.

    Args:
        nodes: sequence of `Node`.
        names: of the kernels.
        late: of equally good explanations take the one that matches later operators, in place of earlier ones.
    """
    goal = (len(nodes), len(names), False)
    best, came = {(0, 0, False): (0, 0)}, {}
    queue = [(0, 0, (0, 0, False))]
    while queue:
        cost, second, state = heapq.heappop(queue)
        if state[:2] == goal[:2]:
            return _walk_back(came, state)
        if best[state] < (cost, second):
            continue
        if len(best) > _MOST_STATES:
            break
        for step, added, reached in _steps(nodes, names, *state):
            preference = (len(nodes) - state[0] if late else state[0]) if step == "main" else 0
            new = (cost + added, second + preference)
            if new < best.get(reached, (float("inf"), 0)):
                best[reached] = new
                came[reached] = (state, step)
                heapq.heappush(queue, (*new, reached))
    return Alignment({}, {})


def _steps(nodes, names, node, kernel, opened):
    """Yield (what, cost, state) from a state: nodes and kernels that are explained, and whether the last pair is open.

    Then more kernels may belong to the node, or more nodes to the kernel.
    """
    following = nodes[node] if node < len(nodes) else None
    if kernel < len(names):
        name = names[kernel]
        if opened and nodes[node - 1].is_divisible and table.computes(name, nodes[node - 1].op):
            yield "part", 0, (node, kernel + 1, True)
        if opened and nodes[node - 1].is_activated and table.base(name) == _ACTIVATION:
            yield "activation", 0, (node, kernel + 1, False)
        if following and table.computes(name, following.op):
            other = not table.fits(name, following.op, following.is_product)
            yield "main", _OTHER_VARIANT * (other or following.is_constant), (node + 1, kernel + 1, True)
        if table.base(name) in table.INSERTED:
            expected = following and following.op in table.PREPARED and table.base(name) in table.PREPARES
            yield "inserted", 0 if expected else _INSERTED, (node, kernel + 1, False)
        else:
            yield "unexplained", _UNEXPLAINED, (node, kernel + 1, False)
    if following:
        if opened and table.looks_up(names[kernel - 1]) and table.computes(names[kernel - 1], following.op):
            yield "folded", 0, (node + 1, kernel, True)
        yield "without", _cost_without_kernel(following), (node + 1, kernel, False)


def _cost_without_kernel(node):
    if node.is_constant:
        return 0
    return _NO_KERNEL if node.op in table.WITHOUT_KERNEL else _UNEXPLAINED


def _walk_back(came, state):
    main, inserted, (count, _, _) = {}, {}, state
    while state in came:
        (node, kernel, _), step = came[state]
        if step == "main":
            main.setdefault(kernel, []).append(node)
        elif step == "part":
            main[kernel] = [node - 1]
        elif step == "folded":
            main.setdefault(kernel - 1, []).append(node)
        elif step == "activation":
            inserted[kernel] = node - 1
        elif step == "inserted":
            inserted[kernel] = min(node, count - 1)
        state = came[state][0]
    return Alignment({kernel: sorted(members) for kernel, members in main.items()}, inserted)
