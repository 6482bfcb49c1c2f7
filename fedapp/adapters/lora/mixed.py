"""Two LoRAs per layer, one's own and a frozen one of the others, joined by a learned mixer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedapp.adapters.lora.narrow import narrow_linear
from fedapp.adapters.lora.targets import Target, linear_targets, require_targets, uniform
from fedapp.adapters.lora.updates import LinearUpdates
from fedapp.core.checks import require_int, require_number
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import Base

_OTHERS, _OWN = 0, 1  # rows of the mixer


@dataclass(frozen=True)
class LoraMixed:
    """Adds (alpha / rank) (g_own B A + g_others B' A') x to W x, with (g_others, g_own) = softmax(G x).

    A, B and the mixer G [2, size_in] are trained; A' and B' are loaded and frozen, and the others'
    part is absent until they are. The gate looks at every token by itself.

    Args:
        rank: Rank of either update.
        alpha: Both updates are scaled by alpha / rank.
        dropout: On the input of the updates (not of the mixer), in training only.
        target_modules: As LoRA's: names of the layers, ``all-linear``, or None for peft's choice.

    Source: FedALT, https://arxiv.org/abs/2503.11880; the mixer's form and initial values, rank 8,
    alpha 32 and the query and value projections: its code (jmbian/FedALT), which has dropout 0.05.
    """

    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: Sequence[str] | str | None = None

    def __post_init__(self) -> None:
        require_int("rank", self.rank, at_least=1)
        require_number("alpha", self.alpha, "(0, inf)")
        require_number("dropout", self.dropout, "[0, 1)")
        require_targets(self.target_modules)

    def attach(self, base: Base, train: TrainConfig, *, seed: int) -> LoraMixedAdapted:
        """Add the updates to a base model; both B start at zero, A and G are drawn from the seed.

        Raises:
            ValueError: If no layer has a target's name, or the model carries an adapter already.
        """
        return LoraMixedAdapted(self, base, train, linear_targets(base, self.target_modules), seed=seed)


class LoraMixedAdapted(LinearUpdates):
    """A base model with both updates.

    Names are ``layer.3.self_attn.q_proj.lora_A``, ``….lora_B``, ``….mixer``, ``….others_A`` and
    ``….others_B``.
    """

    def __init__(
        self, adapter: LoraMixed, base: Base, train: TrainConfig, targets: dict[str, Target], *, seed: int
    ) -> None:
        self.adapter, self.scale = adapter, adapter.alpha / adapter.rank
        rank, device = adapter.rank, base.device
        generator = torch.Generator().manual_seed(seed)
        trained, frozen = {}, {}
        for name, target in targets.items():
            bound = 1 / math.sqrt(target.size_in)  # torch's for a linear layer, as in the reference code
            trained[f"{name}.lora_A"] = uniform((rank, target.size_in), bound, generator, device)
            trained[f"{name}.lora_B"] = torch.zeros(target.size_out, rank, device=device)
            trained[f"{name}.mixer"] = uniform((2, target.size_in), bound, generator, device)
            frozen[f"{name}.others_A"] = torch.zeros(rank, target.size_in, device=device)
            frozen[f"{name}.others_B"] = torch.zeros(target.size_out, rank, device=device)
        super().__init__("lora_mixed", base, train, targets, trained, frozen, adapter.dropout)

    def update(self, target: str, inputs: Tensor, output: Tensor) -> Tensor | None:
        """W x and both updates, each times its share for the token."""
        shares = narrow_linear(inputs, self.trained[f"{target}.mixer"]).softmax(-1)
        dropped = self.dropout(inputs)
        low = narrow_linear(dropped, self.trained[f"{target}.lora_A"]) * shares[..., _OWN, None]
        result = narrow_linear(low, self.trained[f"{target}.lora_B"])
        if f"{target}.others_B" in self.loaded:
            low = narrow_linear(dropped, self.frozen[f"{target}.others_A"]) * shares[..., _OTHERS, None]
            result = result + narrow_linear(low, self.frozen[f"{target}.others_B"])
        return output + result * self.scale

    def export(self, folder: Path) -> None:
        """Refuse: no library has this form.

        Raises:
            ValueError: Always; it says where the arrays are.
        """
        raise ValueError(
            "adapter: two LoRAs joined by a mixer that looks at the input are no peft adapter; "
            "the run's adapters/client-<id>/adapter.safetensors holds all their arrays"
        )
