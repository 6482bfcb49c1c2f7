"""A state in one file: safetensors, what JSON holds in its head, and a checksum over both."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from fedapp.core.errors import one_line
from fedapp.core.files import writing
from fedapp.core.payload import DTYPES, ArrayOnDisk, State
from fedapp.core.types import Arrays

BFLOAT16 = DTYPES["bfloat16"]

Stored = np.ndarray | ArrayOnDisk


class DamagedState(ValueError):
    """A file that should hold a state holds none, or not the one that was written."""


def write_state(path: Path, state: State, *, sync: bool = False) -> None:
    """Write a state whole or not at all; what of it lies on disk goes there in pieces, from file to file.

    Args:
        path: The file; its folder is made.
        state: What to keep.
        sync: Wait until the disk has it, so that it outlives a power cut, too.

    Raises:
        WriteError: If there is no room for it, or no permission; nothing half-written is left.
        ValueError: If an array is of a type that the file format does not have.
    """
    partial = path.with_name(f"{path.name}.partial")
    text = json.dumps(state.facts)
    arrays: dict[str, Stored] = {**state.arrays, **state.unread}
    unknown = "0" * 2 * hashlib.sha256().digest_size
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(_head(text, arrays, unknown))
                digest = hashlib.sha256(text.encode())
                for name, array in arrays.items():
                    digest.update(_title(name, array))
                    for piece in _pieces(array):
                        digest.update(piece)
                        file.write(piece)
                # The checksum is known last and stands first, in the room that was left for it.
                file.seek(0)
                file.write(_head(text, arrays, digest.hexdigest()))
            if sync:
                sync_to_disk(partial)
            os.replace(partial, path)
            if sync:
                # Some network disks do not take it for a folder, which holds the name.
                with suppress(OSError):
                    sync_to_disk(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Wait until the disk has a file, or a folder's names.

    Raises:
        OSError: If it does not take it.
    """
    if path.is_dir() and os.name != "posix":  # Windows opens no folders
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def read_state(path: Path) -> State:
    """Read what ``write_state`` wrote, the arrays in their order.

    Raises:
        DamagedState: If it cannot be read, or its checksum is another.
    """
    try:
        with safe_open(path, "np") as file:
            head = file.metadata() or {}
            kinds = json.loads(head["arrays"])
            arrays = {name: _as(file.get_tensor(name), kind) for name, kind in kinds}
        facts = json.loads(head["facts"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DamagedState(f"{path} cannot be read: {one_line(error)}") from None
    if _digest(head["facts"], arrays) != head.get("sha256"):
        raise DamagedState(f"{path} is damaged: its checksum is another")
    return State(arrays, facts)


def _head(text: str, arrays: Mapping[str, Stored], digest: str) -> bytes:
    """The head of a safetensors file: its length in 8 bytes, then JSON that ends at a multiple of 8."""
    kinds = [[name, str(array.dtype)] for name, array in arrays.items()]
    about = {"facts": text, "arrays": json.dumps(kinds), "sha256": digest}
    head: dict[str, Any] = {"__metadata__": about}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + math.prod(array.shape) * array.dtype.itemsize
        head[name] = {"dtype": _named(name, array.dtype), "shape": array.shape, "data_offsets": [start, end]}
    content = json.dumps(head).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


def _named(name: str, dtype: np.dtype) -> str:
    """What safetensors calls a type.

    Raises:
        ValueError: If it has none for it.
    """
    # NumPy's side of safetensors cannot read bfloat16 back: it is kept as the bits that it is.
    whole = np.dtype(np.uint16) if dtype == BFLOAT16 else dtype
    if whole == np.dtype(bool):
        return "BOOL"
    if whole.kind not in "fiu" or whole.itemsize > 8 or not whole.isnative:
        raise ValueError(f"array {name!r} has dtype {dtype}, which cannot be kept")
    return f"{whole.kind.upper()}{8 * whole.itemsize}"


def _as(array: np.ndarray, kind: str) -> np.ndarray:
    return array.view(BFLOAT16) if kind == "bfloat16" else array


def _pieces(array: Stored) -> Iterable[memoryview]:
    """The bytes of an array."""
    if isinstance(array, ArrayOnDisk):
        return array.pieces()
    return [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data]


def _title(name: str, array: Stored) -> bytes:
    return f"\0{name}\0{array.dtype}\0{array.shape}\0".encode()


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in arrays.items():
        digest.update(_title(name, array))
        for piece in _pieces(array):
            digest.update(piece)
    return digest.hexdigest()
