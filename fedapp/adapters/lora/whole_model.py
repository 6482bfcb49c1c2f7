"""An exported adapter merged by peft into the weights of its base: one plain model of transformers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from fedapp.models.base import Base

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def merge_exported(base: Base, exported: Path, dtype: str) -> Any:
    """Merge what ``export`` wrote in peft's format; the base's model becomes the merged one.

    Args:
        base: The base in fp32, without an adapter.
        exported: A folder of peft's format.
        dtype: Number format of the result, one of ``DTYPES``.

    Raises:
        ValueError: If the adapter updates a weight that belongs to another layer, too.
    """
    from peft import PeftModel

    _require_untied(base.model, exported)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        model: Any = PeftModel.from_pretrained(base.model, str(exported))
        merged = model.merge_and_unload()
    if base.head == "classification":
        merged.config.id2label = dict(enumerate(base.labels))
        merged.config.label2id = {name: number for number, name in enumerate(base.labels)}
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
