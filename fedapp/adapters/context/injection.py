"""How context vectors enter a forward pass, and how they are read from one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

INJECTIONS = {"linear": 2, "add": 1, "balance": 2}
"""Forms of injection, with their coefficients per module."""


@dataclass(frozen=True)
class Injected:
    """What the hooks add while a forward pass runs.

    Attributes:
        shifts: Added to every token's output, [num_layers, 2, hidden_size], fp32.
        scales: What the output is multiplied by first, [num_layers, 2], fp32; None for 1.
        noise: Standard deviation of the noise on each element, as a share of its token's norm; passes
            without gradients have none.
    """

    shifts: Tensor
    scales: Tensor | None
    noise: float = 0.0


def prepare(form: str, coefficients: Tensor, vectors: Tensor, noise: float = 0.0) -> Injected:
    """Bring any form of injection to ``scale * output + shift``.

    With v the vector of a module: ``linear`` is lambda v + beta out; ``add`` is out + relu(lambda) v;
    ``balance`` is ((1 - lambda) out + lambda v) beta.

    Args:
        form: A name of ``INJECTIONS``.
        coefficients: (lambda, beta) or (lambda) per module, [num_layers, 2, 2 or 1], fp32.
        vectors: [num_layers, 2, hidden_size], fp32.
        noise: See ``Injected``.

    Source: I2CL's code; IFed-ICL, eq. 5, is ``linear``.
    """
    strength = coefficients[..., 0]
    if form == "add":
        return Injected(strength.relu().unsqueeze(-1) * vectors, None, noise)
    scale = coefficients[..., 1]
    if form == "balance":
        strength, scale = strength * scale, (1 - strength) * scale
    return Injected(strength.unsqueeze(-1) * vectors, scale, noise)


class _ScaleShift(torch.autograd.Function):
    """``scale * hidden + shift`` plus noise, with a backward pass that keeps nothing but hidden.

    The noise counts as a constant. Without it, with scale 1 and shift 0, the result is bit for bit
    the input, in any dtype.
    """

    @staticmethod
    def forward(context: Any, hidden: Tensor, scale: Tensor, shift: Tensor, noise: float) -> Tensor:
        context.save_for_backward(hidden, scale)
        edited = scaled(hidden, scale, shift)
        return add_noise(edited, noise) if noise else edited

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor, None]:
        hidden, scale = context.saved_tensors
        below = gradient * scale.to(gradient.dtype) if context.needs_input_grad[0] else None
        flat = gradient.reshape(-1, gradient.shape[-1]).float()
        of_scale = None
        if context.needs_input_grad[1]:
            of_scale = torch.dot(flat.flatten(), hidden.reshape(-1).float())
        return below, of_scale, flat.sum(0), None


def scaled(hidden: Tensor, scale: Tensor | float, shift: Tensor) -> Tensor:
    """``scale * hidden + shift`` in fp32, in the dtype and shape of hidden, ``[..., hidden_size]``."""
    if hidden.dtype == torch.float32 and isinstance(scale, float):
        return torch.add(shift, hidden, alpha=scale)
    if hidden.dtype == torch.float32:
        return torch.addcmul(shift, hidden, scale)  # type: ignore[arg-type]
    return (hidden.float() * scale + shift).to(hidden.dtype)


def add_noise(hidden: Tensor, share: float) -> Tensor:
    """Add, in place, normal noise to each element whose size follows the norm of its token's state.

    hidden: States ``[..., hidden_size]``; share: of the norm, a fraction.

    Source: I2CL's code, which draws it after the injection and keeps the norm out of the gradient.
    """
    size = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
    return hidden.addcmul_(torch.randn_like(hidden), size, value=share)


class SiteHooks:
    """Hooks on the modules whose outputs join the residual stream; they do nothing until armed.

    Args:
        sites: ``(attention, mlp)`` of each block.
    """

    def __init__(self, sites: Sequence[tuple[nn.Module, nn.Module]]) -> None:
        self._injected: Injected | None = None
        self._per_site: list[tuple[Any, Tensor]] = []
        self._last: Tensor | None = None
        self._read: dict[tuple[int, int], Tensor] = {}
        self._handles = [
            module.register_forward_hook(self._hook(layer, part))
            for layer, pair in enumerate(sites)
            for part, module in enumerate(pair)
        ]

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def armed(self, injected: Injected | None) -> Iterator[None]:
        """While open, every forward pass is injected, also those of decoding; None injects nothing."""
        if injected is not None:
            self._per_site = _per_site(injected)
        self._injected = injected
        try:
            yield
        finally:
            self._injected, self._per_site = None, []

    @contextmanager
    def reading(self, last: Tensor) -> Iterator[dict[tuple[int, int], Tensor]]:
        """While open, keep each row's output at one position.

        Args:
            last: The position in each row, [batch].

        Yields:
            What one forward pass fills: fp32 [batch, hidden_size] by (layer, 0 attention or 1 MLP).
        """
        self._last, self._read = last, {}
        try:
            yield self._read
        finally:
            self._last, self._read = None, {}

    def _hook(self, layer: int, part: int) -> Any:
        def act(_module: Any, _args: Any, output: Any) -> Any:
            if self._injected is None and self._last is None:
                return None
            hidden = output[0] if isinstance(output, tuple) else output
            if self._last is not None:
                rows = torch.arange(len(hidden), device=hidden.device)
                self._read[layer, part] = hidden[rows, self._last].detach().float()
                return None
            edited = self._edit(hidden, layer, part)
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        return act

    def _edit(self, hidden: Tensor, layer: int, part: int) -> Tensor:
        assert self._injected is not None
        scale, shift = self._per_site[2 * layer + part]
        if not torch.is_grad_enabled():
            return scaled(hidden, scale, shift)
        return _ScaleShift.apply(hidden, scale, shift, self._injected.noise)


def _per_site(injected: Injected) -> list[tuple[Any, Tensor]]:
    """Scale and shift of each site; plain numbers for the scale where no gradient is wanted."""
    # One unbind for all sites: each would cost two nodes in the backward pass.
    shifts = injected.shifts.flatten(0, 1).unbind()
    scales: Any = [1.0] * len(shifts)
    if injected.scales is not None:
        scales = injected.scales.flatten()
        scales = scales.unbind() if torch.is_grad_enabled() else scales.tolist()
    elif torch.is_grad_enabled():
        scales = torch.ones(len(shifts), device=injected.shifts.device).unbind()
    return list(zip(scales, shifts, strict=True))
