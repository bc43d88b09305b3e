"""The table of a file's weights: zeros, distinct values, and what gzip makes of the file."""

from keras_nin.report.parity import percent
from keras_nin.tables import text_table

COLUMNS = ("layer", "operator", "weights", "zeros", "distinct values")
RIGHT = COLUMNS[2:]


def compression_table(compression, name="the file"):
    """Return the table of a `keras_nin.export.compression.Compression` as text, with the sizes below."""
    rows = [
        [kernel.layer, kernel.op, f"{kernel.weights:,}", percent(kernel.sparsity), f"{kernel.distinct:,}"]
        for kernel in compression.kernels
    ]
    share = compression.gzip_bytes / compression.bytes
    sizes = f"{name}: {compression.bytes:,} bytes, {compression.gzip_bytes:,} after gzip -9 ({percent(share)})"
    return "\n".join([text_table(COLUMNS, rows, right=RIGHT), sizes]) if rows else sizes
