"""The outputs that README.md shows: how they are made again. `python tests/readme_blocks.py` writes them anew."""

import contextlib
import io
import os
import pathlib
import re
import shlex
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
PHOTOGRAPHS = "photos/"  # in a command: needs third-party data
OUTPUT = re.compile(r"<!-- output: (?P<command>.+?) -->\n(?P<body>.*?)<!-- end -->", re.DOTALL)
MODELS = re.compile(r"<!-- models -->\n(?P<table>.*?)<!-- end -->", re.DOTALL)
SCHEMES = re.compile(r"<!-- schemes -->\n(?P<table>.*?)<!-- end -->", re.DOTALL)
PYTHON = re.compile(
    r"<!-- python -->\n```python\n(?P<code>.*?)```\n<!-- prints -->\n(?P<body>.*?)<!-- end -->", re.DOTALL
)


def outputs():
    """Return the shown output of each command by the command."""
    return {match["command"]: shown(match["body"]) for match in OUTPUT.finditer(README.read_text())}


def models_table():
    """Return the table of models that the README shows."""
    return MODELS.search(README.read_text())["table"]


def shelf_table():
    """Return the table of models in the shelf's index, with links from the README's place."""
    lines = (ROOT / "models" / "README.md").read_text().splitlines()
    rows = [line.replace("](", "](models/") for line in lines if line.startswith("|")]
    return "\n".join(rows) + "\n"


def schemes_table():
    """Return the table of schemes that the README shows."""
    return SCHEMES.search(README.read_text())["table"]


def package_schemes_table():
    """Return the table of schemes as the package has it."""
    from keras_nin.export import schemes
    from keras_nin.formatting import format_markdown_table

    return format_markdown_table(schemes.SCHEME_COLUMNS, schemes.scheme_table_rows()) + "\n"


def python_block():
    """Return the Python code that the README shows, and what it says that it prints."""
    match = PYTHON.search(README.read_text())
    return match["code"], shown(match["body"])


def shown(body):
    """Return the text inside a fence without the line of the command."""
    lines = body.strip().splitlines()[1:-1]
    return "\n".join(line for line in lines if not line.startswith("$ "))


def run(command):
    """Return what a command prints on stdout; it runs in this process, in the current folder."""
    from keras_nin.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main.run(shlex.split(command)[1:])
    if status:
        raise RuntimeError(f"{command} ended with status {status}")
    return out.getvalue().rstrip()


def execute(code):
    """Return what Python code prints on stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    return out.getvalue().rstrip()


def link_photographs(data, folder):
    """Make what the command on photographs names appear in `folder`."""
    (folder / "photos").symlink_to(data / "images" / "imagenet_samples")
    (folder / "squeezenet_v1_1_imagenet.npz").symlink_to(data / "weights" / "squeezenet_v1_1_imagenet.npz")


def _fenced(command, text):
    line = f"$ {command}\n" if command else ""
    return f"```text\n{line}{text}\n```\n"


def _renew(match, data):
    command = match["command"]
    if PHOTOGRAPHS in command and not data:
        print(f"left as it is, KERAS_NIN_DATA is not set: {command}")
        return match[0]
    return f"<!-- output: {command} -->\n{_fenced(command, run(command))}<!-- end -->"


def _renew_python(match):
    code, body = match["code"], _fenced("", execute(match["code"]))
    return f"<!-- python -->\n```python\n{code}```\n<!-- prints -->\n{body}<!-- end -->"


def main():
    """Write every output in README.md anew."""
    data = os.environ.get("KERAS_NIN_DATA")
    text = README.read_text()
    with tempfile.TemporaryDirectory() as folder:
        if data:
            link_photographs(pathlib.Path(data).resolve(), pathlib.Path(folder))
        os.chdir(folder)
        text = OUTPUT.sub(lambda match: _renew(match, data), text)
        text = PYTHON.sub(_renew_python, text)
        text = SCHEMES.sub(lambda _: f"<!-- schemes -->\n{package_schemes_table()}<!-- end -->", text)
        text = MODELS.sub(lambda _: f"<!-- models -->\n{shelf_table()}<!-- end -->", text)
    README.write_text(text)
    print(f"written: {README}")


if __name__ == "__main__":
    sys.exit(main())
