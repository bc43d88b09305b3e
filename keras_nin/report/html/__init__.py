"""One self-contained HTML page of all that is known of some files: a pure function of records.

The page asks nothing of a network and runs no script, and says so in a Content-Security-Policy. Names that come from
files are escaped by Jinja; what would move a cursor or turn text around is shown as an escape. Pictures are data URIs.
"""

import functools

from keras_nin.report.html import contents
from keras_nin.tables import printable

_TITLE = "keras-nin report"


def page(subjects, *, others=(), warnings=()):
    """Return the page as text; the same text for the same records.

    Args:
        subjects: `keras_nin.report.subjects.Subject`s, each a section.
        others: what is of no file alone (see `contents.of_others`), each a section after those.
        warnings: about the machine that measured, above everything.
    """
    sections = (*contents.of_subjects(subjects), *contents.of_others(others))
    template = _environment().get_template("page.html.j2")
    title = _TITLE if len(subjects) != 1 else f"{subjects[0].title} - {_TITLE}"
    return template.render(
        title=title,
        overview=contents.overview(subjects),
        machines=contents.machines(subjects),
        warnings=tuple(dict.fromkeys(warnings)),
        sections=sections,
        looks=contents.LOOKS,
    )


@functools.cache
def _environment():
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("keras_nin.report.html", "templates"),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value):
    """Return text as it can be shown; what is markup, because Jinja made it, stays."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else printable(value)
