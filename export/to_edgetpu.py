"""Convert a model to full-integer files for the Edge TPU: `keras-nin export` with int8 as the default scheme."""

import copy

from keras_nin.cli import export, main

if __name__ == "__main__":
    command = copy.copy(export.command)
    command.context_settings = {"default_map": {"scheme": "int8"}}
    command.epilog = """The Edge TPU compiler, which alone knows which operators it maps, does not run here.
    Example: python export/to_edgetpu.py nin_digits"""
    main.main(command=command, prog_name="to_edgetpu.py")
