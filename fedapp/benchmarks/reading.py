"""The one reader of files with rows: JSON lines, JSON, CSV, TSV, Parquet and saved ``datasets`` folders.

What stands in a cell is read as it is written there; nothing is made of a column as a whole, so one
odd value changes no other. Columns that nobody asked for are not looked at.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedapp.benchmarks.table import NotANumber, Table
from fedapp.core.errors import RowError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Endings of files with rows; a folder that ``datasets`` saved has none."""
SAVED = "state.json"
"""File by which a saved ``datasets`` folder is known."""

# Numbers stay the text that they are in the file, and are not confused with one another: 1, 1.0, 1e0.
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=NotANumber)


@dataclass(frozen=True)
class Columns:
    """Names of the columns to keep.

    Attributes:
        wanted: Must be there.
        optional: Kept where they are there.
    """

    wanted: Sequence[str]
    optional: Sequence[str] = ()

    @property
    def all(self) -> list[str]:
        """Each name once."""
        return list(dict.fromkeys([*self.wanted, *self.optional]))


def read_table(path: Path, columns: Columns, where: str, suffix: str | None = None) -> Table:
    """Read a file of any of ``SUFFIXES``, or a folder that ``datasets`` saved.

    Args:
        path: The file or folder.
        columns: What to keep of it.
        where: What messages call it; the path itself may say more than they should.
        suffix: Which of ``SUFFIXES`` it is; None: the path's own. Without a known one it is JSON.

    Raises:
        RowError: If it cannot be parsed, has no rows or lacks a column. Nothing of what stands in the
            file is in the text; ``private`` has it.
        ValueError: If there is no such file.
    """
    if path.is_dir():
        return _read_saved(path, columns, where)
    ending = path.suffix if suffix is None else suffix
    if ending in (".csv", ".tsv"):
        return _read_csv(path, columns, where, "\t" if ending == ".tsv" else ",")
    return (_read_parquet if ending == ".parquet" else _read_json)(path, columns, where)


def table_of(rows: Any, columns: Columns, where: str) -> Table:
    """A ``datasets.Dataset`` as a table.

    Raises:
        RowError: As ``read_table``.
    """
    _require_columns(rows.column_names, columns, where)
    kept = [name for name in columns.all if name in rows.column_names]
    return _from_arrow(rows.with_format("arrow").select_columns(kept)[:], where)


def _read_json(path: Path, columns: Columns, where: str) -> Table:
    text = _text_of(path, where)
    if text.lstrip().startswith("["):
        rows = _parsed(text, where)
        return _from_objects(rows, range(1, len(rows) + 1), "row", columns, where)
    numbers, rows = [], []
    # Not splitlines(): it also cuts at the line separators that may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line and not line.isspace():
            numbers.append(number)
            rows.append(_parsed(line, f"{where} line {number}"))
    return _from_objects(rows, numbers, "line", columns, where)


def _parsed(text: str, where: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        at = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise RowError(f"{where} is no JSON ({at})", f"{where} is no JSON: {error}: {text[:200]!r}") from None
    except RecursionError:
        raise RowError(f"{where} is no JSON that can be read: it is nested too deep") from None


def _from_objects(
    rows: Sequence[Any], numbers: Sequence[int], unit: str, columns: Columns, where: str
) -> Table:
    for number, row in zip(numbers, rows, strict=True):
        if not isinstance(row, dict):
            raise RowError(f"{where} {unit} {number} must be an object with the columns as its keys")
    names = columns.all
    kept = {name: [row.get(name) for row in rows] for name in names}
    if rows:
        # A column is known by any row; a row that lacks it has null there.
        there = [
            name
            for name in names
            if any(value is not None for value in kept[name]) or any(name in row for row in rows)
        ]
        _require_columns(there, columns, where, tuple(rows[0]))
        kept = {name: kept[name] for name in there}
    return _checked(Table(where, unit, numbers, kept))


def _read_csv(path: Path, columns: Columns, where: str, delimiter: str) -> Table:
    csv.field_size_limit(sys.maxsize)  # texts may be longer than the module's 128 kB
    text = _text_of(path, where, newline="")
    header, rows, numbers = _csv_rows(text, delimiter, where)
    _require_columns(header, columns, where)
    for name in columns.all:
        if header.count(name) > 1:
            raise RowError(f"{where} has the column {name!r} more than once")
    places = {name: header.index(name) for name in columns.all if name in header}
    kept = {name: [row[place] for row in rows] for name, place in places.items()}
    return _checked(Table(where, "line", numbers, kept))


def _csv_rows(text: str, delimiter: str, where: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Names of the columns, the rows' cells, and the line on which each row begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    numbers: list[int] = []
    number = 1
    try:
        for row in reader:
            if row and not header:
                header = [name.strip() for name in row]
            elif row:
                if len(row) != len(header):
                    found = f"{where} line {number} has {len(row)} cells, and there are {len(header)} columns"
                    raise RowError(
                        f"{found}; a cell with {delimiter!r} in it stands in double quotes",
                        f"{found}: {str(row)[:200]}",
                    )
                numbers.append(number)
                rows.append(row)
            number = reader.line_num + 1
    except csv.Error as error:
        found = f"{where} line {number} is no CSV"
        raise RowError(f"{found}: check its double quotes", f"{found}: {error}") from None
    return header, rows, numbers


def _read_parquet(path: Path, columns: Columns, where: str) -> Table:
    import pyarrow
    import pyarrow.parquet as parquet  # the text formats do without

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _require_columns(names, columns, where)
            rows = file.read(columns=[name for name in columns.all if name in names])
            return _from_arrow(rows, where)
    except RowError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise RowError(
            f"{where} is no Parquet file that can be read", f"{where} is no Parquet file: {error}"
        ) from None


def _read_saved(path: Path, columns: Columns, where: str) -> Table:
    import pyarrow
    from datasets import Dataset, load_from_disk

    try:
        rows = load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise RowError(
            f"{where} is no folder saved by datasets (save_to_disk) that can be read",
            f"{where} is no folder saved by datasets: {error}",
        ) from None
    if not isinstance(rows, Dataset):
        raise RowError(f"{where} must be one split as datasets saves it, not several")
    return table_of(rows, columns, where)


def _from_arrow(rows: Any, where: str) -> Table:
    """A pyarrow table's columns as lists; single-precision numbers keep the digits that they have."""
    import numpy as np
    import pyarrow.types as types

    columns: dict[str, list[Any]] = {}
    for name in rows.column_names:
        column = rows.column(name)
        values = column.to_pylist()
        if types.is_float16(column.type) or types.is_float32(column.type):
            kind = np.float32 if types.is_float32(column.type) else np.float16
            values = [None if value is None else kind(value) for value in values]
        columns[name] = values
    return _checked(Table(where, "row", range(1, rows.num_rows + 1), columns))


def _text_of(path: Path, where: str, newline: str | None = None) -> str:
    """The whole file; a byte-order mark in front is no part of it."""
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise RowError(f"{where} is no UTF-8 text: see byte {error.start}") from None
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror or type(error).__name__}") from None


def _require_columns(
    there: Iterable[str], columns: Columns, where: str, names: Sequence[str] | None = None
) -> None:
    there = list(there)
    missing = [name for name in columns.wanted if name not in there]
    if missing:
        # Without a header, a CSV file's first row would be among the names that there are.
        found = ", ".join(map(str, there if names is None else names))
        text = f"{where} lacks the column {missing[0]!r}; it should have {', '.join(columns.wanted)}"
        raise RowError(text, f"{text}, and has {re.sub(r'[^ -~]', '?', found)[:300]}")


def _checked(table: Table) -> Table:
    if not len(table):
        raise RowError(f"{table.where} has no rows")
    return table
