"""How many demonstrations' vectors become one."""

from __future__ import annotations

import torch
from torch import Tensor


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
