"""Convert a model to full-integer files for the Edge TPU: `keras-nin export` of int8, and the verdict on each file."""

import copy

import click

from keras_nin.cli import edgetpu, export, main

if __name__ == "__main__":
    command = copy.copy(export.command)
    command.context_settings = {"default_map": {"scheme": "int8"}}
    command.callback = click.pass_context(edgetpu.export_and_judge)
    command.epilog = (
        "The verdict is predicted; see `keras-nin edgetpu`. Example: python export/to_edgetpu.py nin_digits"
    )
    main.main(command=command, prog_name="to_edgetpu.py")
