"""Where rows come from: the user's folder, or the network. ``fedapp.benchmarks.reading`` reads them.

Texts of errors may leave the machine that the folder is on: they name the setting and the file that is
looked for, and never what else a folder holds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from fedapp.benchmarks.reading import SAVED, SUFFIXES, Columns, read_table, table_of
from fedapp.benchmarks.table import Table
from fedapp.core.errors import RowError
from fedapp.core.files import OFFLINE_VARIABLE

if TYPE_CHECKING:
    from datasets import Dataset

NETWORK = ("http", "https", "hf", "s3", "gs", "az", "abfs")
"""Beginnings of addresses; what lies on this machine is named by ``data_dir``, which its owner can limit."""

FORMATS = "or .json, .csv, .tsv, .parquet, or a folder saved by datasets"


def find_rows(data_dir: str, folders: Sequence[str], split: str) -> Path | None:
    """Find ``<data_dir>/<folder>/<split>`` with one of the endings of ``reading.SUFFIXES``, or as a folder.

    Args:
        data_dir: The user's ``benchmark.data_dir``.
        folders: Names that the folder may have, most wanted first.
        split: ``train``, ``validation`` or ``test``.

    Returns:
        The file or saved folder, or None where the folder exists without this split.

    Raises:
        ValueError: If ``data_dir`` or the folder is missing, or there are several files of the split.
    """
    root = Path(data_dir).expanduser()
    wanted = f"{folders[0]}/{split}.jsonl"
    if not root.is_dir():
        raise ValueError(f"benchmark.data_dir={data_dir} is not a folder; it should hold {wanted}")
    found = [folder for folder in folders if (root / require_inside(folder)).is_dir()]
    if not found:
        raise ValueError(
            f"benchmark.data_dir={data_dir} has no folder {folders[0]}; there should be {wanted} ({FORMATS})"
        )
    for folder in found:
        if path := _find_split(root / folder, split, f"benchmark.data_dir: {folder}"):
            return path
    return None


def find_file(data_dir: str, stem: str) -> Path | None:
    """Find ``<data_dir>/<stem>`` with one of the endings; None where there is none.

    Raises:
        ValueError: If there are several.
    """
    return _find_split(Path(data_dir).expanduser(), stem, "benchmark.data_dir")


def _find_split(folder: Path, stem: str, where: str) -> Path | None:
    paths = [folder / f"{stem}{suffix}" for suffix in SUFFIXES]
    there = [path for path in paths if path.is_file()]
    if (folder / stem / SAVED).is_file():
        there.append(folder / stem)
    if len(there) > 1:
        names = " and ".join(path.name for path in there)
        raise ValueError(f"{where} has its {stem} rows more than once, in {names}: leave one")
    return there[0] if there else None


def require_inside(folder: str, setting: str = "task") -> str:
    """Refuse a name of a folder that would lead out of ``data_dir``; ``setting`` is where it was named.

    Raises:
        ValueError: If it does.
    """
    path = PurePosixPath(folder)
    if not folder or path.is_absolute() or ".." in path.parts or "\\" in folder:
        raise ValueError(f"{setting}: {folder!r} must be the name of a folder in benchmark.data_dir")
    return folder


def read_folder(data_dir: str, folders: Sequence[str], split: str, columns: Columns) -> Table:
    """Read a split that must be in the user's folder.

    Raises:
        ValueError: If a folder or the split's file is missing.
        RowError: If the file cannot be read, or lacks a column.
    """
    path = find_rows(data_dir, folders, split)
    if path is None:
        raise ValueError(
            f"benchmark.data_dir={data_dir} has no {split} rows of {folders[0]}; there should be "
            f"{folders[0]}/{split}.jsonl ({FORMATS}) with the columns {', '.join(columns.wanted)}"
        )
    return read_path(path, columns)


def read_path(path: Path, columns: Columns, depth: int = 2) -> Table:
    """Read a file that ``find_rows`` found; errors as in ``read_table``.

    Args:
        path: The file.
        columns: What to keep of it.
        depth: How many names, from the end of the path, messages call it by.
    """
    return read_table(path, columns, f"benchmark.data_dir: {'/'.join(path.parts[-depth:])}")


def read_remote(
    path: str, task: str, split: str, columns: Columns, setting: str, revision: str | None = None
) -> Table:
    """Read a split over the network, through the cache of Hugging Face.

    Args:
        path: With ``://`` in it the address of a file, else a data set's name on the hub, with
            the configuration after a colon (``org/name:{task}``). ``{task}`` and ``{split}`` are filled in.
        task: Name of the task as the source writes it.
        split: ``train``, ``validation`` or ``test``.
        columns: Columns to keep.
        setting: The key that holds ``path``, for messages.
        revision: Branch, tag or commit on the hub; None takes the main branch.

    Raises:
        ValueError: If nothing can be loaded from there.
        RowError: If the rows cannot be read or a column is missing.
    """
    address = path.replace("{task}", task).replace("{split}", split)
    _require_network(address, f"{setting}={path}")
    try:
        if "://" in address:
            file = _download(address)
            return read_table(file, columns, f"{setting}={path}", PurePosixPath(address).suffix)
        rows = _load_from_hub(address, split, revision)
    except RowError:
        raise
    except Exception as error:  # the loader raises its own, requests', fsspec's and pyarrow's errors
        reason = _reason_of(error)
        raise ValueError(
            f"{setting}={path}: the {split} rows of {task} cannot be loaded from {address} ({reason}); "
            f"without network set benchmark.data_dir to a folder with {task}/{split}.jsonl"
        ) from None
    return table_of(rows, columns, f"{setting}={path}")


def _reason_of(error: Exception) -> str:
    """Why nothing could be loaded; what a parser says is left out, as it may quote rows."""
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowException

    parsing = isinstance(error, (DatasetGenerationError, ArrowException))
    return type(error).__name__ if parsing else " ".join(str(error).split())[:200] or type(error).__name__


def _require_network(address: str, setting: str) -> None:
    """Refuse what would be read from this machine past ``benchmark.data_dir``."""
    scheme, found, _ = address.partition("://")
    if found:
        if scheme not in NETWORK or "::" in address:
            raise ValueError(
                f"{setting} must begin with one of: {', '.join(f'{name}://' for name in NETWORK)}; "
                "for files on this machine set benchmark.data_dir"
            )
    elif not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name := address.partition(":")[0]) or os.path.exists(name):
        # A bare word is a reader of local files to the library (csv, text, parquet), or a folder here.
        raise ValueError(
            f"{setting} must be a name on the hub (owner/name) and not a path on this machine; "
            "for a folder here set benchmark.data_dir"
        )
    if os.environ.get(OFFLINE_VARIABLE):  # the libraries read it once, a party's policy may come later
        raise ValueError(f"{setting} needs the network, which is switched off here; set benchmark.data_dir")


def _download(address: str) -> Path:
    """The file in Hugging Face's cache; the one copy that ``load_dataset`` would make, too."""
    from datasets import DownloadManager

    return Path(DownloadManager().download(address))


def _load_from_hub(address: str, split: str, revision: str | None) -> Any:
    from datasets import load_dataset

    name, _, config = address.partition(":")
    return load_dataset(name, config or None, split=split, revision=revision)


def with_columns(rows: Dataset, **columns: Sequence[Any]) -> Dataset:
    """Add columns, in memory: ``Dataset.add_column`` would draw progress bars over the run's own."""
    from datasets import Dataset

    return Dataset.from_dict({**rows[:], **columns})
