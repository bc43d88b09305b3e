"""Plain text and Markdown tables, never cut to a terminal's width."""

_COLUMN_GAP = "   "


def format_table(columns, rows, *, right=(), title=None):
    """Return a table as text.

    Args:
        columns: headings.
        rows: lists of strings, one a column.
        right: headings of the columns that are set to the right.
        title: line above the table.
    """
    from rich.cells import cell_len

    lines = [[escape_unprintable(cell) for cell in line] for line in (columns, *rows)]
    sizes = [[cell_len(cell) for cell in line] for line in lines]
    widths = [max(sizes_of_column) for sizes_of_column in zip(*sizes, strict=True)]
    to_right = [column in right for column in columns]
    text = [_format_row(*line, widths, to_right) for line in zip(lines, sizes, strict=True)]
    rule = " " + "─" * (sum(widths) + len(_COLUMN_GAP) * (len(widths) - 1))
    return "\n".join([*([] if title is None else [escape_unprintable(title)]), text[0], rule, *text[1:]])


def _format_row(cells, sizes, widths, to_right):
    padded = []
    for cell, size, width, to_the_right in zip(cells, sizes, widths, to_right, strict=True):
        space = " " * (width - size)
        padded.append(space + cell if to_the_right else cell + space)
    return f" {_COLUMN_GAP.join(padded)}".rstrip()


def format_markdown_table(columns, rows, *, right=()):
    """Return a table as Markdown; arguments as in `text_table`."""
    rule = ["---:" if column in right else "---" for column in columns]
    lines = (
        [_escape_markdown(cell) for cell in columns],
        rule,
        *([_escape_markdown(cell) for cell in row] for row in rows),
    )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escape_markdown(cell):
    return escape_unprintable(" ".join(cell.splitlines())).replace("|", "\\|")


def escape_unprintable(text, encoding="utf-8"):
    r"""Return `text` with what would move the cursor, or what `encoding` lacks, as an escape such as ``\x1b``.

    Names come from users and files: printed as they are, they could recolour a terminal or break a table.
    """
    if not text.isprintable():
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def fit_encoding(text, encoding):
    """Return `text` as it can be written in `encoding`: rules and bars as ASCII, other characters as escapes."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("─", "-").encode(encoding, "backslashreplace").decode(encoding)
    return text
