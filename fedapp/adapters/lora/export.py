"""Low-rank updates as a folder that peft opens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from fedapp.models.base import Base


def write_peft(
    base: Base, factors: Mapping[str, tuple[Tensor, Tensor]], head: Mapping[str, Tensor], folder: Path
) -> None:
    """Write updates ``B A`` so that ``peft.PeftModel.from_pretrained(model, folder)`` adds them.

    Args:
        base: The base model.
        factors: By a layer's dotted name in the model: B [size_out, rank] and A [rank, size_in], with
            one rank for all and every scale already in them.
        head: A trained classification head, by parameter name in the model.
        folder: Made if it is not there.
    """
    from peft import LoraConfig, TaskType

    folder.mkdir(parents=True, exist_ok=True)
    named = {f"{path}.lora_B.weight": left for path, (left, _) in factors.items()}
    named |= {f"{path}.lora_A.weight": right for path, (_, right) in factors.items()}
    state = {
        f"base_model.model.{name}": value.detach().cpu().contiguous()
        for name, value in {**named, **head}.items()
    }
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    rank = next(iter(factors.values()))[1].shape[0]
    classifies = base.head == "classification"
    transposed = not any(isinstance(base.model.get_submodule(path), nn.Linear) for path in factors)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        fan_in_fan_out=transposed,
        target_modules=sorted(factors),
        modules_to_save=sorted({name.split(".")[0] for name in head}) or None,
        task_type=TaskType.SEQ_CLS if classifies else TaskType.CAUSAL_LM,
        base_model_name_or_path=base.path,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
