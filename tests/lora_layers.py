"""What a layer with LoRA computes with, found from outside."""

from __future__ import annotations

import numpy as np
import torch


def effective(adapted, name: str) -> np.ndarray:
    """All that a layer multiplies its input by, fp64 [out, in], wherever it is kept.

    The layer is asked in fp32, to which 16-bit weights are widened without loss, so that no
    rounding of activations hides what the weights are.
    """
    layer = adapted.base.model.get_submodule(adapted._paths[name])
    width = layer.lora_A["default"].weight.shape[1]
    kept = [(value, value.data) for value in layer.get_base_layer().parameters()]
    for value, short in kept:
        value.data = short.float() if short.is_floating_point() else short
    with torch.no_grad():
        found = layer(torch.eye(width)) - layer(torch.zeros(1, width))  # GPT-2's layers have a bias
    for value, short in kept:
        value.data = short
    return found.T.double().numpy()
