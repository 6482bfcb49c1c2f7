"""Examples written as demonstrations, and what is made of many that were read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedapp.core.checks import shown
from fedapp.core.types import Example


def principal_components(read: Tensor, eps: float) -> Tensor:
    """Unit first principal component per module over all layers, [num_layers, 2, hidden_size].

    Args:
        read: [num_demonstrations, num_layers, 2, hidden_size], fp64.
        eps: Relative rounding error of the type that the model computed them in.

    Source: I2CL's code (mean plus component); its sign, the largest entry positive, is ours.
    """
    count, layers, parts, width = read.shape
    found = []
    for part in range(parts):
        flat = read[:, :, part].reshape(count, -1)
        centred = flat - flat.mean(0)
        # The Gram matrix is [count, count]: far smaller than the covariance of all layers.
        _, vectors = torch.linalg.eigh(centred @ centred.T)
        component = vectors[:, -1] @ centred
        # Demonstrations that are all alike differ by rounding alone: that is no direction.
        if component.norm() <= eps * flat.norm():
            component = torch.zeros_like(component)
        component = component / component.norm().clamp_min(1e-30)
        found.append((component * component[component.abs().argmax()].sign()).reshape(layers, width))
    return torch.stack(found, 1)


def check_demonstration(pattern: Any) -> None:
    """Refuse a pattern that does not show an example's prompt and target.

    Raises:
        ValueError: In one line that begins with the setting.
    """
    parts = ("{prompt}", "{target}")
    fits = isinstance(pattern, str) and all(pattern.count(part) == 1 for part in parts)
    if not fits or pattern.index(parts[0]) > pattern.index(parts[1]):
        raise ValueError(
            f"adapter.build.demonstration={shown(pattern)} must be a text with {{prompt}} and then "
            "{target}, each once"
        )


def write_demonstration(pattern: str, example: Example) -> str:
    """An example as the model reads it, answer included; its texts are taken literally."""
    before, _, after = pattern.partition("{prompt}")
    middle, _, end = after.partition("{target}")
    return f"{before}{example.prompt}{middle}{example.target}{end}"
