"""An exported adapter merged by peft into the weights of its base: one plain model of transformers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from fedapp.models.base import make_base
from fedapp.models.loading import read_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def merge_exported(
    path: str, head: str, labels: Sequence[str], exported: Path, dtype: str, revision: str | None = None
) -> Any:
    """Load a base in fp32, apart from those that this process shares, and merge an export into it.

    Args:
        path: As ``model.path``, and so are head and revision.
        head: ``lm`` or ``classification``.
        labels: Label names, for classification.
        exported: A folder in peft's format.
        dtype: Number format of the result, one of ``DTYPES``.
        revision: Of a hub model.

    Raises:
        ValueError: If the base cannot be loaded, or the adapter updates a weight that belongs to another
            layer, too.
    """
    from peft import PeftModel

    names = tuple(labels) if head == "classification" else ()
    read, tokenizer, missing = read_model(path, head, names, "float32", "cpu", 0, {"revision": revision})
    base = make_base(read, tokenizer, head=head, labels=names, missing=missing)
    _require_untied(base.model, exported)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        model: Any = PeftModel.from_pretrained(base.model, str(exported))
        merged = model.merge_and_unload()
    if head == "classification":
        merged.config.id2label = dict(enumerate(names))
        merged.config.label2id = {name: number for number, name in enumerate(names)}
    return merged.requires_grad_(False).to(DTYPES[dtype])


def _require_untied(model: Any, exported: Path) -> None:
    """Refuse an update of a tied weight: merged, it would change another layer with it."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    with safe_open(exported / "adapter_model.safetensors", "pt") as opened:
        names = [str(name).removeprefix("base_model.model.") for name in opened.keys()]  # noqa: SIM118
    layers = {name.partition(mark)[0] for name in names for mark in (".lora_", ".ia3_l") if mark in name}
    for layer in sorted(layers):
        weight = weights.get(f"{layer}.weight")
        others = [name for name, one in weights.items() if one is weight and name != f"{layer}.weight"]
        if weight is not None and others:
            raise ValueError(
                f"{layer} cannot be merged into: its weight is also {others[0]}, which would change with it"
            )
