"""A state in one file: safetensors, what JSON holds in its head, and a checksum over both."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedapp.core.errors import one_line
from fedapp.core.files import WriteError, writing
from fedapp.core.payload import DTYPES, State
from fedapp.core.types import Arrays

BFLOAT16 = DTYPES["bfloat16"]


class DamagedState(ValueError):
    """A file that should hold a state holds none, or not the one that was written."""


def write_state(path: Path, state: State, *, sync: bool = False) -> None:
    """Write a state whole or not at all.

    Args:
        path: The file; its folder is made.
        state: What to keep.
        sync: Wait until the disk has it, so that it outlives a power cut, too.

    Raises:
        WriteError: If there is no room for it, or no permission; nothing half-written is left.
    """
    partial = path.with_name(f"{path.name}.partial")
    text = json.dumps(state.facts)
    kinds = [[name, str(array.dtype)] for name, array in state.arrays.items()]
    head = {"facts": text, "arrays": json.dumps(kinds), "sha256": _digest(text, state.arrays)}
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # NumPy's side of safetensors cannot read bfloat16 back: it is kept as the bits that it is.
            save_file({name: _plain(array) for name, array in state.arrays.items()}, partial, head)
            if sync:
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
            os.replace(partial, path)
    except SafetensorError as error:
        why = one_line(error).split("I/O error: ")[-1].partition(" (os error")[0]
        raise WriteError(path, None, why) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


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


def _plain(array: np.ndarray) -> np.ndarray:
    whole = np.ascontiguousarray(array).reshape(array.shape)  # which makes one dimension of none
    return whole.view(np.uint16) if array.dtype == BFLOAT16 else whole


def _as(array: np.ndarray, kind: str) -> np.ndarray:
    return array.view(BFLOAT16) if kind == "bfloat16" else array


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in arrays.items():
        digest.update(f"\0{name}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
