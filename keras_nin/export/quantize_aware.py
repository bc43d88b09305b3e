"""A quantize-aware network: the operators of a model's int8 file as trainable Keras layers, on any backend of Keras.

The model is converted to its calibrated and tuned float file and to its int8 file, as for the scheme int8. The network
is then built from these: one layer of `keras_nin.layers.quantized` for each operator of the int8 file, with the float
weights and ranges that it was quantized from. So its outputs are those of the file, before and during the training.
"""

import base64
import dataclasses
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.errors import InputError, check_whole_number, input_error
from keras_nin.export.tuning import SAME_SCALE_OPERATORS
from keras_nin.formatting import format_names
from keras_nin.tflite.float_file import FloatFile
from keras_nin.tflite.quantization import per_channel_parameters
from keras_nin.tflite.reader import read_model

if TYPE_CHECKING:
    import keras

    from keras_nin.layers.quantized import QuantizedKernel
    from keras_nin.tflite.records import TFLiteModel, TFLiteOperator, TFLiteTensor

_KINDS = {
    "CONV_2D": "conv",
    "DEPTHWISE_CONV_2D": "depthwise",
    "FULLY_CONNECTED": "dense",
    "TRANSPOSE_CONV": "transposed",
}
# Of a step: how far from an integer float32 certainly rounds as float64 does; most biases have at most 20 bits.
_ROUNDED, _BIAS_ROUNDED = 0.4999, 0.45
_STEP_SHARES = np.linspace(0.4, 1, 61)  # of the step at which nothing is clipped


@dataclasses.dataclass(frozen=True)
class ConvertedFiles:
    """A model's float file, calibrated and tuned, and the int8 file that the converter made of it, at batch 1.

    Attributes:
        layers: for each operator of the int8 file the path of the Keras layer that it computes, or None.
        frozen: paths of layers whose weights are not trained.
        inputs, outputs: names in the signature, in the model's order.
        flags: how the files were converted.
    """

    float_content: bytes
    int8_content: bytes
    layers: tuple[str | None, ...]
    frozen: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    flags: dict[str, Any]


def build_network(files: ConvertedFiles, name: str, weight_bits: int = 8) -> "keras.Model":
    """Return the quantize-aware network of a model's files.

    Raises:
        InputError: an operator without a rule, or a number of bits that is not from 2 to 8.
    """
    count_levels(weight_bits)
    return _NetworkBuilder(files, weight_bits).build(name)


def count_levels(weight_bits: int) -> int:
    """Return the largest integer that a weight of so many bits may be; `InputError` for bits that are not 2 to 8."""
    if not 2 <= check_whole_number("weight_bits", weight_bits) <= 8:
        raise input_error("`weight_bits` from 2 to 8", weight_bits, argument="weight_bits")
    return 2 ** (weight_bits - 1) - 1


class _NetworkBuilder:
    """Builds the layers of one int8 file."""

    def __init__(self, files: ConvertedFiles, weight_bits: int) -> None:
        self.files, self.weight_bits = files, weight_bits
        self.tflite, self.float_file = read_model(files.int8_content), FloatFile(files.float_content)
        self.main = self.tflite.main
        self._check_operators()
        float_main = self.float_file.model.main
        self._float_tensors = {tensor.name: tensor for tensor in float_main.tensors}
        self._float_operators = {
            float_main.tensors[operator.outputs[0]].name: operator for operator in float_main.operators
        }
        self.groups, self.trained = _group_tensors(self.tflite, self.float_file)
        self._limits = [limits for limits, _ in self.trained.values()]
        self._names: dict[str, int] = {}
        self._kernels: dict[Any, QuantizedKernel] = {}
        self._kernel_sources: dict[str, dict[str, Any]] = {}
        self._weights: list[tuple[Any, np.ndarray]] = []
        self.levels: dict[int, Any] = {}  # of each computed tensor of the int8 file, by its index

    def _check_operators(self) -> None:
        from keras_nin.layers.quantized_operators import OPERATORS

        unknown = [
            f"{operator.op} of layer {layer!r}" if layer else operator.op
            for operator, layer in zip(self.main.operators, self.files.layers, strict=True)
            if operator.op not in OPERATORS and operator.op not in _KINDS
        ]
        if unknown or len(self.tflite.subgraphs) > 1:
            received = format_names(list(dict.fromkeys(unknown))) or "several subgraphs"
            raise input_error("a network of operators that quantize-aware training has a rule for", received)

    def build(self, name: str) -> "keras.Model":
        """Return the network, with its weights."""
        import keras

        from keras_nin.layers.quantized import ActivationRanges, DequantizeOutput, QuantizeInput

        inputs_by_name, outputs_by_name = (dict(pairs) for pairs in self._signature())
        for reserved in (*self.files.inputs, *self.files.outputs, "activation_ranges"):
            self._names[reserved] = 1
        inputs = [
            keras.Input(self.main.tensors[inputs_by_name[label]].shape[1:], name=label) for label in self.files.inputs
        ]
        groups = [*self.trained, *(group for group in set(self.groups.values()) - set(self.trained))]
        position = {group: number for number, group in enumerate(groups)}
        self.groups = {tensor: position[group] for tensor, group in self.groups.items()}
        fixed = [self._quantization(group) for group in groups[len(self.trained) :]]
        constants = self._constants()
        for index, tensor in constants.items():
            self.groups[index] = len(self.trained) + len(fixed)
            fixed.append(_per_tensor(tensor))
        layer: Any = ActivationRanges(len(self.trained), len(fixed), name="activation_ranges")
        ranges = layer(inputs[0])
        levels = self.levels
        for label, values in zip(self.files.inputs, inputs, strict=True):
            index = inputs_by_name[label]
            quantize = QuantizeInput(name=self._unique(f"{label}_levels"))
            levels[index] = quantize([values, ranges], target=self._group(index))
        for operator, path in zip(self.main.operators, self.files.layers, strict=True):
            results = self._call(operator, path, levels, ranges, constants)
            levels |= dict(zip(operator.outputs, results if isinstance(results, list) else [results], strict=True))
        outputs = [
            DequantizeOutput(self.main.activation_of(outputs_by_name[label]), name=label)(
                [levels[outputs_by_name[label]], ranges], source=self._group(outputs_by_name[label])
            )
            for label in self.files.outputs
        ]
        limits = np.array(self._limits, np.float32).reshape(-1, 2)
        self._weights += [(layer.minimum, limits[:, 0]), (layer.maximum, limits[:, 1])]
        self._weights.append((layer.fixed_values, np.array(fixed, np.float32).reshape(-1, 2).T))
        for variable, values in self._weights:
            variable.assign(values)
        layer.source = self._describe_source()
        return keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0], name=name)

    def _signature(self) -> tuple[Any, Any]:
        signature = self.tflite.signatures[0]
        return signature.inputs, signature.outputs

    def _group(self, index: int) -> str:
        """Return the group of a tensor as the layers take it."""
        number = self.groups[index]
        is_trained = number < len(self.trained) and self._limits[number][0] < 0
        return f"{number}" if is_trained else f"{number}:{_per_tensor(self.main.tensors[index])[1]}"

    def _quantization(self, group: int) -> tuple[float, float]:
        return _per_tensor(self.main.tensors[group])

    def _constants(self) -> dict[int, "TFLiteTensor"]:
        """Return the quantized constants that operators without trained weights read, by their index."""
        tensors = self.main.tensors
        operators = (operator for operator in self.main.operators if operator.op not in _KINDS)
        indexes = (index for operator in operators for index in operator.inputs if index >= 0)
        return {index: tensors[index] for index in indexes if tensors[index].is_constant and tensors[index].scale}

    def _unique(self, name: str) -> str:
        legal = name.replace("/", "_")
        self._names[legal] = number = self._names.get(legal, 0) + 1
        return legal if number == 1 else self._unique(f"{legal}_{number}")

    def _call(self, operator: "TFLiteOperator", path: str | None, levels: Any, ranges: Any, constants: Any) -> Any:
        from keras_nin.layers.quantized import QuantizedOperator

        targets = [self._group(index) for index in operator.outputs]
        if operator.op in _KINDS:
            layer = self._kernel_layer(operator, path)
            source, _, _ = _kernel_inputs(operator)
            output = self.main.tensors[operator.outputs[0]].name
            self._kernel_sources[layer.name]["calls"].append([output, self.groups[source]])
            return layer([levels[source], ranges], source=self._group(source), target=targets[0])
        operands = [index for index in operator.inputs if index in levels or index in constants]
        fixed = [index for index in operands if index in constants]
        if len(fixed) > 1 or (fixed and len(operands) < 2):
            raise input_error("operators with one constant operand at most", f"{operator.op} of layer {path!r}")
        options = _operator_options(self.tflite, operator)
        position = operands.index(fixed[0]) if fixed else 1
        layer: Any = QuantizedOperator(
            operator.op,
            options,
            constant=constants[fixed[0]].shape if fixed else None,
            position=position,
            smooth=operator.op in ("SOFTMAX", "LOGISTIC") and operator.outputs[0] in self.main.outputs,
            name=self._unique(path or operator.op.lower()),
        )
        if fixed:
            scale, zero_point = per_channel_parameters(constants[fixed[0]])
            self._weights.append((layer.constant, self.tflite.data(constants[fixed[0]]) - zero_point))
        tensors = [levels[index] for index in operands if index in levels]
        return layer([*tensors, ranges], sources=",".join(map(self._group, operands)), targets=",".join(targets))

    def _kernel_layer(self, operator: "TFLiteOperator", path: str | None) -> "QuantizedKernel":
        """Return the layer of an operator with weights; operators that share those share the layer."""
        from keras_nin.layers.quantized import QuantizedKernel

        output = self.main.tensors[operator.outputs[0]].name
        if output not in self._float_operators:
            raise InputError(
                f"Expected {operator.op} to be in the float file too. Received: none that makes {output!r}"
            )
        source = self._float_operators[output]
        tensors = self.float_file.model.main.tensors
        _, weights_index, bias_index = _kernel_inputs(source)
        weights, bias = tensors[weights_index], tensors[bias_index] if bias_index >= 0 else None
        _, stored_weights, stored_bias = _kernel_inputs(operator)
        kind = _KINDS[operator.op]
        options = {name: value for name, value in operator.options.items() if name != "weights_format"}
        key = weights.buffer, bias.buffer if bias else None, repr(sorted(options.items()))
        if key in self._kernels:
            return self._kernels[key]
        is_frozen = path in self.files.frozen
        kernel = _keras_layout(kind, self._float_values(weights, stored_weights, _ROUNDED))
        layer: Any = QuantizedKernel(
            kind,
            kernel.shape,
            bias is not None,
            options,
            weight_bits=8 if is_frozen else self.weight_bits,
            name=self._unique(path or operator.op.lower()),
        )
        layer.trainable = not is_frozen
        rows = kernel.reshape(-1, layer.outputs)
        unit = _channel_units(rows)
        self._weights += [(layer.kernel, (rows / unit).reshape(kernel.shape)), (layer.unit, unit)]
        if bias:
            self._weights.append((layer.bias, self._float_values(bias, stored_bias, _BIAS_ROUNDED) / unit))
        if layer.step is not None:
            self._weights.append((layer.step, _find_steps(rows / unit, layer.levels)))
        self._kernels[key] = layer
        entry = {"weights": weights.index, "bias": bias.index if bias else -1, "calls": []}
        self._kernel_sources[layer.name] = entry
        return layer

    def _float_values(self, tensor: "TFLiteTensor", stored_index: int, reach: float) -> np.ndarray:
        """Return float weights; those between two integers are moved to the side on which the converter rounded them.

        Its quotient is a float64, and ours a float32: ties are frequent where the weights were stored in 16 bits.
        """
        stored, weights = self.main.tensors[stored_index], self.float_file.values(tensor)
        integers, (scales, _) = self.tflite.data(stored).astype(np.float64), per_channel_parameters(stored)
        levels = weights / scales
        nearest = np.clip(levels, integers - reach, integers + reach)
        return _settle_quotients(np.where(nearest == levels, weights, nearest * scales), scales, integers)

    def _describe_source(self) -> dict[str, Any]:
        """Return what `keras_nin.export.quantize_aware` needs to write the file again, without the weights."""
        file, tensors = FloatFile(self.files.float_content), self.float_file.model.main.tensors
        for entry in self._kernel_sources.values():
            for tensor in (tensors[index] for index in (entry["weights"], entry["bias"]) if index >= 0):
                file.set_values(tensor, np.zeros(tensor.shape, np.float32))
        return {
            "file": base64.b64encode(zlib.compress(file.content(), 9)).decode(),
            "ranges": [indexes for _, indexes in self.trained.values()],
            "kernels": self._kernel_sources,
            "layers": list(self.files.layers),
            "flags": self.files.flags,
        }


def _settle_quotients(values: np.ndarray, scales: Any, integers: np.ndarray) -> np.ndarray:
    """Return float32 values whose quotients by the scales round to the integers in float32 too, up to 2**22 of them."""
    settled, divisors = values.astype(np.float32), np.asarray(scales, np.float32)
    for _ in range(3):
        levels = np.rint(settled / divisors)
        toward = np.where(levels < integers, np.inf, -np.inf).astype(np.float32)
        settled = np.where(levels == integers, settled, np.nextafter(settled, toward))
    return settled


def _kernel_inputs(operator: "TFLiteOperator") -> tuple[int, int, int]:
    """Return the tensor indexes of the input, the weights and the bias, -1 for none."""
    if operator.op == "TRANSPOSE_CONV":  # first the shape of the output
        return (operator.inputs[2], operator.inputs[1], (*operator.inputs, -1)[3])
    return (operator.inputs[0], operator.inputs[1], (*operator.inputs, -1)[2])


def _per_tensor(tensor: "TFLiteTensor") -> tuple[float, float]:
    assert tensor.quantization is not None
    return tensor.quantization.scales[0], tensor.quantization.zero_points[0]


def _keras_layout(kind: str, values: np.ndarray) -> np.ndarray:
    """Return weights of a file as Keras has them: (h, w, I, O), (h, w, O, 1) or (I, O)."""
    if kind == "dense":
        return values.T
    return values[0][..., None] if kind == "depthwise" else values.transpose(1, 2, 3, 0)


def _channel_units(rows: np.ndarray) -> np.ndarray:
    """Return the power of two for each channel (terms, O) that brings its weights near those of he_normal."""
    size = np.sqrt((rows.astype(np.float64) ** 2).mean(axis=0))
    exponent = np.round(np.log2(np.where(size > 0, size, 1) / np.sqrt(2 / len(rows))))
    return np.exp2(np.where(size > 0, exponent, 0)).astype(np.float32)


def _find_steps(rows: np.ndarray, levels: int) -> np.ndarray:
    """Return for each channel (terms, O) the step with the smallest squared error of rounding and clipping."""
    largest = np.abs(rows).max(axis=0)
    widest = np.where(largest > 0, largest, 1) / levels
    errors = [
        ((np.clip(np.round(rows / (share * widest)), -levels, levels) * share * widest - rows) ** 2).sum(axis=0)
        for share in _STEP_SHARES
    ]
    return (widest * _STEP_SHARES[np.argmin(errors, axis=0)]).astype(np.float32)


def _operator_options(tflite: "TFLiteModel", operator: "TFLiteOperator") -> dict[str, Any]:
    """Return the options of an operator, with the constants of shapes and axes that its rule takes."""
    main, options = tflite.main, dict(operator.options)
    source = next(tensor for index in operator.inputs if not (tensor := main.tensors[index]).is_constant)
    output = main.tensors[operator.outputs[0]]

    def constant(position: int) -> list[int]:
        return [int(value) for value in tflite.data(main.tensors[operator.inputs[position]]).ravel()]

    if operator.op == "MEAN":
        options["axes"] = [axis % len(source.shape) for axis in constant(1)]
    elif operator.op in ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"):
        options = {"shape": list(output.shape[1:])}
    elif operator.op == "SPLIT":
        options["axis"] = constant(0)[0] % len(source.shape)
    elif operator.op == "RESIZE_NEAREST_NEIGHBOR":
        factors = [large / small for large, small in zip(output.shape[1:3], source.shape[1:3], strict=True)]
        if options["align_corners"] or any(factor != int(factor) for factor in factors):
            raise input_error("nearest neighbors at whole multiples of a size", f"{operator.op} by {factors}")
        options = {"factors": [int(factor) for factor in factors]}
    elif operator.op == "PAD":
        options = {"paddings": np.reshape(constant(1), (-1, 2)).tolist()}
    elif operator.op == "TILE":
        options = {"multiples": constant(1)}
    elif operator.op == "TRANSPOSE":
        options = {"permutation": constant(1)}
    elif operator.op == "SLICE":
        begin, size = constant(1), constant(2)
        bounds = [[first, None if count < 0 else first + count, 1] for first, count in zip(begin, size, strict=True)]
        options = {"bounds": bounds[1:], "shape": list(output.shape[1:])}
    elif operator.op == "STRIDED_SLICE":
        options = {"bounds": _slice_bounds(options, *map(constant, (1, 2, 3))), "shape": list(output.shape[1:])}
    moved = operator.op == "TRANSPOSE" and options["permutation"][0] != 0
    reduced = operator.op == "MEAN" and 0 in options["axes"]
    if moved or reduced or source.shape[:1] != (1,) or output.shape[:1] != (1,):
        raise input_error("operators that keep the batch as their first axis", f"{operator.op} to {output.shape}")
    return options


def _slice_bounds(options: dict[str, Any], begin: list[int], end: list[int], strides: list[int]) -> list[list[Any]]:
    bounds: list[list[Any]] = []
    for axis, (first, last, stride) in enumerate(zip(begin, end, strides, strict=True)):
        bit = 1 << axis
        if options["shrink_axis_mask"] & bit:
            bounds.append([first, first + 1 if first != -1 else None, 1])
        else:
            masked = None if options["begin_mask"] & bit else first
            bounds.append([masked, None if options["end_mask"] & bit else last, stride])
    if options["ellipsis_mask"] or options["new_axis_mask"]:
        raise input_error("slices of single axes", "STRIDED_SLICE with an ellipsis or a new axis")
    return bounds[1:]


# Ranges


def _group_tensors(
    tflite: "TFLiteModel", float_file: FloatFile
) -> tuple[dict[int, int], dict[int, tuple[tuple[float, float], list[int]]]]:
    """Return the group of each computed tensor, and the groups whose range is trained.

    A group is named by one of its tensors. It is trained where a range of the float file gives its scale: its smallest
    and largest value, and the float file's tensors that get the range. Scales that an operator fixes are not, nor is
    that of an input: its gradient would take another convolution in each step.
    """
    main = tflite.main
    groups: dict[int, int] = {}

    def find(index: int) -> int:
        while groups.setdefault(index, index) != index:
            index = groups[index]
        return index

    for operator in main.operators:
        tensors = [index for index in (*operator.inputs, *operator.outputs) if index >= 0]
        tensors = [index for index in tensors if not main.tensors[index].is_constant]
        for index in tensors:
            find(index)
        if operator.op in SAME_SCALE_OPERATORS:
            for index in tensors[1:]:
                if _per_tensor(main.tensors[index]) != _per_tensor(main.tensors[tensors[0]]):
                    raise input_error(
                        f"{operator.op} to keep its scale", f"another one in {main.tensors[index].name!r}"
                    )
                groups[find(index)] = find(tensors[0])
    by_tensor = {index: find(index) for index in groups}
    ranges, float_indexes = float_file.ranges(), {t.name: t.index for t in float_file.model.main.tensors}
    members: dict[int, list[int]] = {}
    for index, group in by_tensor.items():
        float_index = float_indexes.get(main.tensors[index].name)
        if float_index in ranges:
            members.setdefault(group, []).append(float_index)
    trained = {}
    for group, indexes in members.items():
        if group in {by_tensor[index] for index in main.inputs}:
            continue
        scale, zero_point = _per_tensor(main.tensors[group])
        fitting = [ranges[index] for index in indexes if range_quantization(*ranges[index]) == (scale, zero_point)]
        if fitting:
            trained[group] = (min(fitting[0][0], 0.0), max(fitting[0][1], 0.0)), indexes
    return by_tensor, trained


def range_quantization(minimum: float, maximum: float) -> tuple[float, int]:
    """Return the scale and zero point that TensorFlow's converter gives to a range in int8."""
    minimum, maximum = min(minimum, 0.0), max(maximum, 0.0)
    scale = (maximum - minimum) / 255
    if not scale > 0:
        return 0.0, 0
    return float(np.float32(scale)), round(-128 - minimum / scale)
