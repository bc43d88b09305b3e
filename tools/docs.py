"""The generated parts of README.md and docs/: run them again, compare them, or write them anew.

    python tools/docs.py            # writes every generated block anew
    python tools/docs.py PAGE...    # writes those of some pages

A generated block stands between two comments:

    <!-- output: COMMAND -->    what a `keras-nin` command prints, in a fence
    <!-- python -->             Python code, and in a second fence, where there is one, what it prints
    <!-- table: NAME -->        a table made from the package's own records
    <!-- end -->

The blocks of a page run in order in one folder, and its Python blocks share their variables. Blocks that name
``photos/`` need third-party data (KERAS_NIN_DATA) and are skipped without it.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import re
import shlex
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).parent.parent
PHOTOS = "photos/"
_BLOCK = re.compile(
    r"<!-- (?P<kind>output|python|table)(?:: (?P<argument>.+?))? -->\n(?P<body>.*?)<!-- end -->", re.DOTALL
)
_FENCE = re.compile(r"```(?P<language>\w+)\n(?P<text>.*?)```\n", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """A generated block of a page.

    Attributes:
        kind: "output", "python" or "table".
        argument: the command, or the table's name; empty for Python code.
        body: the text between its comments.
    """

    kind: str
    argument: str
    body: str

    @property
    def fences(self) -> list[str]:
        """The contents of its fences, without the line that repeats the command."""
        return [match["text"].removeprefix(f"$ {self.argument}\n") for match in _FENCE.finditer(self.body)]

    @property
    def needs_photos(self) -> bool:
        """Whether it needs third-party photographs."""
        return PHOTOS in self.argument or (self.kind == "python" and PHOTOS in self.body)

    def shown(self) -> str:
        """Return what the page shows as the result."""
        if self.kind == "table":
            return self.body.strip()
        fences = self.fences
        return fences[-1].rstrip() if self.kind == "output" or len(fences) > 1 else ""

    def run(self, variables: dict[str, object]) -> str:
        """Return the result of running it again in the current folder.

        Args:
            variables: what the page's Python blocks have defined so far; changed by a Python block.

        Raises:
            RuntimeError: a command ends with an exit status that the page does not announce.
        """
        if self.kind == "output":
            if "exported/" in self.argument and not os.path.exists("exported"):
                _provide_export()
            return _run_command(self.argument)
        if self.kind == "table":
            return TABLES[self.argument]().strip()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(self.fences[0], "page", "exec"), variables)
        return printed.getvalue().rstrip() if len(self.fences) > 1 else ""

    def render(self, result: str) -> str:
        """Return the block as text with another result."""
        argument = f": {self.argument}" if self.argument else ""
        if self.kind == "table":
            body = f"{result}\n"
        elif self.kind == "output":
            body = f"```text\n$ {self.argument}\n{result}\n```\n"
        else:
            body = f"```python\n{self.fences[0]}```\n" + (f"\n```text\n{result}\n```\n" if len(self.fences) > 1 else "")
        return f"<!-- {self.kind}{argument} -->\n{body}<!-- end -->"


def list_pages() -> list[pathlib.Path]:
    """Return the paths of README.md and of every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read_blocks(page: pathlib.Path) -> list[Block]:
    """Return the generated blocks of a page, in order."""
    return [_make_block(match) for match in _BLOCK.finditer(page.read_text())]


def _make_block(match: re.Match[str]) -> Block:
    return Block(match["kind"], match["argument"] or "", match["body"])


def _run_command(command: str) -> str:
    from keras_nin.cli import main

    command, _, expected = command.partition("  # exit status ")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main.run(shlex.split(command, comments=True)[1:])
    if status != int(expected or 0):
        raise RuntimeError(f"`{command}` ended with exit status {status}")
    return printed.getvalue().rstrip()


def _provide_export() -> None:
    """Copy the files of `keras-nin export`, which are made once for all pages, into the folder of a page."""
    made = pathlib.Path("..", "exported")
    if not made.exists():
        _run_command(f"keras-nin export --out {made}")
    shutil.copytree(made, "exported")


@contextlib.contextmanager
def working_folder(folder: pathlib.Path) -> Iterator[None]:
    """Make a new `folder` of a page the current one, 80 columns wide, with third-party data where there is any."""
    before = pathlib.Path.cwd()
    folder.mkdir()
    os.chdir(folder)
    os.environ["COLUMNS"] = "80"  # what help is wrapped to
    try:
        data = os.environ.get("KERAS_NIN_DATA")
        if data:
            data = before / data
            pathlib.Path("photos").symlink_to(data.resolve() / "images" / "imagenet_samples")
            weights = "squeezenet_v1_1_imagenet.npz"
            pathlib.Path(weights).symlink_to(data.resolve() / "weights" / weights)
        yield
    finally:
        os.chdir(before)


# What differs from run to run and from machine to machine: times and what is computed from them (shares, rates, bounds,
# numbers of runs), memory of the process, signal-to-noise ratios and the host. The rest is compared exactly; LSBs too:
# one export of nin_digits to int8 printed the same of them on an Intel Xeon and on an AMD EPYC, and the same with
# oneDNN's kernels for AVX, with those for SSE4.1 and without oneDNN. Only the rounding noise of float32 differed.
_MEASURED_COLUMNS = re.compile(
    r"^(us|ms|latency|share|GMAC/s|of roof|of peak|bound|runs|load ms|peak MiB|SNR|SNR change|added noise"
    r"|.*95% interval|.*\bus\b.*|ratio.*)$"
)
_MEASURED_ROWS = re.compile(r"^(this CPU|CPU) ")  # of `keras-nin fit`
_UNITS = r"(us|ms|s|dB|GMAC/s|runs?|images per second)\b"
_NO_LIMIT = r"(?<!limit )(?<!limit at most )(?<!limit at least )(?<![\d,.-])"
_MEASURED = (
    (re.compile(r"^.*LiteRT \d+\.\d+\.\d+.*$", re.MULTILINE), "<host>"),
    # What a benchmark says of the times that it measured.
    (re.compile(r"^Warning: (the machine is busy: |the processor's frequency |.*: the median is not known to 1% ).*$",
                re.MULTILINE), ""),
    (re.compile(r"(threads? on )\S.*"), r"\1<host>"),
    (re.compile(r" \(95% interval [^)]* to [^)]*\)"), ""),  # short runs may be too few for one
    (re.compile(rf"{_NO_LIMIT}-?[\d,.]+(e-?\d+)?(?=( to -?[\d,.]+)? {_UNITS})"), "#"),
    (re.compile(rf"(?<= to )-?[\d,.]+(?= {_UNITS})"), "#"),
    (re.compile(r"(?<=# )(us|ms|s)\b"), "time"),
    (re.compile(r"(ratio|interval) -?\d[\d,.]*( to \d[\d,.]*)?"), r"\1 #"),
    (re.compile(r"[\d.]+%(?= of the run)"), "#"),
    (re.compile(r"\b0\.000\d+\b"), "0.000#"),  # LSBs of float32: 0.0002 on the Xeon, 0.0001 on the EPYC
)  # fmt: skip


def mask_measurements(text: str) -> str:
    """Return printed text with timings, signal-to-noise ratios and the host masked and spaces normalized."""
    lines, table = [], []
    for line in [*text.splitlines(), ""]:
        if table and not line.strip():
            lines += _mask_table(table)
            table = []
        if table or _is_rule(line):
            if not table and lines:
                table.append(lines.pop())
            table.append(line)
        else:
            lines.append(line)
    masked = "\n".join(lines)
    for pattern, replacement in _MEASURED:
        masked = pattern.sub(replacement, masked)
    return re.sub(r"[ \t]+", " ", re.sub(r"\n\s*\n", "\n", masked)).strip()


def _is_rule(line: str) -> bool:
    return bool(line.strip()) and set(line.strip()) == {"─"}


def _mask_table(lines: list[str]) -> list[str]:
    """Return the lines of a printed table (head, rule, rows) with one space between cells, measured columns masked."""
    head, _, *rows = lines
    width = max(map(len, lines))
    padded = [line.ljust(width) for line in (head, *rows) if line.strip()]
    blank = [all(line[at] == " " for line in padded) for at in range(width)]
    edges, start = [], 0
    for gap in re.finditer(r"1{2,}", "".join("01"[value] for value in blank)):
        if gap.start() > start:
            edges.append((start, gap.start()))
        start = gap.end()
    edges.append((start, width))
    cells = [[line[low:high].strip() for low, high in edges] for line in padded]
    measured = [bool(_MEASURED_COLUMNS.match(name)) for name in cells[0]]
    return [
        " | ".join(
            "#" if number and (mask or (_MEASURED_ROWS.match(row[0]) and cell != row[0])) else cell
            for cell, mask in zip(row, measured, strict=True)
        )
        for number, row in enumerate(cells)
    ]


def _models_table() -> str:
    lines = (ROOT / "models" / "README.md").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("|"))


def _schemes_table() -> str:
    from keras_nin.export import schemes
    from keras_nin.formatting import format_markdown_table

    return format_markdown_table(schemes.SCHEME_COLUMNS, schemes.scheme_table_rows())


def _own_models_table() -> str:
    from keras_nin.formatting import format_markdown_table

    expected = tomllib.loads((ROOT / "tests" / "own_models" / "expected.toml").read_text())
    columns = [key for key in next(iter(expected.values())) if key not in ("what", "options")]
    rows = [
        [network["what"], network.get("options", ""), *(network.get(column, "-") for column in columns)]
        for network in expected.values()
    ]
    return format_markdown_table(["network", "options", *columns], rows)


def _claims_table() -> str:
    from keras_nin.claims import CLAIMS
    from keras_nin.formatting import Markdown, format_link, format_markdown_table

    rows = [
        [
            format_link(claim.source, claim.url) if claim.url else claim.source,
            claim.text,
            Markdown(f"`keras-nin claims {claim.id}`"),
        ]
        for claim in CLAIMS.values()
    ]
    return format_markdown_table(("article", "claim", "command"), rows)


def _downloads_table() -> str:
    from keras_nin.data import Preprocessing
    from keras_nin.formatting import Markdown, format_link, format_markdown_table
    from keras_nin.models.downloads import DOWNLOADS

    columns = ("model", "weights", "publisher", "file", "hash", "arguments", "preprocessing", "top-1", "top-5")
    rows = [
        [
            model,
            weights,
            row.publisher,
            format_link(row.file_name, row.url),
            f"{row.algorithm.upper().replace('SHA', 'SHA-')} {row.hash}",
            Markdown(", ".join(f"`{name}={value}`" for name, value in row.arguments.items()) or "-"),
            str(Preprocessing.from_json(row.preprocessing)),
            f"{row.top1:g}%",
            f"{row.top5:g}%",
        ]
        for (model, weights), row in DOWNLOADS.items()
    ]
    return format_markdown_table(columns, rows, right=("top-1", "top-5"))


TABLES: dict[str, Callable[[], str]] = {
    "downloads": _downloads_table,
    "models": _models_table,
    "schemes": _schemes_table,
    "own models": _own_models_table,
    "claims": _claims_table,
}


def write_page(page: pathlib.Path) -> None:
    """Write the generated blocks of a page anew; those that need photographs stay without KERAS_NIN_DATA."""
    variables: dict[str, object] = {}

    def renew(match: re.Match[str]) -> str:
        block = _make_block(match)
        if block.needs_photos and not os.environ.get("KERAS_NIN_DATA"):
            print(f"kept, KERAS_NIN_DATA is not set: {page.name}: {block.argument or 'python'}", file=sys.stderr)
            return match[0]
        return block.render(block.run(variables))

    text = page.read_text()
    renewed = _BLOCK.sub(renew, text)
    if renewed != text:
        page.write_text(renewed)
    print(f"{'written' if renewed != text else 'unchanged'}: {page.relative_to(ROOT)}", file=sys.stderr)


def main() -> None:
    """Write the generated blocks of the pages named on the command line, or of all pages."""
    pages = [pathlib.Path(name).resolve() for name in sys.argv[1:]] or list_pages()
    with tempfile.TemporaryDirectory() as folder:
        for number, page in enumerate(pages):
            with working_folder(pathlib.Path(folder, f"page{number}")):
                write_page(page)


if __name__ == "__main__":
    main()
