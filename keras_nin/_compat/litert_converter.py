"""The MLIR interface of litert-converter, which its package does not document. Verified on litert-converter 0.5.0."""

from collections.abc import Sequence

SIGNATURE = "serving_default"  # as in the files of TensorFlow's converter


def convert_stablehlo(module: bytes | str, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Return the .tflite file of a StableHLO module, as text or bytecode, with names for its inputs and outputs."""
    from litert_converter.mlir import ir, passmanager  # pyright: ignore[reportMissingImports]
    from litert_converter.mlir._mlir_libs import converter_api_ext as api  # pyright: ignore[reportMissingImports]

    context = ir.Context()
    api.prepare_mlir_context(context)
    with context, ir.Location.unknown():
        parsed = ir.Module.parse(module)
        api.set_signature(parsed.operation, SIGNATURE, list(inputs), list(outputs))
        api.run_convert_to_tfl_passes(parsed, passmanager.PassManager(), api.ConvertToTFLConfig())
        return api.export_flatbuffer_to_bytes(parsed.operation)
