"""Prompts for a kept adapter: rows of a file, or a line that somebody types, in the benchmark's template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedapp.core.errors import RowError, one_line
from fedapp.core.types import Example

# What a row need not say, as only its prompt is wanted: the answers' columns, and an input that few have.
_OPTIONAL: dict[str, Any] = {
    "label": 0, "target": "", "task": "", "answer": "", "output": "", "input": ""
}  # fmt: skip


class _Row(Mapping[str, Any]):
    """A row whose answer may be missing; notes which other columns a template asks for."""

    def __init__(self, given: Mapping[str, Any], anything: str | None = None) -> None:
        self.given, self._anything = given, anything
        self.asked: list[str] = []

    def __getitem__(self, key: str) -> Any:
        if key not in _OPTIONAL and key not in self.asked:
            self.asked.append(key)
        if key in self.given:
            return self.given[key]
        if key in _OPTIONAL:
            return _OPTIONAL[key]
        if self._anything is not None:
            return self._anything
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter({**_OPTIONAL, **self.given})

    def __len__(self) -> int:
        return len({**_OPTIONAL, **self.given})


def read_examples(file: Path, benchmark: Any) -> list[Example]:
    """Rows of a JSONL file as prompts.

    A row holds the columns of the benchmark, whose template makes the prompt of them, or else a column
    ``prompt`` that is asked as it stands. Columns with answers may be missing.

    Raises:
        ValueError: If the file cannot be read, is no JSON lines or holds no row, or a row cannot be used;
            names file and line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is no text in UTF-8, so no JSON lines") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.append(_example(line, f"{file}, line {number}", benchmark))
    if not found:
        raise ValueError(f'{file} holds no row; a row is a line of JSON such as {{"prompt": "…"}}')
    return found


def _example(line: str, place: str, benchmark: Any) -> Example:
    try:
        given = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place}, is no JSON: {one_line(error)}") from None
    if not isinstance(given, dict):
        raise ValueError(f'{place}, is no JSON object such as {{"prompt": "…"}}')
    row = _Row(given)
    try:
        return benchmark.template(row)
    except KeyError as error:
        missing = str(error.args[0])
    except RowError as error:
        raise ValueError(f"{place}: {error.private}") from None
    except (AttributeError, TypeError, ValueError, IndexError):
        raise ValueError(f"{place}: one of {', '.join(row.asked)} is of a wrong type") from None
    if isinstance(given.get("prompt"), str):
        return Example(given["prompt"], "")
    raise ValueError(f"{place}, has no column {missing!r}, and no prompt; it has: {', '.join(given)}")


def text_column(benchmark: Any) -> str | None:
    """The only column that the template asks for; None where it wants several, or more than text."""
    row = _Row({}, anything="x")
    try:
        benchmark.template(row)
    except (RowError, AttributeError, TypeError, ValueError, IndexError):
        return None
    return row.asked[0] if len(row.asked) == 1 else None


def as_prompt(text: str, benchmark: Any) -> str:
    """A text in the benchmark's template where that takes one text, else as it stands."""
    column = text_column(benchmark)
    return text if column is None else str(benchmark.template(_Row({column: text})).prompt)
