"""The compiler's own words, and the order in which tables give them."""

MAPPED = "Mapped to Edge TPU"
UNSPECIFIED = "Operation is otherwise supported, but not mapped due to some unspecified limitation"
SECOND_SUBGRAPH = "More than one subgraph is not supported"
NOT_SUPPORTED = "Operation not supported"
VERSION = "Operation version not supported"
DATA_TYPE = "Operation is working on an unsupported data type"
RANK = "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
# The second line of a longer reason, whose first the compiler's table does not show.
BATCH = "For example, a fully-connected or softmax layer with 2D output"
PRECISION = "Image-interpolation layer won't run precisely enough on Edge TPU"  # compiler 2.0

STATUSES = (MAPPED, UNSPECIFIED, SECOND_SUBGRAPH, NOT_SUPPORTED, VERSION, DATA_TYPE, RANK, BATCH, PRECISION)

NOT_QUANTIZED = "Model not quantized"
UNKNOWN_VERSION = "Didn't find op for builtin opcode '{op}' version '{version}'"
DYNAMIC = (
    "Attempting to use a delegate that only supports static-sized tensors with a graph that has dynamic-sized tensors"
)
FLEX = "Regular TensorFlow ops are not supported by this interpreter"
LARGE = "Compilation failed due to large activation tensors in model"

_NOTE = "(second line of a longer reason) "


def plain(status):
    """Return a status without the remark that collections of logs put before `BATCH`."""
    return status.removeprefix(_NOTE)
