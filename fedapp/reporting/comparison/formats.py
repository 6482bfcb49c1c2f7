"""A comparison for other programs: CSV and JSON in numbers, Markdown and LaTeX as it is read."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable

from fedapp.core.errors import printable
from fedapp.reporting.comparison.rows import Comparison
from fedapp.reporting.comparison.shown import OF_TEXT, cells_of, notes_of

# What LaTeX has no plain character for, or reads as something else than it is.
_LATEX = {
    "\\": r"\textbackslash{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "–": "--",
}


def as_csv(comparison: Comparison) -> str:
    """A line for each configuration; lists are joined by blanks, unknown values are empty."""
    rows = comparison.rows()
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: " ".join(map(str, v)) if isinstance(v, list) else v for key, v in row.items()})
    return stream.getvalue()


def as_json(comparison: Comparison) -> str:
    """An object with the rows, and with the notes that say what their numbers are."""
    told = {"metric": comparison.metric, "rows": comparison.rows(), "notes": list(notes_of(comparison))}
    return json.dumps(told, indent=1) + "\n"


def as_markdown(comparison: Comparison) -> str:
    """A table of GitHub's Markdown, its notes as a list below."""
    columns, rows = cells_of(comparison)
    lines = [_row(columns), _row([":--" if name in OF_TEXT else "--:" for name in columns])]
    lines += [_row([_plain(cell).replace("|", r"\|") for cell in row]) for row in rows]
    return "\n".join([*lines, "", *(f"- {printable(note)}" for note in notes_of(comparison)), ""])


def as_latex(comparison: Comparison) -> str:
    r"""A tabular with the rules of booktabs (``\usepackage{booktabs}``), its notes as comments above."""
    columns, rows = cells_of(comparison)
    kinds = "".join("l" if name in OF_TEXT else "r" for name in columns)
    lines = [f"% {printable(note)}" for note in notes_of(comparison)]
    lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", _latex_row(columns), r"\midrule"]
    return "\n".join([*lines, *map(_latex_row, rows), r"\bottomrule", r"\end{tabular}", ""])


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "csv": as_csv,
    "markdown": as_markdown,
    "latex": as_latex,
    "json": as_json,
}
"""How a comparison can be written, by the name of the format."""


def _plain(cell: str) -> str:
    return printable(" ".join(cell.split()))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _latex_row(cells: list[str]) -> str:
    escaped = ("".join(_LATEX.get(char, char) for char in _plain(cell)) for cell in cells)
    minus = (re.sub(r"(?<![\w.-])-(?=\d)", "$-$", cell) for cell in escaped)
    return " & ".join(minus) + r" \\"
