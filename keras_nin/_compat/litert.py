"""Experimental options of LiteRT's interpreter. Verified on ai-edge-litert 2.3.0."""

from typing import Any


def interpreter(
    content: bytes, *, threads: int = 1, keep_tensors: bool = False, delegate: bool = True, reference: bool = False
) -> Any:
    """Return a LiteRT interpreter, without tensors allocated.

    Args:
        content, threads: a .tflite file, and the number of threads.
        keep_tensors: whether the values of all tensors can be read after a run; implies no delegate, which keeps none.
        delegate: whether operators may run in the XNNPACK delegate.
        reference: whether to run TFLite's reference kernels, whose integer arithmetic TFLite Micro shares.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    options: dict[str, Any] = {}
    if keep_tensors:
        options["experimental_preserve_all_tensors"] = True
    if reference:
        options["experimental_op_resolver_type"] = OpResolverType.BUILTIN_REF
    elif keep_tensors or not delegate:
        options["experimental_op_resolver_type"] = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(model_content=content, num_threads=threads, **options)
