"""The classification head: the part of a base model that is trained with the adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from fedapp.core.types import Arrays
from fedapp.models import Base

_MARK = "_fedapp_adapter"


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


def occupy(base: Base, owner: str) -> None:
    """Mark a base as carrying an adapter.

    Raises:
        ValueError: If it carries one already: two would train each other's parts.
    """
    other = getattr(base.model, _MARK, None)
    if other:
        raise ValueError(
            f"the base model ({base.path or 'in memory'}) already carries a {other} adapter: detach it first"
        )
    setattr(base.model, _MARK, owner)


def vacate(base: Base) -> None:
    """Undo ``occupy``."""
    setattr(base.model, _MARK, None)


def checked(parameters: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Turn received arrays into fp32 tensors.

    Args:
        parameters: Named arrays, any float dtype.
        shapes: What the adapter has, by name.

    Raises:
        ValueError: If a name is unknown, a shape differs or a value is not finite.
    """
    result = {}
    for name, value in parameters.items():
        if name not in shapes:
            known = ", ".join(sorted(shapes)[:3])
            raise ValueError(f"unknown parameter {name!r}: this adapter has {len(shapes)} ({known} …)")
        if tuple(np.shape(value)) != tuple(shapes[name]):
            raise ValueError(
                f"parameter {name!r} has shape {tuple(np.shape(value))}, "
                f"this adapter needs {tuple(shapes[name])}"
            )
        array = np.array(value, dtype=np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"parameter {name!r} holds values that are not finite")
        result[name] = torch.from_numpy(array)
    return result
