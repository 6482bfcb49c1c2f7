"""GGUF files as base models: dequantised once into an ordinary checkpoint folder of the cache.

Transformers reads GGUF, but each time anew, and what it makes of it carries a quantisation setting with
which it cannot be saved. Here the weights are put, as the file says them, in fp32 into a folder beside
config and tokenizer; every later start loads that folder, memory-mapped, as any other checkpoint.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError

from fedapp.core.errors import one_line
from fedapp.models.checkpoint import quiet_transformers, reason_in

SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_FORM = 1  # of what is written; a change of it makes older folders of the cache unused


def dequantised(parts: Sequence[Path], cache: Path, path: str) -> Path:
    """The checkpoint folder of a GGUF file; made at the first call, found at later ones.

    Two processes may ask at once: one makes the folder, the other waits. It appears whole or not at all.

    Args:
        parts: The file, or the pieces that make it when joined in this order.
        cache: Folder of the cache.
        path: What the setting ``model.path`` says, for messages.

    Raises:
        ValueError: If it is no GGUF file, is cut off or damaged, is of an architecture that transformers
            cannot read, or there is no room for the folder.
    """
    _require_gguf(parts[0], path)
    digest = hashlib.sha256(f"{_FORM} {version('transformers')} {version('gguf')}".encode())
    for part in parts:
        with part.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    name = parts[0].name.partition(SUFFIX)[0]
    target = cache / f"{name}-{digest.hexdigest()[:12]}"
    if target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{target.name}.lock"):
            if not target.is_dir():
                for left in cache.glob(f".{target.name}-*"):  # by a process that was killed at it
                    shutil.rmtree(left, ignore_errors=True)
                _make(parts, target, path)
    except (OSError, SafetensorError) as error:  # the latter is what a full disk is to safetensors
        raise ValueError(_no_room(parts, cache, path, error)) from None
    return target


def _require_gguf(file: Path, path: str) -> None:
    with file.open("rb") as opened:
        begins = opened.read(len(_MAGIC))
    if begins != _MAGIC:
        raise ValueError(f"path={path!r}: {file.name} is no GGUF file: it begins with {begins!r}")
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"path={path!r} needs the package gguf: pip install 'fedapp[gguf]'")


def _make(parts: Sequence[Path], target: Path, path: str) -> None:
    """Dequantise into a folder beside the target, and rename it."""
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        file = parts[0] if len(parts) == 1 else _joined(parts, work)
        written = work / "checkpoint"
        with quiet_transformers(), redirect_stderr(StringIO()):  # its progress bars know no switch
            model, tokenizer = _read(file, path)
            model.save_pretrained(written)
            tokenizer.save_pretrained(written)
        for one in written.iterdir():
            one.chmod(0o644)  # safetensors writes for its owner alone
        written.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _joined(parts: Sequence[Path], folder: Path) -> Path:
    whole = folder / f"whole{SUFFIX}"
    with whole.open("wb") as output:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, output)
    return whole


def _read(file: Path, path: str) -> tuple[Any, Any]:
    """The model in fp32, free of the file's quantisation, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: Any = {"gguf_file": file.name, "trust_remote_code": False}
    with torch.random.fork_rng(devices=[]):
        try:
            read: Any = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
        except OSError as error:
            if error.errno is not None:
                raise
            raise ValueError(f"path={path!r} cannot be read: {reason_in(error)}") from None
        except Exception as error:
            raise ValueError(_unreadable(error, file, path)) from None
        config = read.config
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(read.state_dict())
        model.generation_config = read.generation_config
    return model, tokenizer


def _unreadable(error: Exception, file: Path, path: str) -> str:
    text = reason_in(error)
    if "architecture" in text.lower() or "not supported" in text.lower():
        return f"path={path!r} is of an architecture that transformers cannot read from GGUF: {text}"
    return (
        f"path={path!r}: {file.name} ({file.stat().st_size:,} bytes) is cut off or damaged: {one_line(error)}"
    )


def _no_room(parts: Sequence[Path], cache: Path, path: str, error: Exception) -> str:
    place = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free, size = shutil.disk_usage(place).free / 1e6, sum(part.stat().st_size for part in parts) / 1e6
    reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
    return (
        f"path={path!r} cannot be dequantised into {cache}: {reason} ({free:,.0f} MB are "
        f"free there, {size:,.0f} MB of GGUF take about {6 * size:,.0f} MB): set FEDAPP_CACHE to a folder "
        "with more room"
    )
