"""A client's final adapter in a folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fedapp.core.errors import one_line
from fedapp.core.files import WriteError, write_atomically, writing
from fedapp.core.types import Arrays

# What adapter.json must hold for the adapter to be attached again.
ADAPTER_FACTS = {"adapter": dict, "model": dict, "benchmark": dict, "seed": int, "base-fingerprint": str}
# What it says beside: how the adapter was trained, and how it answers.
ADAPTER_EXTRAS = ("train",)


def digest_arrays(arrays: Arrays, fingerprint: str) -> str:
    """16 hex digits that are equal where a base and all that is trained on it are equal, bit by bit."""
    digest = hashlib.sha256(fingerprint.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\0{name}\0{array.dtype}\0{array.shape}\0".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def write_adapter(
    folder: Path,
    arrays: Arrays,
    config: Mapping[str, Any],
    fingerprint: str,
    scores: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Keep an adapter: named fp32 arrays, and what is needed to attach them again.

    Args:
        folder: Made if it is not there.
        arrays: Of any shape.
        config: The run's, as it holds for the client.
        fingerprint: The base's.
        scores: Of the final model, by split, as a model card shows them: ``split``, ``num-examples`` and
            the metrics.

    Raises:
        WriteError: If there is no room for it, or no permission; nothing half-written is left.
    """
    path = folder / "adapter.safetensors"
    partial = folder / "adapter.safetensors.partial"
    about = {
        "adapter": config["adapter"],
        "model": config["model"],
        "benchmark": config["benchmark"],
        "seed": config["seed"],
        "base-fingerprint": fingerprint,
        **{key: dict(config[key]) for key in ADAPTER_EXTRAS if key in config},
        **({"scores": [dict(one) for one in scores]} if scores else {}),
    }
    try:
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            save_file(dict(sorted(arrays.items())), partial)
            write_atomically(folder / "adapter.json", json.dumps(about, indent=1))
            os.replace(partial, path)
    except SafetensorError as error:
        # In the library's own words, as "I/O error: No space left on device (os error 28)".
        raise WriteError(
            path, None, one_line(error).split("I/O error: ")[-1].partition(" (os error")[0]
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _what_it_is(folder: Path, error: OSError) -> str:
    """What somebody gave instead of an adapter's folder, and what would be right."""
    inside = folder / "adapters" if (folder / "adapters").is_dir() else folder
    kept = sorted(path.parent.name for path in inside.glob("*/adapter.json"))
    if kept:
        return f"it is that of a run; name one of {', '.join(str(inside / name) for name in kept[:2])} …"
    if (folder / "run.json").is_file():
        return "it is that of a run that keeps none: it has not ended well, or save_adapters=false"
    if (folder / "README.md").is_file():
        return "it is an export or a model; what it was made of can be used: RUN/adapters/client-0"
    return one_line(error) if folder.is_dir() else "there is no such folder"


def read_adapter(folder: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read what ``write_adapter`` wrote.

    Raises:
        ValueError: If the folder holds no adapter, or a file of it is damaged.
    """
    about_file, arrays_file = folder / "adapter.json", folder / "adapter.safetensors"
    try:
        text, arrays = about_file.read_bytes(), load_file(arrays_file)
    except OSError as error:
        raise ValueError(f"{folder} holds no adapter: {_what_it_is(folder, error)}") from None
    except SafetensorError as error:
        raise ValueError(f"{arrays_file} is damaged: {one_line(error)}") from None
    try:
        about = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{about_file} is damaged: {one_line(error)}") from None
    for key, kind in ADAPTER_FACTS.items():
        if not isinstance(about, dict) or not isinstance(about.get(key), kind):
            raise ValueError(f"{about_file} is damaged: it does not say {key}")
    if not isinstance(about.get("train", {}), dict):
        raise ValueError(f"{about_file} is damaged: train is no table of settings")
    return arrays, about
