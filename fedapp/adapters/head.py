"""The classification head: the part of a base model that is trained with the adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedapp.models.base import Base


class Head:
    """The base model's trainable parameters under ``head.*``; none for a language model.

    The base is shared by everything in the process, so the head is given back as it was.
    """

    def __init__(self, base: Base) -> None:
        self.tensors: dict[str, Tensor] = {
            f"head.{name}": base.model.get_parameter(name) for name in base.head_parameters
        }
        self._initial = {name: value.detach().clone() for name, value in self.tensors.items()}
        prefix = base.model.base_model_prefix
        #: Modules outside the backbone, whose dropout is active while the head is trained.
        self.modules: tuple[nn.Module, ...] = tuple(
            module for name, module in base.model.named_children() if name != prefix and base.head_parameters
        )
        for value in self.tensors.values():
            value.requires_grad_(True)

    def reset(self) -> None:
        """Go back to the seed's values."""
        with torch.no_grad():
            for name, value in self.tensors.items():
                value.copy_(self._initial[name])

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """While open, the head has the seed's values."""
        kept = {name: value.detach().clone() for name, value in self.tensors.items()}
        self.reset()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self.tensors.items():
                    value.copy_(kept[name])

    def release(self) -> None:
        """Restore values and flags."""
        self.reset()
        for value in self.tensors.values():
            value.requires_grad_(False)
