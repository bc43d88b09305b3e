"""`keras-nin report`: all that is known of some files as one HTML page, and the plots alone as PNG files."""

import pathlib
import sys
import types

import click

from keras_nin.cli import options
from keras_nin.errors import InputError

_READ = (".tflite", ".json", ".csv")


@click.command(
    "report",
    short_help="Write all that is known of files as one HTML page.",
    epilog="Example: keras-nin report exported/nin_digits_int8.tflite benchmark.json -o report.html",
)
@click.argument("given", nargs=-1, required=True, metavar="FILE|JSON|CSV|MODEL...")
@click.option("-o", "--out", metavar="FILE.html", help="Where the page goes.")
@click.option("--png", metavar="DIR", help="Save the plots as PNG files in this folder.")
@options.force_option
def report_command(given, out, png, force):
    """Write all that is known of some files as one HTML page that needs no network and runs no script.

    A .tflite file is audited and judged for the Edge TPU, without TensorFlow; the .json that `keras-nin export` left
    beside it adds how it was made and its parity. A MODEL is audited as built. JSON is what other commands print or
    write: of audit, export, evaluate, claims, compare-runs, fit and edgetpu, and of benchmark, ethosu and micro, which
    are joined to their .tflite file by the file's hash. CSV is that of `keras-nin sweep`.

    \b
    More examples:
      keras-nin benchmark a.tflite --json > a_host.json
      keras-nin report a.tflite a_host.json -o report.html --png plots
    """
    out, png = _output_paths(out, png)
    from keras_nin import files
    from keras_nin.report.html import page
    from keras_nin.workflows import models

    models.check_output_folder(out.parent if out else png)
    found = [item for each in given for item in _read_document(each)]
    contents = {}
    with models.working("Drawing"):
        if out:
            contents[out] = page.render_page(found).encode()
        if png:
            contents |= {png / name: content for name, content in page.render_plots(found).items()}
    if not contents:
        raise InputError("Expected a benchmark with layers, or a sweep, for --png. Received: none")
    for path in files.write_files(contents, force):
        models.note(f"written: {path}")


def _output_paths(out, png):
    """Return where the page and the plots go; `InputError` before anything slow starts."""
    if out is None and png is None:
        raise InputError("Expected -o FILE.html, --png DIR or both. Received: neither")
    path = None if out is None else pathlib.Path(out)
    if path is not None and (path.suffix.lower() not in (".html", ".htm") or path.is_dir()):
        raise InputError(f"Expected -o to name a .html file. Received: {out!r}")
    return path, None if png is None else pathlib.Path(png)


def _read_document(given):
    """Return what a file holds, or the audit of a MODEL."""
    if given.lower().endswith(_READ):
        from keras_nin.report import documents

        return documents.read_documents(given)
    from keras_nin.audit import audit_model
    from keras_nin.report.documents import NamedAudit
    from keras_nin.workflows import models

    loaded = models.load_model(given)
    return (NamedAudit(loaded.name, audit_model(loaded.model, name=loaded.name)),)


# MERGED `keras-nin claims`: what well-known articles say about 1x1 convolution, reproduced.

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
def claims_command(**arguments):
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
    return _reproduce_claims(types.SimpleNamespace(**arguments))


def _reproduce_claims(given):
    from keras_nin import claims, files
    from keras_nin.report import claims as claims_module
    from keras_nin.workflows import models

    chosen = [claims.get_claim(id) for id in dict.fromkeys(given.ids)] or list(claims.CLAIMS.values())
    _check_claims_options(given, chosen)
    models.start_keras()
    training = _training(given)
    picture = _draw_picture(given)
    tracked = models.track(chosen, "Reproducing", len(chosen))
    result = claims.ClaimsResult(tuple(claims.reproduce_claim(claim, training) for claim in tracked))
    if picture is not None:
        files.write_file(given.png, picture)
        models.note(f"written: {given.png}")
    if given.as_json:
        models.print_json(result.to_json())
    else:
        click.echo(
            claims_module.format_claims_markdown(result).rstrip()
            if given.markdown
            else claims_module.format_claims(result)
        )
    return 0 if result.reproduced else 1


def _check_claims_options(given, chosen):
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
    from keras_nin.workflows import models

    path = pathlib.Path(given.png)
    if PICTURED not in [claim.id for claim in chosen]:
        raise InputError(f"Expected --png with {PICTURED}. Received: {', '.join(claim.id for claim in chosen)}")
    if path.suffix.lower() != ".png" or path.is_dir():
        raise InputError(f"Expected --png to name a .png file. Received: {given.png!r}")
    models.check_output_folder(path.parent)


def _training(given):
    from keras_nin.claims import ClaimTraining
    from keras_nin.workflows import models

    if not given.train:
        return None
    chosen = {option: getattr(given, option) for option in _TRAINING if getattr(given, option) is not None}
    return ClaimTraining(**chosen, on_run=models.note if sys.stderr.isatty() else None)


def _draw_picture(given):
    """Return the PNG to write, None where there is none; a file with other content is replaced with --force alone."""
    if given.png is None:
        return None
    from keras_nin import claims, figures, files

    content, path = figures.render_png(claims.compute_soft_mask(given.image).plot()), pathlib.Path(given.png)
    files.needs_writing(path, content, given.force)
    return content
