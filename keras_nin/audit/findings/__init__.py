"""What is worth changing in a network, and what it would save.

Every saving is arithmetic on shapes. Findings are suggestions that may exclude each other: their savings do not add up.
"""

from keras_nin.audit.findings import linear, shapes
from keras_nin.audit.findings.network import FindingsNetwork
from keras_nin.audit.graph import LayerGraph
from keras_nin.audit.records import Finding

_RULES = (
    linear.find_one_channel_pointwise,
    linear.find_linear_runs,
    linear.find_average_sites,
    shapes.find_dense_as_pointwise,
    shapes.find_flattened_heads,
    shapes.find_heavy_heads,
    shapes.find_unreduced_convolutions,
    shapes.find_naive_inception,
    shapes.find_unaligned_channels,
    linear.find_unfoldable_norms,
)


def find_findings(graph: LayerGraph) -> tuple[Finding, ...]:
    """Return the findings of `graph` in the order of their first layers, in time linear in the number of layers."""
    network = FindingsNetwork(graph)
    found = [result for rule in _RULES for result in rule(network)]
    findings = [result.finding if isinstance(result, linear.RewriteSite) else result for result in found]
    order = {layer.path: position for position, layer in enumerate(graph.layers)}
    return tuple(sorted(findings, key=lambda finding: order[finding.layers[0]]))
