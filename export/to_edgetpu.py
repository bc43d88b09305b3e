"""Convert a model to full-integer files for the Edge TPU: `keras-nin export` with int8 as the default scheme."""

import copy

from keras_nin.cli import export, main

if __name__ == "__main__":
    command = copy.copy(export.command)
    command.help = """Convert MODEL (default nin_digits) to what the Edge TPU compiler takes: int8, static batch 1.
    The compiler does not run here, and only it knows which operators it maps. All else is as in `keras-nin export`."""
    command.epilog, command.context_settings = (
        "Example: python export/to_edgetpu.py",
        {"default_map": {"scheme": "int8"}},
    )
    main.main(command=command, prog_name="to_edgetpu.py")
