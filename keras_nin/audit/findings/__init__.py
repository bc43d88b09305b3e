"""What is worth changing in a network, and what it would save: one file for every group of rules.

Every saving is arithmetic on shapes. Findings are suggestions that may exclude each other: their savings do not add up.
"""

from keras_nin.audit.findings import linear, shapes
from keras_nin.audit.findings.network import FindingsNetwork

_RULES = (
    linear.find_one_channel_pointwise,
    linear.find_collapsible_pointwise,
    linear.find_pointwise_before_average,
    shapes.find_dense_as_pointwise,
    shapes.find_flattened_heads,
    shapes.find_heavy_heads,
    shapes.find_unreduced_convolutions,
    shapes.find_naive_inception,
    shapes.find_unaligned_channels,
    linear.find_unfoldable_norms,
)


def find_findings(graph):
    """Return the `Finding`s of `graph` (`keras_nin.audit.graph.LayerGraph`), in the order of their first layers.

    Time is linear in the number of layers.
    """
    network = FindingsNetwork(graph)
    found = [finding for rule in _RULES for finding in rule(network)]
    order = {layer.path: position for position, layer in enumerate(graph.layers)}
    return tuple(sorted(found, key=lambda finding: order[finding.layers[0]]))
