"""Per-layer times as node data that Model Explorer (google-ai-edge/model-explorer) lays over the graph of the file."""

import collections

from keras_nin.errors import InputError

# Model Explorer's name for the first subgraph where the file gives it none.
_UNNAMED = "main"
_GRADIENT = ((0, "#ffffff"), (0.25, "#fff3c4"), (1, "#d94f2b"))


def node_data(profile, path):
    """Return the node data of a profile: JSON for Model Explorer's "upload node data".

    The graph's id is that of the file's first subgraph, and a node's id the index of its operator there, as Model
    Explorer's TFLite adapter names them. A kernel counts for the operator that gives it its name; those that are fused
    into it have no time of their own and no value. The unit is microseconds, of the kernels' typical time.

    Args:
        profile: `Profile` with layers.
        path: of the .tflite file that it was taken of.

    Raises:
        InputError: the profile has no layers.
    """
    from keras_nin.tflite import graph

    subgraph = graph.read(path).subgraphs[0]
    times = collections.Counter()
    for layer in profile.layers:
        if layer.operators and layer.us is not None:
            times[_main(layer, subgraph.operators)] += layer.us.typical
    if not times:
        raise InputError(
            f"Expected times of layers for Model Explorer. Received: none of {profile.file!r}, of the whole model alone"
        )
    threads = "1 thread" if profile.threads == 1 else f"{profile.threads} threads"
    data = {
        "name": f"us, {profile.host['cpu']}, {threads}, {profile.profiled_runs} runs",
        "results": {str(index): {"value": round(us, 3)} for index, us in sorted(times.items())},
        "gradient": [{"stop": stop, "bgColor": colour} for stop, colour in _GRADIENT],
    }
    return {subgraph.name or _UNNAMED: data}


def _main(layer, operators):
    """Return the index of the operator that a layer is named after."""
    of_its_type = [index for index in layer.operators if operators[index].op == layer.op]
    return (of_its_type or layer.operators)[0]
