"""What adapters share that add something to the output of linear layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedapp.adapters.base import TrainedModel, as_tensors, claim, release
from fedapp.adapters.head import Head
from fedapp.adapters.lora.targets import Target
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, Shapes
from fedapp.models.base import Base
from fedapp.training.trainer import Trainer


class LinearUpdates(TrainedModel, ABC):
    """A base model whose target layers add an update; implements ``fedapp.core.model.AdaptedModel``.

    Parameters are of two kinds. *Trained* ones always belong to ``parameters()``. *Frozen* ones are
    only ever loaded (another party decides them); they belong to ``parameters()`` once they are, so
    that a client's memory and a kept adapter are complete. All are fp32 over a base in any dtype.

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
        self.base, self.targets = base, dict(targets)
        self.trained = {name: value.clone().requires_grad_() for name, value in trained.items()}
        self._initial = dict(trained)
        self.frozen, self._frozen_initial = dict(frozen), dict(frozen)
        self.loaded: set[str] = set()  # frozen ones, since the last reset
        self._enabled = True
        self.dropout = nn.Dropout(dropout).eval()
        # Checked before anything on the base changes, so that a bad setting leaves it as it was.
        self.trainer = Trainer(base, train, decayed=list(self.trained.values()))
        claim(base, owner)
        self.head = Head(base)
        self.trainer.extend(list(self.head.tensors.values()), [self.dropout, *self.head.modules])
        self._handles = [
            target.module.register_forward_hook(self._hook(name)) for name, target in self.targets.items()
        ]

    @abstractmethod
    def update(self, target: str, inputs: Tensor) -> Tensor | None:
        """What a target adds to its output.

        Args:
            target: Stable name of the layer.
            inputs: What the layer reads, fp32, [..., size_in].

        Returns:
            fp32, [..., size_out]; None where nothing is to be added.
        """

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the adapter in its own library's format."""

    def parameters(self) -> Arrays:
        """Copy the trained part, and of the frozen one what has been loaded."""
        frozen = {name: value for name, value in self.frozen.items() if name in self.loaded}
        everything = {**self._trainable(), **frozen}
        return {name: value.detach().cpu().numpy().copy() for name, value in everything.items()}

    def shapes(self) -> Shapes:
        """Shapes of the trained part."""
        return {name: tuple(value.shape) for name, value in self._trainable().items()}

    def frozen_shapes(self) -> Shapes:
        """Shapes of what can be loaded beside it."""
        return {name: tuple(value.shape) for name, value in self.frozen.items()}

    def load(self, parameters: Arrays) -> None:
        """Overwrite the named parameters.

        Raises:
            ValueError: If a name is unknown, a shape differs or a value is not finite.
        """
        trainable = self._trainable()
        known = {**trainable, **self.frozen}
        given = as_tensors(parameters, {name: tuple(value.shape) for name, value in known.items()})
        with torch.no_grad():
            for name, value in given.items():
                if name in trainable:
                    trainable[name].copy_(value)
                else:
                    self.frozen[name] = value.to(self.base.device)
                    self.loaded.add(name)

    def reset(self) -> None:
        """Go back to the seed's values, with nothing loaded."""
        with torch.no_grad():
            for name, value in self._initial.items():
                self.trained[name].copy_(value)
        self.frozen = dict(self._frozen_initial)
        self.loaded.clear()
        self.head.reset()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """While open, the model answers as the base alone does, its head untrained."""
        self._enabled = False
        try:
            with self.head.untrained():
                yield
        finally:
            self._enabled = True

    def detach(self) -> None:
        """Remove the hooks and give the base back as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.head.release()
        release(self.base)

    def _trainable(self) -> dict[str, Tensor]:
        return {**self.trained, **self.head.tensors}

    def _hook(self, target: str) -> Any:
        def add(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not self._enabled:
                return None
            update = self.update(target, args[0].float())
            return None if update is None else (output + update).to(output.dtype)

        return add
