"""Which linear layers of a model an update is added to, by the names that peft's LoRA would take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedapp.core.checks import show_value
from fedapp.models.base import Base
from fedapp.models.structure import block_list

SETTING = "adapter.target_modules"


@dataclass(frozen=True)
class Target:
    """A linear layer.

    Attributes:
        path: Its dotted name inside the model.
        module: The layer: torch's Linear, or transformers' Conv1D whose weight lies the other way.
        size_in, size_out: Width of its input and of its output.
    """

    path: str
    module: nn.Module
    size_in: int
    size_out: int

    def matrix(self, value: Tensor) -> Tensor:
        """A tensor that lies as the layer's weight does, as [size_out, size_in]."""
        return value if isinstance(self.module, nn.Linear) else value.T


def require_targets(names: Sequence[str] | str | None) -> None:
    """Refuse a setting that cannot name layers.

    Raises:
        ValueError: In one line that begins with the setting.
    """
    listed = isinstance(names, Sequence) and bool(names) and all(isinstance(name, str) for name in names)
    if names is not None and names != "all-linear" and (isinstance(names, str) or not listed):
        raise ValueError(
            f"target_modules={show_value(names)} must be null, all-linear or a list of layer names"
        )


def linear_targets(base: Base, names: Sequence[str] | str | None) -> dict[str, Target]:
    """Find the layers by name.

    Args:
        base: The base model.
        names: Last parts of the layers' names; ``all-linear`` for every linear layer but the output
            layer; None for peft's choice for the model's type.

    Returns:
        The layers in the model's order by stable name: ``layer.3.self_attn.q_proj``.

    Raises:
        ValueError: If no layer has such a name or one that has it is not linear.

    Source: peft 0.21 (target_modules of LoraConfig); layers outside the backbone are left out for
    ``all-linear`` and for classifiers, as ``fedapp.adapters.lora.adapter`` does.
    """
    wanted = _by_type(base) if names is None else names
    every = isinstance(wanted, str)
    block_path, _ = block_list(base.model)
    backbone = f"{base.model.base_model_prefix}."
    inside_only = every or base.head == "classification"
    found: dict[str, Target] = {}
    for path, module in base.model.named_modules():
        if inside_only and not f"{path}.".startswith(backbone):
            continue
        if not every and not any(path == name or path.endswith(f".{name}") for name in wanted):
            continue
        sizes = _sizes(module)
        if sizes is not None:
            stable = re.sub(rf"^{re.escape(block_path)}\.(\d+)\.", r"layer.\1.", path)
            found[stable] = Target(path, module, *sizes)
        elif not every:
            raise ValueError(
                f"{SETTING}={show_value(names)}: {path} is a {type(module).__name__}, must be a linear layer"
            )
    if not found:
        raise ValueError(
            f"{SETTING}={show_value(names)}: none of these layers is found in {type(base.model).__name__}; "
            "take all-linear or names that it has"
        )
    return found


def require_rank(rank: int, targets: dict[str, Target]) -> None:
    """Refuse a rank beyond what a layer can have.

    Raises:
        ValueError: In one line that names the setting and the smallest layer.
    """
    name, least = min(targets.items(), key=lambda item: min(item[1].size_in, item[1].size_out))
    limit = min(least.size_in, least.size_out)
    if rank > limit:
        raise ValueError(
            f"adapter.rank={rank} must be within 1 and {limit}, the smaller width of {name} "
            f"[{least.size_out}, {least.size_in}]"
        )


def _sizes(module: nn.Module) -> tuple[int, int] | None:
    """Input and output width of a linear layer, by its structure; None if it is none."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        size_in, size_out = module.weight.shape
        return int(size_in), int(size_out)
    return None


def _by_type(base: Base) -> list[str]:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    kind = base.model.config.model_type
    names = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind)
    if names is None or isinstance(names, str):
        raise ValueError(f"{SETTING}=null: peft knows no layers for {kind!r}; take all-linear or a list")
    return list(names)


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw fp32 values within [-bound, bound] on the CPU, so that every device starts from the same."""
    if device.type == "meta":
        return torch.empty(shape, device=device)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator).to(device)
