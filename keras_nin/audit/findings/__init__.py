"""What is worth changing in a network, and what it would save: one file for every group of rules.

Every saving is arithmetic on shapes. Findings are suggestions that may exclude each other: their savings do not add up.
"""

from keras_nin.audit.findings import alignment, convolutions, heads, linear, norms
from keras_nin.audit.findings.network import Network

_RULES = (
    linear.one_channel,
    linear.collapsible,
    linear.before_average,
    heads.dense_as_pointwise,
    heads.flattened,
    heads.heavy,
    convolutions.unreduced,
    convolutions.naive_inception,
    alignment.unaligned,
    norms.unfoldable,
)


def find(graph):
    """Return the `Finding`s of `graph` (`keras_nin.audit.graph.Graph`), in the order of their first layers.

    Time is linear in the number of layers.
    """
    network = Network(graph)
    found = [finding for rule in _RULES for finding in rule(network)]
    order = {layer.path: position for position, layer in enumerate(graph.layers)}
    return tuple(sorted(found, key=lambda finding: order[finding.layers[0]]))
