"""Columns of a file as they stand in it, and what a benchmark makes of them: texts and label numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from typing import Any

import numpy as np

from fedapp.core.errors import RowError

_INTEGER = re.compile(r"[+-]?\d{1,18}(?:\.0*)?", re.ASCII)
_TEXTS = "a text, a number, true or false"


class NotANumber:
    """``NaN``, ``Infinity`` or ``-Infinity`` in a JSON file: an error only where it is read."""

    def __init__(self, written: str) -> None:
        self.written = written


@dataclass(frozen=True)
class Table:
    """Columns of one file.

    Attributes:
        where: What messages call the file, the setting included.
        unit: ``line`` or ``row``: what ``numbers`` count.
        numbers: Where each row stands in the file, from 1.
        columns: Cells by column: texts (numbers of JSON files are texts already), null as None, whatever
            else the format knows.
    """

    where: str
    unit: str
    numbers: Sequence[int]
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, index: int) -> str:
        """What messages call a row, by its index from 0."""
        return f"{self.where} {self.unit} {self.numbers[index]}"

    def error(self, index: int, found: str, value: Any = None) -> RowError:
        """An error about a row.

        Args:
            index: The row, from 0.
            found: What is wrong, without what stands in the row.
            value: What stands there, for the party's own log.
        """
        text = f"{self.place(index)}: {found}"
        return RowError(text, f"{text}; it is {_shown(value)}")

    def texts(self, column: str, *, blank: str | None = None, empty: bool = True) -> list[str]:
        """A column's cells as texts: numbers as written, booleans as ``true`` and ``false``.

        Args:
            column: Its name; one that the file lacks has null in every row.
            blank: What null is read as; None refuses null.
            empty: Whether a text may be empty or of blanks alone.

        Raises:
            RowError: If a cell is null, NaN or infinite, a list, an object, or a text that is not wanted.
        """
        cells = self.columns.get(column)
        if cells is None:
            cells = [None] * len(self)
        texts = []
        for index, cell in enumerate(cells):
            text = cell if isinstance(cell, str) else blank if cell is None else as_text(cell)
            if text is None:
                raise self.error(index, f"{column} is {kind_of(cell)}; it must be {_TEXTS}", cell)
            if not empty and (not text or text.isspace()):
                raise self.error(index, f"{column} is empty; it must be {_TEXTS}", cell)
            texts.append(text)
        self.require_encodable(column, texts)
        return texts

    def require_encodable(self, column: str, texts: Sequence[str]) -> None:
        """Refuse texts that are no Unicode text: half a surrogate pair, which JSON can write.

        Raises:
            RowError: With the first such row.
        """
        try:
            "\n".join(texts).encode()
        except UnicodeEncodeError:
            for index, text in enumerate(texts):
                if text.encode(errors="replace").decode() != text:
                    raise self.error(index, f"{column} holds half of a surrogate pair", text) from None

    def integers(self, column: str) -> list[int]:
        """A column of whole numbers, also where they are written as texts.

        Raises:
            RowError: If a cell is something else.
        """
        numbers = []
        for index, cell in enumerate(self.columns[column]):
            text = None if isinstance(cell, bool) else as_text(cell)
            if text is None or not _INTEGER.fullmatch(text.strip()):
                found = "no whole number" if isinstance(cell, str) else kind_of(cell)
                raise self.error(index, f"{column} is {found}; it must be the label's number", cell)
            numbers.append(int(text.strip().split(".")[0]))
        return numbers

    def labels(self, column: str, names: Sequence[str]) -> list[int]:
        """A column of label numbers.

        Args:
            column: Its name.
            names: The labels in the order of their numbers.

        Raises:
            RowError: If a cell is no whole number or none of the labels'.
        """
        numbers = self.integers(column)
        for index, number in enumerate(numbers):
            if number not in range(len(names)):
                known = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
                raise self.error(index, f"{column} is the number of no label; known: {known}", number)
        return numbers


def as_text(cell: Any) -> str | None:
    """A cell as a text; None where that cannot be said without guessing."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, (bool, np.bool_)):
        return "true" if cell else "false"
    if isinstance(cell, (float, np.floating)):
        return str(cell) if math.isfinite(cell) else None
    if isinstance(cell, Decimal):
        return str(cell) if cell.is_finite() else None
    if isinstance(cell, (int, np.integer, date, time)):
        return str(cell)
    return None


_KINDS: Sequence[tuple[Callable[[Any], bool], str]] = (
    (lambda cell: cell is None, "missing or null"),
    (lambda cell: isinstance(cell, NotANumber), "NaN or infinite"),
    (lambda cell: isinstance(cell, (float, np.floating, Decimal)), "NaN or infinite"),
    (lambda cell: isinstance(cell, bool), "true or false"),
    (lambda cell: isinstance(cell, str), "a text"),
    (lambda cell: isinstance(cell, Mapping), "an object"),
    (lambda cell: isinstance(cell, (bytes, bytearray)), "bytes"),
    (lambda cell: isinstance(cell, Sequence), "a list"),
)


def kind_of(cell: Any) -> str:
    """What a cell that cannot be used is, in words, without what stands in it."""
    return next((name for fits, name in _KINDS if fits(cell)), f"a {type(cell).__name__}")


def _shown(value: Any) -> str:
    shown = value.written if isinstance(value, NotANumber) else repr(value)
    return shown if len(shown) <= 200 else shown[:198] + " …"
