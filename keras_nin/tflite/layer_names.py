"""The one way to name the operators of a .tflite file: by the layers that they compute, as far as the file tells.

The converter joins the names of all that it fused into a tensor's name with ";", a constant that several operators
share included: such a name mentions layers of other operators too.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keras_nin import files, schemas
from keras_nin.errors import InputError
from keras_nin.tflite.records import TFLiteModel, TFLiteOperator, TFLiteSubgraph

FORMAT_CHANGES = frozenset({"QUANTIZE", "DEQUANTIZE"})
# Operators with a kernel of weights, which is their second input.
KERNEL_OPERATORS = frozenset(
    (
        "CONV_2D",
        "CONV_3D",
        "DEPTHWISE_CONV_2D",
        "TRANSPOSE_CONV",
        "CONV_3D_TRANSPOSE",
        "FULLY_CONNECTED",
        "BATCH_MATMUL",
    )
)
_RECURRENT_OPERATORS = frozenset(
    ("WHILE", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN")
    + ("BIDIRECTIONAL_SEQUENCE_RNN", "LSTM", "RNN", "SVDF")
)
_ACTIVATIONS = frozenset(
    ("RELU", "RELU6", "RELU_N1_TO_1", "TANH", "LOGISTIC", "SOFTMAX", "LOG_SOFTMAX", "HARD_SWISH", "GELU", "ELU")
)
_MAX_NAME_LENGTH = 120
_MAX_TENSOR_NAME_LENGTH = 4096
# The mark that our own export puts on layer names: "conv1.", or numbered "conv1._1".
_LAYER_MARK = re.compile(r"^(.+)\.(_\d+)?$")
# TensorFlow operations as they end the name of a tensor, after the layer's name.
_OPERATIONS = (
    r"add|addv2|add_fold|avgpool\w*|batch_?norm\w*|biasadd|concat(v2)?|conv2d\w*|conv3d\w*|conv_?transpose\w*|convolution\w*"
    r"|depthwise\w*|einsum|fusedbatchnorm\w*|identity|l2loss|leakyrelu|lrn|matmul|maximum|maxpool\w*|mean|mul|pad(v2)?|relu6?|reshape"
    r"|separable_conv2d\w*|sigmoid|softmax|squeeze\d*|sub|tanh|transpose|act_quant|fakequant\w*|mulitply|resize\w*"
)
# An operation may lie in a scope of its own, such as those of a batch normalization.
_OPERATION_SUFFIX = re.compile(
    r"(?<=.)((/BatchNorm)?/batchnorm(_\d+)?/\w+/conv"
    rf"|(/(batchnorm|tensordot|einsum|separable_conv2d)(_\d+)?)?/({_OPERATIONS})(_?\d+)?(:\d+)?)\Z",
    re.IGNORECASE,
)
_PRODUCT_NAME = re.compile(r"(conv|depthwise|separable_conv|matmul|einsum)", re.IGNORECASE)
# How a constant's name goes on behind that of the layer, or of the product, whose kernel it is.
_READING = re.compile(r"(ReadVariableOp|transpose|read|FakeQuant)\w*", re.IGNORECASE)
_KERNEL_VARIABLE = re.compile(r"(depthwise_)?(kernel|weights)\w*", re.IGNORECASE)
_BIAS_NAME = re.compile(r"BiasAdd\d*(_\d+)?", re.IGNORECASE)
_PRODUCTS = {"DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "matmul", "BATCH_MATMUL": "matmul"}
_ANONYMOUS_NAME = re.compile(r"(StatefulPartitionedCall|PartitionedCall|Identity)(_\d+)?(:\d+)?")
_GENERIC_OUTPUT = re.compile(r"(output|Identity|StatefulPartitionedCall)(_?\d+)?(:\d+)?")


def name_operators(
    model: TFLiteModel, recorded_layers: Sequence[str | None] | None = None
) -> tuple[tuple[str, str], ...]:
    """Return a distinct path, as (scope, name), for each operator of the main subgraph.

    An operator has the name of its layer. If a layer maps to several operators, the first one with a kernel or a
    recurrence, or else the first, has it, and the others have their type after it.

    Args:
        model: the file.
        recorded_layers: the layer of each operator where it is known; None takes those of the export record.
    """
    operators = model.main.operators
    recorded = recorded_layers or read_recorded_layers(model) or (None,) * len(operators)
    paths = [layer or guess for layer, guess in zip(recorded, _guess_layers(model), strict=True)]
    types = [operator.op for operator in operators]
    main_types: dict[str, str] = {}
    products = KERNEL_OPERATORS | _RECURRENT_OPERATORS
    for path, op in sorted(zip(paths, types, strict=True), key=lambda pair: pair[1] not in products):
        main_types.setdefault(path, op)
    uses: Counter[str] = Counter()
    names: dict[tuple[str, str], None] = {}
    for path, op in zip(paths, types, strict=True):
        scope, _, name = printable_name(path).rpartition("/")
        name += "" if op == main_types[path] else printable_name(f"/{op}")
        distinct = None
        while distinct is None or distinct in names:  # a layer may be called "conv (2)" itself
            uses[f"{scope}/{name}"] += 1
            use = uses[f"{scope}/{name}"]
            distinct = (scope, name + (f" ({use})" if use > 1 else ""))
        names[distinct] = None
    return tuple(names)


def operator_paths(model: TFLiteModel, recorded_layers: Sequence[str | None] | None = None) -> tuple[str, ...]:
    """Return the names of `name_operators` as paths, such as "outer/inner"."""
    return tuple("/".join(filter(None, parts)) for parts in name_operators(model, recorded_layers))


def read_recorded_layers(model: TFLiteModel) -> tuple[str | None, ...] | None:
    """Return the layer of each operator of the main subgraph as the export recorded it, or None without a record.

    The export record is the JSON file beside the .tflite file. It counts only if its size and hash are the file's.
    """
    if model.path is None:
        return None
    path = model.path.with_suffix(".json")
    try:
        document = files.read_json(path)
    except InputError:  # not a record of ours, whatever it is
        return None
    expected = {"schema": schemas.EXPORT_FILE, "bytes": model.size_bytes, "sha256": model.sha256}
    if not isinstance(document, dict) or any(document.get(key) != value for key, value in expected.items()):
        return None
    entries = document.get("operators")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return None
    if [entry.get("op") for entry in entries] != [operator.op for operator in model.main.operators]:
        return None
    layers = tuple(entry.get("layer") for entry in entries)
    return layers if all(layer is None or isinstance(layer, str) for layer in layers) else None


def printable_name(text: str) -> str:
    """Return `text` on one line, control characters escaped and the middle of a very long name left out."""
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[: 4 * _MAX_NAME_LENGTH])
    half = _MAX_NAME_LENGTH // 2
    return text if len(text) <= _MAX_NAME_LENGTH else f"{text[:half]}...{text[-half:]}"


def split_tensor_name(name: str) -> list[list[str]]:
    """Return the names that the converter joined into a tensor's name, each as scopes without the export's marks."""
    parts = name[:_MAX_TENSOR_NAME_LENGTH].split(";")
    return [[_LAYER_MARK.sub(r"\1", scope) for scope in part.split("/")] for part in parts if part]


def first_output_name(main: TFLiteSubgraph, operator: TFLiteOperator) -> str:
    """Return the name of the first tensor that an operator computes; "" if it computes none."""
    return main.tensors[operator.outputs[0]].name if operator.outputs else ""


# Without a record


@dataclass(frozen=True)
class _Mention:
    """A name in the name of an operator's output, or of its kernel: its scopes, and the layer that these say."""

    scopes: tuple[str, ...]
    is_of_kernel: bool

    @property
    def layer(self) -> str:
        return _without_operation("/".join(self.scopes))

    @property
    def is_product(self) -> bool:
        return len(self.scopes) > 1 and _PRODUCT_NAME.match(self.scopes[-1]) is not None

    @property
    def is_bias(self) -> bool:
        return len(self.scopes) > 1 and _BIAS_NAME.fullmatch(self.scopes[-1]) is not None

    def fits(self, op: str) -> bool:
        """Whether the kind of product is that of an operator; what adds a bias fits every kind."""
        operation = self.scopes[-1].lower()
        if self.is_bias or operation.startswith("einsum"):
            return True
        kind = next((kind for kind in ("depthwise", "matmul") if operation.startswith(kind)), "conv")
        return kind == _PRODUCTS.get(op, "conv")


def _without_operation(path: str) -> str:
    """Return the path of a layer from that of an operation in it."""
    return _OPERATION_SUFFIX.sub("", path, count=1)


def _guess_layers(model: TFLiteModel) -> list[str]:
    """Return the path of the layer of each operator, or what comes nearest, from the names of the tensors."""
    main = model.main
    mentions = [list(_find_mentions(main, operator)) for operator in main.operators]
    uses = Counter(layer for named in mentions for layer in {mention.layer for mention in named})
    chosen = [_choose_mention(operator, named, uses) for operator, named in zip(main.operators, mentions, strict=True)]
    prefix = os.path.commonprefix([scopes[:-2] for scopes in chosen if len(scopes) > 1])
    outputs, paths = _signature_names(model), []
    positions = {tensor: operator.index for operator in main.operators for tensor in operator.outputs}
    for scopes, operator in zip(chosen, main.operators, strict=True):
        own = scopes[len(prefix) :] if scopes[: len(prefix)] == prefix else scopes
        path = _without_operation("/".join(own))
        before = positions.get(operator.inputs[0], len(paths)) if operator.inputs else len(paths)
        if before < len(paths):
            if operator.op in FORMAT_CHANGES and first_output_name(main, operator).startswith(
                first_output_name(main, main.operators[before])
            ):
                path = paths[before]
            elif not path and not outputs.get(operator.index) and operator.op in _ACTIVATIONS:
                path = paths[before] if main.operators[before].op in KERNEL_OPERATORS else ""
        paths.append(path or outputs.get(operator.index) or operator.op.lower())
    return paths


def _find_mentions(main: TFLiteSubgraph, operator: TFLiteOperator) -> Iterator[_Mention]:
    """Yield what the names of an operator's first output and of its kernel mention, without what names nothing."""
    names = [(first_output_name(main, operator), False)]
    if operator.op in KERNEL_OPERATORS and len(operator.inputs) > 1:
        kernel = main.stored_constant(operator.inputs[1])
        names += [(kernel.name, True)] if kernel else []
    for name, is_of_kernel in names:
        for scopes in split_tensor_name(name):
            while is_of_kernel and len(scopes) > 2 and _READING.fullmatch(scopes[-1]):
                scopes.pop()
            if is_of_kernel and len(scopes) > 1 and _KERNEL_VARIABLE.fullmatch(scopes[-1]):
                scopes[-1] = _PRODUCTS.get(operator.op, "conv2d")
            mention = _Mention(tuple(scopes), is_of_kernel)
            if not _ANONYMOUS_NAME.fullmatch(scopes[-1]) and (mention.is_product or not is_of_kernel):
                yield mention


def _choose_mention(operator: TFLiteOperator, mentions: list[_Mention], uses: Counter[str]) -> tuple[str, ...]:
    """Return the scopes that name an operator; () if none do.

    Of an operator with a kernel these are of the product of its kind, or the bias of one, that the fewest operators
    mention: all others share a constant with the operator of that layer. Of others they are the first, and so they are
    where every product is of another kind and of an operator that shares a constant with this one.
    """
    products = [mention for mention in mentions if mention.is_product]
    if operator.op in KERNEL_OPERATORS:
        own = [mention for mention in products if mention.fits(operator.op) or uses[mention.layer] == 1]
        products = own + [mention for mention in mentions if mention.is_bias]
        products.sort(
            key=lambda mention: (not mention.fits(operator.op), uses[mention.layer], not mention.is_of_kernel)
        )
        mentions.sort(key=lambda mention: uses[mention.layer] > 1)
    return next((mention.scopes for mention in products or mentions), ())


def _signature_names(model: TFLiteModel) -> dict[int, str]:
    """Return the name that a signature gives an output, by the index of the operator that computes it."""
    names = {}
    for signature in model.signatures:
        for name, tensor in signature.outputs if signature.subgraph == 0 else ():
            operator = model.main.producers.get(tensor)
            while operator and operator.op in FORMAT_CHANGES and operator.inputs[0] in model.main.producers:
                operator = model.main.producers[operator.inputs[0]]
            if operator and not _GENERIC_OUTPUT.fullmatch(name):
                names[operator.index] = name
    return names
