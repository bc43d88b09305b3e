"""`keras-nin claims`: what well-known articles say about 1x1 convolution, reproduced."""

import pathlib
import sys
import types

import click

from keras_nin.cli import options
from keras_nin.errors import InputError

PICTURED = "demystified-softconv"
_TRAINING = ("data", "epochs", "seeds", "activation")


@click.command(
    "claims",
    short_help="Reproduce what well-known articles say of 1x1 layers.",
    epilog="Example: keras-nin claims paperspace-params lecun-fc",
)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--train", is_flag=True, help="The trained figures too, of paperspace-head and paperspace-relu.")
@click.option("--data", metavar="DATASET|DIR|FILE.npz", help="With --train: images of ten classes. [default: digits]")
@click.option(
    "--epochs", type=options.COUNT, metavar="N", help="With --train: passes over the images. [default: the claim's]"
)
@click.option("--seeds", type=options.COUNT, metavar="N", help="With --train: runs of each network. [default: 3]")
@click.option(
    "--activation",
    type=click.Choice(("softmax", "sigmoid")),
    help="With --train: what the classifiers end in. [default: softmax; the article: sigmoid]",
)
@click.option(
    "--png", metavar="FILE.png", help=f"Save the 32 maps, their weights and the mask of {PICTURED} as a picture."
)
@click.option("--image", metavar="FILE", help="With --png: the photograph. [default: one that scikit-learn brings]")
@options.force_option
@click.option("--markdown", is_flag=True, help="One Markdown table.")
@options.json_option
def command(**arguments):
    """Reproduce claims of well-known articles about 1x1 convolution: the article's figure, ours, and where it holds.

    Without an ID, all claims. Our figures are computed now, from layers that are built, audited and run now. The
    verdict is on the article: holds, holds in part (another part does not hold or is not measured here), does not
    hold, not measured. The weights are random and seeded, except with --train.

    paperspace-speed is timed, in about 15 s: on a busy machine its intervals are wide.

    --train resizes the images to the 28x28 that the articles' networks take, and trains each network with the same
    images, order and steps: minutes.

    Exit status: 1 where a figure is not what the definition of the claim declares that a reproduction gives. A claim
    that is refuted is a result, and no failure; a trained accuracy is measured, and declared nowhere.
    """  # fmt: skip
    return _run(types.SimpleNamespace(**arguments))


def _run(given):
    from keras_nin import claims, files
    from keras_nin.claims import render
    from keras_nin.cli import stages

    chosen = [claims.claim(id) for id in dict.fromkeys(given.ids)] or list(claims.CLAIMS.values())
    _check(given, chosen)
    stages.start_keras()
    training = _training(given)
    picture = _picture(given)
    results = [claims.reproduce(claim, training) for claim in stages.track(chosen, "Reproducing", len(chosen))]
    if picture is not None:
        files.write(given.png, picture)
        stages.note(f"written: {given.png}")
    if given.as_json:
        stages.print_json(render.to_json(results))
    else:
        click.echo(render.markdown(results).rstrip() if given.markdown else render.text(results))
    return 0 if all(result.reproduced for result in results) else 1


def _check(given, chosen):
    """Raise `InputError` for options that do not go together, before anything slow starts."""
    if given.as_json and given.markdown:
        raise InputError("Expected one of --json and --markdown. Received: both")
    for option in () if given.train else _TRAINING:
        if getattr(given, option) is not None:
            raise InputError(f"Expected --{option} with --train. Received: no --train")
    trained = [claim.id for claim in chosen if claim.trained is not None]
    if given.train and not trained:
        raise InputError(
            "Expected --train with paperspace-head or paperspace-relu. "
            f"Received: {', '.join(claim.id for claim in chosen)}, with nothing to train"
        )
    if given.image is not None and given.png is None:
        raise InputError("Expected --image with --png. Received: no --png")
    if given.png is not None:
        _check_picture(given, chosen)


def _check_picture(given, chosen):
    from keras_nin.cli import stages

    path = pathlib.Path(given.png)
    if PICTURED not in [claim.id for claim in chosen]:
        raise InputError(f"Expected --png with {PICTURED}. Received: {', '.join(claim.id for claim in chosen)}")
    if path.suffix.lower() != ".png" or path.is_dir():
        raise InputError(f"Expected --png to name a .png file. Received: {given.png!r}")
    stages.check_output_folder(path.parent)


def _training(given):
    from keras_nin.claims import Training
    from keras_nin.cli import stages

    if not given.train:
        return None
    chosen = {option: getattr(given, option) for option in _TRAINING if getattr(given, option) is not None}
    return Training(**chosen, on_run=stages.note if sys.stderr.isatty() else None)


def _picture(given):
    """Return the PNG to write, None where there is none; a file with other content is replaced with --force alone."""
    if given.png is None:
        return None
    from keras_nin import files
    from keras_nin.claims import picture, softconv

    content, path = picture.png(softconv.maps_of(given.image)), pathlib.Path(given.png)
    files.refuse_other(path, content, given.force)
    return content
