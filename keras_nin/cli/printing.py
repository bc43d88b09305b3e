"""Text on stdout, whatever its encoding is."""

import sys

import click


def echo(text):
    """Print text as stdout's encoding can have it."""
    from keras_nin.tables import fit_encoding

    click.echo(fit_encoding(text, getattr(sys.stdout, "encoding", None) or "utf-8"))
