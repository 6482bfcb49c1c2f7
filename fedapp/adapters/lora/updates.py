"""What adapters share that change what linear layers read or give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedapp.adapters.base import HookedModel
from fedapp.adapters.lora.targets import Target
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import Base
from fedapp.training.trainer import Trainer


class LinearUpdates(HookedModel, ABC):
    """A base model whose target layers read or give something else; see ``HookedModel``.

    Args:
        owner: What kind of adapter it is, for error messages.
        base: The base model; its target layers get forward hooks.
        train: Settings of the training.
        targets: The layers by stable name.
        trained, frozen: Tensors by name (``<target>.<role>``).
        dropout: On the input of an update, in training only.
    """

    def __init__(
        self,
        owner: str,
        base: Base,
        train: TrainConfig,
        targets: Mapping[str, Target],
        trained: Mapping[str, Tensor],
        frozen: Mapping[str, Tensor],
        dropout: float,
    ) -> None:
        self.targets = dict(targets)
        self.dropout = nn.Dropout(dropout).eval()
        own = {name: value.clone().requires_grad_() for name, value in trained.items()}
        # Checked before anything on the base changes, so that a bad setting leaves it as it was.
        super().__init__(owner, base, Trainer(base, train, decayed=list(own.values())))
        self.hold(own, frozen, [self.dropout])
        for name, target in self.targets.items():
            self.hooks.append(target.module.register_forward_pre_hook(self._entering(name)))
            self.hooks.append(target.module.register_forward_hook(self._leaving(name)))

    def enter(self, target: str, inputs: Tensor) -> Tensor | None:
        """What a target reads instead of its input; None where it stays as it is.

        Args:
            target: Stable name of the layer.
            inputs: What the layer is given, in the base's dtype, [..., size_in].

        Returns:
            [..., size_in]; it is rounded to the dtype of the input.
        """
        return None

    def update(self, target: str, inputs: Tensor, output: Tensor) -> Tensor | None:
        """What a target gives instead of its output; None where it stays as it is.

        Args:
            target: Stable name of the layer.
            inputs: What the layer has read, in the base's dtype, [..., size_in].
            output: What the layer made of it, in the base's dtype, [..., size_out].

        Returns:
            [..., size_out]; it is rounded to the dtype of the output.
        """
        return None

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the adapter in its own library's format."""

    def _entering(self, target: str) -> Any:
        def enter(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            changed = self.enter(target, args[0]) if self.enabled else None
            return None if changed is None else (changed.to(args[0].dtype), *args[1:])

        return enter

    def _leaving(self, target: str) -> Any:
        def leave(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            changed = self.update(target, args[0], output) if self.enabled else None
            return None if changed is None else changed.to(output.dtype)

        return leave
