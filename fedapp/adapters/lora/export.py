"""Adapters of our own as folders that peft opens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from fedapp.models.base import Base


def write_lora(
    base: Base, factors: Mapping[str, tuple[Tensor, Tensor]], head: Mapping[str, Tensor], folder: Path
) -> None:
    """Write updates ``B A`` so that ``peft.PeftModel.from_pretrained(model, folder)`` adds them.

    Args:
        base: The base model.
        factors: By a layer's dotted name in the model: B [size_out, rank] and A [rank, size_in], with
            one rank for all and every scale already in them.
        head: A trained classification head, by parameter name (``head.…``).
        folder: Made if it is not there.
    """
    from peft import LoraConfig

    state = {f"{path}.lora_B.weight": left for path, (left, _) in factors.items()}
    state |= {f"{path}.lora_A.weight": right for path, (_, right) in factors.items()}
    rank = next(iter(factors.values()))[1].shape[0]
    write_peft(base, factors, state, head, folder, LoraConfig, r=rank, lora_alpha=rank)


def write_peft(
    base: Base,
    paths: Iterable[str],
    state: Mapping[str, Tensor],
    head: Mapping[str, Tensor],
    folder: Path,
    kind: Any,
    **settings: Any,
) -> None:
    """Write tensors and config of one of peft's tuners for layers of the same kind.

    Args:
        base: The base model.
        paths: Dotted names of the layers in the model.
        state: Tensors as peft's tuner has them, of any shape, by dotted name in the model.
        head: A trained classification head, by parameter name (``head.…``).
        folder: Made if it is not there.
        kind: peft's config class.
        settings: What it takes beside the layers, the head and the model.
    """
    from peft import TaskType

    folder.mkdir(parents=True, exist_ok=True)
    named = {**state, **{name.removeprefix("head."): value for name, value in head.items()}}
    tensors = {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in named.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    layers = sorted(paths)
    kind(
        target_modules=layers,
        fan_in_fan_out=not any(isinstance(base.model.get_submodule(path), nn.Linear) for path in layers),
        modules_to_save=saved_modules(base, head),
        task_type=TaskType.SEQ_CLS if base.head == "classification" else TaskType.CAUSAL_LM,
        base_model_name_or_path=base.path,
        inference_mode=True,
        **settings,
    ).save_pretrained(str(folder))


def config_with_base(folder: Path, base: str) -> bytes:
    """The adapter_config.json of an exported folder, as peft writes it, with another name of the base.

    Args:
        folder: In peft's format; left as it is.
        base: A hub id.
    """
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(folder))
    config.base_model_name_or_path = base
    with tempfile.TemporaryDirectory() as work:
        config.save_pretrained(work)
        return (Path(work) / "adapter_config.json").read_bytes()


def saved_modules(base: Base, head: Iterable[str]) -> list[str] | None:
    """The modules that peft is to keep whole for a trained head: outside the backbone, and its new pooler.

    Args:
        base: The base model.
        head: Parameter names, with ``head.`` in front or without.
    """
    names = {_module(name.removeprefix("head."), base.model.base_model_prefix) for name in head}
    return sorted(names) or None


def _module(name: str, backbone: str) -> str:
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if first == backbone else first
