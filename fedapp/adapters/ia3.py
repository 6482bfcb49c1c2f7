"""IA3: learned vectors that scale what linear layers read or give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedapp.adapters.lora.export import write_peft
from fedapp.adapters.lora.targets import Target, linear_targets, require_targets
from fedapp.adapters.lora.updates import LinearUpdates
from fedapp.core.checks import show_value
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import Base


@dataclass(frozen=True)
class Ia3:
    """Scales the output of attention layers and the input of feed-forward layers, element by element.

    Args:
        target_modules: Names of the layers, ``all-linear``, or None for peft's choice for the model's
            type (for most: keys, values and the second layer of the MLP).
        feedforward_modules: Last parts of the names of those whose input is scaled, not their output;
            None for peft's choice for the model's type, [] for none.

    Source: Liu et al. 2022, https://arxiv.org/abs/2205.05638; layers and forms: peft 0.21 (tuners/ia3).
    Weight decay, where ``train.weight_decay`` asks for it, pulls the scales to 0, as with peft.
    """

    target_modules: Sequence[str] | str | None = None
    feedforward_modules: Sequence[str] | None = None

    def __post_init__(self) -> None:
        require_targets(self.target_modules)
        names = self.feedforward_modules
        listed = isinstance(names, Sequence) and not isinstance(names, str)
        if names is not None and not (listed and all(isinstance(name, str) for name in names)):
            raise ValueError(f"feedforward_modules={show_value(names)} must be null or a list of layer names")

    def attach(self, base: Base, train: TrainConfig, *, seed: int) -> Ia3Adapted:
        """Add the scales to a base model; all are 1, so the seed plays no part.

        Raises:
            ValueError: If no layer has a target's name, or the model carries an adapter already.
        """
        from peft.utils import constants

        names, forward = self.target_modules, self.feedforward_modules
        if names is None:
            table = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
            names = _by_type(base, "target_modules", table)
        if forward is None:
            table = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
            forward = _by_type(base, "feedforward_modules", table)
        return Ia3Adapted(base, train, linear_targets(base, names), tuple(forward))


class Ia3Adapted(LinearUpdates):
    """A base model with IA3.

    Names are ``layer.3.self_attn.k_proj.ia3_l``: [size_out], or [size_in] of a feed-forward layer.
    """

    def __init__(
        self, base: Base, train: TrainConfig, targets: dict[str, Target], feedforward: tuple[str, ...]
    ) -> None:
        self.scales_input = {name for name, target in targets.items() if target.path.endswith(feedforward)}
        trained = {}
        for name, target in targets.items():
            size = target.size_in if name in self.scales_input else target.size_out
            trained[f"{name}.ia3_l"] = torch.ones(size, device=base.device)
        super().__init__("ia3", base, train, targets, trained, {}, dropout=0.0)

    def enter(self, target: str, inputs: Tensor) -> Tensor | None:
        """L * x, element by element, [..., size_in]; None where the output is scaled."""
        return inputs * self.trained[f"{target}.ia3_l"] if target in self.scales_input else None

    def update(self, target: str, inputs: Tensor, output: Tensor) -> Tensor | None:
        """L * (W x + b), element by element, [..., size_out]; None where the input is scaled."""
        return None if target in self.scales_input else output * self.trained[f"{target}.ia3_l"]

    def export(self, folder: Path) -> None:
        """Write what ``peft.PeftModel.from_pretrained(model, folder)`` opens, and adapter.safetensors."""
        from peft import IA3Config
        from safetensors.numpy import save_file

        state = {}
        for name, target in self.targets.items():
            value = self.trained[f"{name}.ia3_l"]
            state[f"{target.path}.ia3_l"] = value[None, :] if name in self.scales_input else value[:, None]
        paths = [target.path for target in self.targets.values()]
        feedforward = sorted(self.targets[name].path for name in self.scales_input)
        head = self.head.tensors
        write_peft(self.base, paths, state, head, Path(folder), IA3Config, feedforward_modules=feedforward)
        save_file(self.parameters(), Path(folder) / "adapter.safetensors")


def _by_type(base: Base, setting: str, table: Mapping[str, Sequence[str]]) -> list[str]:
    kind = base.model.config.model_type
    if kind not in table:
        raise ValueError(f"adapter.{setting}=null: peft knows no IA3 layers for {kind!r}; name them")
    return list(table[kind])
