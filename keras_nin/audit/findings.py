"""What is worth changing in a network, and what it would save."""


def find(graph):
    """Return the `Finding`s of `graph` (`keras_nin.audit.graph.Graph`), in the order of its layers."""
    return ()
