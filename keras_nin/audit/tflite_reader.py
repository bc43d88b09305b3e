"""A .tflite file as a `Graph` of plain records, from the flatbuffer alone."""


def read(path, *, name=None):
    """Return the `Graph` of the .tflite file at `path`; None for `name` takes the file's own."""
    raise NotImplementedError
