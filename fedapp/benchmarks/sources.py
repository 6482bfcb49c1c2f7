"""Rows from folders, files and the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


SUFFIXES = (".jsonl", ".json", ".parquet")


def find_rows(data_dir: str, folders: Sequence[str], split: str) -> Path | None:
    """Find ``<data_dir>/<folder>/<split>`` with one of the endings ``.jsonl``, ``.json``, ``.parquet``.

    Args:
        data_dir: The user's ``benchmark.data_dir``.
        folders: Names that the folder may have, most wanted first.
        split: ``train``, ``validation`` or ``test``.

    Returns:
        The file, or None where the folder exists without this split.

    Raises:
        ValueError: If ``data_dir`` or the folder is missing.
    """
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        wanted = f"{folders[0]}/{split}.jsonl"
        raise ValueError(f"benchmark.data_dir={data_dir} is not a folder; it should hold {wanted}")
    found = [root / folder for folder in folders if (root / folder).is_dir()]
    if not found:
        wanted = f"{root / folders[0]}/{split}.jsonl (or .json, .parquet)"
        raise ValueError(
            f"benchmark.data_dir={data_dir} has no folder {folders[0]}; there should be {wanted}"
        )
    files = (folder / f"{split}{suffix}" for folder in found for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def read_folder(data_dir: str, folders: Sequence[str], split: str, columns: Sequence[str]) -> Dataset:
    """Read a split that must be in the user's folder.

    Raises:
        ValueError: If a folder, the split's file or a column is missing, or a line is no JSON object.
    """
    file = find_rows(data_dir, folders, split)
    if file is None:
        wanted = Path(data_dir).expanduser() / folders[0] / f"{split}.jsonl"
        raise ValueError(
            f"benchmark.data_dir={data_dir} has no {split} rows of {folders[0]}; "
            f"there should be {wanted} (or .json, .parquet) with the columns {', '.join(columns)}"
        )
    return read_file(file, columns)


def read_file(file: Path, columns: Sequence[str]) -> Dataset:
    """Read JSON lines, a JSON list or parquet, keeping ``columns``.

    Raises:
        ValueError: If the file cannot be parsed, is empty or lacks a column.
    """
    from datasets import Dataset

    if file.suffix == ".parquet":
        import pyarrow.parquet as parquet  # the other two formats do without

        try:
            rows = Dataset(parquet.read_table(file))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"benchmark.data_dir: {file} is no parquet file: {reason}") from None
    else:
        rows = _table(_json_rows(file), file)
    return _select(rows, columns, f"benchmark.data_dir: {file}")


def read_remote(
    path: str, task: str, split: str, columns: Sequence[str], setting: str, revision: str | None = None
) -> Dataset:
    """Read a split over the network, through the cache of Hugging Face.

    Args:
        path: With ``://`` in it the address of a JSON file, else a data set's name on the hub, with
            the configuration after a colon (``org/name:{task}``). ``{task}`` and ``{split}`` are filled in.
        task: Name of the task as the source writes it.
        split: ``train``, ``validation`` or ``test``.
        columns: Columns to keep; all must be there.
        setting: The key that holds ``path``, for messages.
        revision: Branch, tag or commit on the hub; None takes the main branch.

    Raises:
        ValueError: If nothing can be loaded from there, or a column is missing.
    """
    from datasets import Dataset, load_dataset

    address = path.replace("{task}", task).replace("{split}", split)
    try:
        if "://" in address:
            rows = load_dataset("json", data_files={split: address}, split=split)
        else:
            name, _, config = address.partition(":")
            rows = load_dataset(name, config or None, split=split, revision=revision)
    except Exception as error:  # the loader raises its own, requests', fsspec's and pyarrow's errors
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{setting}={path}: the {split} rows of {task} cannot be loaded from {address} ({reason}); "
            f"without network set benchmark.data_dir to a folder with {task}/{split}.jsonl"
        ) from None
    assert isinstance(rows, Dataset)
    return _select(rows, columns, f"{setting}={path}")


def with_columns(rows: Dataset, **columns: Sequence[Any]) -> Dataset:
    """Add columns, in memory: ``Dataset.add_column`` would draw progress bars over the run's own."""
    from datasets import Dataset

    return Dataset.from_dict({**rows[:], **columns})


def _json_rows(file: Path) -> list[dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"benchmark.data_dir: {file} is no UTF-8 text: {error.reason} at byte {error.start}"
        ) from None
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"benchmark.data_dir: {file} is no JSON list: {error}") from None
        numbered = list(enumerate(rows, start=1))
    else:
        numbered = []
        # Not splitlines(): it also cuts at the line separators that may stand inside a JSON string.
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                numbered.append((number, json.loads(line)))
            except json.JSONDecodeError as error:
                raise ValueError(f"benchmark.data_dir: {file} line {number} is no JSON: {error}") from None
    for number, row in numbered:
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise ValueError(f"benchmark.data_dir: {file} row {number} must be an object, not {kind}")
    return [row for _, row in numbered]


def _table(rows: list[dict[str, Any]], file: Path) -> Dataset:
    from datasets import Dataset

    try:
        return Dataset.from_list(rows)
    except (TypeError, ValueError, OverflowError) as error:  # a column of texts with a number in it
        first = {name: type(value) for name, value in rows[0].items()}
        for number, row in enumerate(rows, start=1):
            odd = [name for name, kind in first.items() if name in row and type(row[name]) is not kind]
            if odd:
                raise ValueError(
                    f"benchmark.data_dir: {file} row {number} has {odd[0]}={row[odd[0]]!r}, "
                    f"a {type(row[odd[0]]).__name__} where row 1 has a {first[odd[0]].__name__}"
                ) from None
        raise ValueError(f"benchmark.data_dir: {file} is no table: {' '.join(str(error).split())}") from None


def _select(rows: Dataset, columns: Sequence[str], where: str) -> Dataset:
    if not len(rows):
        raise ValueError(f"{where} has no rows")
    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        raise ValueError(
            f"{where} lacks the column {missing[0]!r}; it has {', '.join(rows.column_names)} "
            f"and should have {', '.join(columns)}"
        )
    return rows.select_columns(list(columns))
