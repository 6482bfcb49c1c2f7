"""Products with the narrow fp32 matrices of an update, in the arithmetic of the base that they act on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def narrow_linear(inputs: Tensor, weight: Tensor) -> Tensor:
    """``inputs @ weight.T``.

    Over bfloat16 the weight is rounded, as under torch's autocast, and not the whole of the inputs made
    fp32: that alone cost a tenth to a quarter of a training step (docs/performance.md). The sums are fp32
    inside, the result is bfloat16, the weight and its gradient stay fp32. Over float16 the product is fp32:
    its small gradients would be lost.

    Args:
        inputs: [..., size_in], in the base's dtype or fp32.
        weight: [size_out, size_in], fp32.

    Returns:
        [..., size_out], in bfloat16 where the inputs are, else in fp32.
    """
    if inputs.dtype == torch.bfloat16:
        return functional.linear(inputs, weight.to(torch.bfloat16))
    return functional.linear(inputs.float(), weight)


class NarrowLinear(nn.Linear):
    """A linear layer that shares another's weight and computes by ``narrow_linear``."""

    def __init__(self, other: nn.Module) -> None:
        weight = other.get_parameter("weight")
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = weight  # type: ignore[assignment]

    def forward(self, input: Tensor) -> Tensor:
        """The product alone: peft's A and B have no bias unless asked for."""
        return narrow_linear(input, self.weight)
