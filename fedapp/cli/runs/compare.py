"""``fedapp compare``: finished runs side by side, seeds together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from fedapp.cli.output import nearest
from fedapp.records.table import print_notes, print_table
from fedapp.reporting.comparison.rows import Question, compare_runs

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
FORMATS = ("table", "csv", "markdown", "latex", "json")


def compare(
    roots: Sequence[Path],
    stream: TextIO,
    warn: Callable[[str], None],
    question: Question | None = None,
    form: str = "table",
) -> None:
    """Print a row per configuration: mean and standard deviation over its seeds, bytes, time.

    Args:
        roots: Run folders, or folders with run folders somewhere below.
        stream: Where to print.
        warn: Told in one line of each run that cannot be read; the others are compared.
        question: What is asked.
        form: One of ``FORMATS``.

    Raises:
        ValueError: If there is no such format, or runs cannot be compared as asked.
    """
    if form not in FORMATS:
        raise ValueError(f"--format {form} is none{nearest(form, FORMATS)}")
    found = compare_runs(roots, warn, question)
    from fedapp.reporting.comparison.formats import FORMATS as WRITERS
    from fedapp.reporting.comparison.shown import OF_TEXT, cells_of, notes_of

    if form in WRITERS:
        stream.write(WRITERS[form](found))
        return
    columns, rows = cells_of(found)
    print_table(columns, rows, stream, left=OF_TEXT)
    print_notes(list(notes_of(found)), stream)


def read_size(text: str) -> int:
    """Bytes from ``5MB``, ``500 kB`` or ``1000``, in powers of 1,000.

    Raises:
        ValueError: If it is no such size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or found[2].lower() not in _UNITS or float(found[1]) <= 0:
        raise ValueError(f"--within {text} is no size; it must be a number of bytes, such as 500kB or 2.5MB")
    return round(float(found[1]) * _UNITS[found[2].lower()])
