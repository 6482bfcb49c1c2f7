"""Base models without weights: built from a config.json on torch's meta device.

What counts parameters needs shapes alone, so a model of any size is there in a second and nothing
is fetched from a hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedapp.core.checks import show_value
from fedapp.core.files import ASSETS
from fedapp.models.base import Base, check_settings, head_names
from fedapp.models.checkpoint import read_config, reason_in, require_supported
from fedapp.models.loading import find_checkpoint, open_checkpoint
from fedapp.models.processor import AUTO

ARCHITECTURES = ASSETS / "configs"


@dataclass(frozen=True)
class NoTokenizer:
    """Stands where a tokenizer would: what adapters ask of one before they see any text."""

    model_max_length: int | None = None
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    bos_token_id: int | None = None


def outline_base(
    folder: Path, *, head: str = "lm", labels: Sequence[str] = (), dtype: str = "float32", path: str = ""
) -> Base:
    """A base model on the meta device: every shape, no value.

    A classification head has the parameters outside the backbone; a pooler that a checkpoint lacks,
    which training would add, cannot be known without the checkpoint.

    Args:
        folder: Has a transformers config.json.
        head: ``lm`` or ``classification``.
        labels: Label names, for classification.
        dtype: Number format of the frozen weights.
        path: What it would be loaded from, for messages.

    Raises:
        ValueError: If the config cannot be used, or a setting of the head does not fit.
    """
    names = tuple(labels) if head == "classification" else ()
    check_settings(head, names, dtype, None)
    dtype = "float32" if dtype == AUTO else dtype  # shapes are the same in any
    config = read_config(str(folder), path or str(folder), {})
    require_supported(config, head, path or str(folder))
    if names:
        config.num_labels = len(names)
    return _on_meta(config, head, names, dtype, path or str(folder))


def open_outline(
    path: str, *, head: str = "lm", labels: Sequence[str] = (), revision: str | None = None
) -> tuple[Base, tuple[str, ...]]:
    """A base model on the meta device with its own tokenizer, after all but its weights was looked at.

    Args:
        path: As ``model.path``.
        head: ``lm`` or ``classification``.
        labels: The benchmark's label names.
        revision: Commit or tag of a hub model.

    Returns:
        The base, and in one line each what to know of the checkpoint.

    Raises:
        ValueError: As ``fedapp.models.loading.open_checkpoint``.
    """
    check_settings(head, labels, "float32", None)
    _, config, tokenizer = open_checkpoint(path, head, {"revision": revision} if revision else {})
    names = tuple(labels) if head == "classification" else ()
    notes = []
    if config.to_dict().get("auto_map"):
        notes.append(
            f"model.path={path!r} comes with code of its own (auto_map), which is never run: "
            f"transformers' own {config.model_type} is used"
        )
    if names and any(kind.endswith("SequenceClassification") for kind in config.architectures or ()):
        notes.append(
            f"the classification head of model.path={path!r} ({config.num_labels} labels) is not used: a "
            f"new one for the benchmark's {len(names)} labels is drawn from the seed and trained"
        )
    if names:
        config.num_labels = len(names)
    return replace(_on_meta(config, head, names, "float32", path), tokenizer=tokenizer), tuple(notes)


def _on_meta(config: Any, head: str, names: tuple[str, ...], dtype: str, path: str) -> Base:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto: Any = AutoModelForSequenceClassification if names else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model = auto.from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"path={path!r} cannot be used as {auto.__name__}: {reason_in(error)}") from error
    return Base(
        model=model.eval().requires_grad_(False),
        tokenizer=NoTokenizer(),
        head=head,
        labels=names,
        fingerprint="",
        device=torch.device("meta"),
        head_parameters=head_names(model, ()) if names else (),
        path=path,
    )


def find_config(path: str, architecture: str | None) -> tuple[Path, str | None]:
    """Where the config.json of a model lies on this machine.

    The files of the path itself come first, then the shape in the repository that bears its name; of
    any other hub id the shape is told by ``architecture``. A GGUF file that has such a shape is not read.

    Args:
        path: As ``model.path``: a folder, ``asset:…``, ``package:…`` or a hub id.
        architecture: As ``model.about.architecture``: a folder of ``fedapp/assets/configs``, or None.

    Returns:
        The folder, and what to warn of if the named architecture describes another path.

    Raises:
        ValueError: If there is none.
    """
    known = sorted(file.parent.name for file in ARCHITECTURES.glob("*/config.json"))
    described = {name: _described(ARCHITECTURES / name) for name in known}
    same = sorted((name for name in known if path in described[name]), key=lambda one: one != architecture)
    if same and ".gguf" in path:  # counted without the file, which need not be here
        return ARCHITECTURES / same[0], None
    own = Path(find_checkpoint(path))
    if (own / "config.json").is_file():
        return own, None
    if architecture is not None and architecture not in known:
        raise ValueError(_unknown(path, architecture, known))
    if same:
        return ARCHITECTURES / same[0], None
    if architecture is None:
        raise ValueError(_unknown(path, architecture, known))
    return ARCHITECTURES / architecture, (
        f"model.path={path!r} is counted as model.about.architecture={architecture!r}, "
        f"which has the shape of {described[architecture][0]}"
    )


def _unknown(path: str, architecture: str | None, known: Sequence[str]) -> str:
    return (
        f"model.about.architecture={show_value(architecture)} must be one of {', '.join(known)}, as "
        f"model.path={path!r} is no folder here: nothing is asked of the hub"
    )


def _described(folder: Path) -> list[str]:
    """The paths that a folder of ``fedapp/assets/configs`` describes: a base, and what was made of it."""
    tree = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return [tree["_name_or_path"], *tree.get("_same_shape", [])]


def settings_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``model`` an outline takes; the rest is about weights and devices."""
    return {key: node[key] for key in ("head", "dtype", "path") if key in node}
